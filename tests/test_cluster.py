"""A crew of workers on a local Ray: the same results as without it, also when rows raise and workers die."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from chat_server import Behaviour, serve
from mmrec.cache.store import Failure, Store
from mmrec.config import (
    Config,
    EncoderConfig,
    EngineConfig,
    LanguageConfig,
    RankerConfig,
    TrainingConfig,
    VisionConfig,
)
from mmrec.data.split import Split
from mmrec.errors import ConfigError, ModelError
from mmrec.features.dataset import Models
from mmrec.llm.prompts import note_task
from mmrec.llm.types import Prompt
from mmrec.pipeline import open_models, train_runs
from mmrec.ranker.dlrm import TrainingRun
from mmrec.ranker.shard import Shard
from mmrec.ranker.training import train_ranker
from mmrec.recommender.recommender import Recommender
from mmrec.vision.image_features import PhotoAnnotator
from tiny_models import tiny_blip_folder, tiny_chat_folder, tiny_resnet_folder
from toys import ranker_of, toy

ray = pytest.importorskip("ray", reason="mmrec[ray] is not installed")
cloudpickle = pytest.importorskip("ray.cloudpickle")

from mmrec.distributed.ray_cluster import connect  # noqa: E402
from mmrec.distributed.remote_models import RemoteCaptioner, RemoteExtractiveModel  # noqa: E402
from mmrec.distributed.training import train_on_workers  # noqa: E402
from mmrec.distributed.workers import Job, Rows, Work, WorkerPool, _Given, worker_pool  # noqa: E402

pytestmark = pytest.mark.xdist_group("ray")  # one local Ray, not one for each process of tests
ENGINE = EngineConfig(engine="ray", workers=2)
TEXTS = [
    "Great food, friendly staff. The soup was cold though, and it was overpriced.",
    "Terrible. We waited an hour! Never again.",
    "Cheap and cheerful; the noodles are the best in town.",
    "",
    "Quiet place with a view.",
] + [f"The waiter forgot dish number {number}. Good music, dirty tables." for number in range(90)]


@pytest.fixture(scope="module")
def crew() -> Iterator[WorkerPool]:
    """Two workers."""
    yield worker_pool(ENGINE)
    ray.shutdown()
    worker_pool.cache_clear()


def _capitals(blocks: Iterator[Rows]) -> Iterator[tuple[int, str]]:
    for block in blocks:
        for number, name in block:
            word, _, once = name.partition("@")
            if word == "raise":
                raise ValueError("cannot be done")
            if word == "die" and (not once or not Path(once).exists()):
                if once:
                    Path(once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield number, word.upper()


def upper() -> tuple[dict[str, object], Work]:
    """Capitals of names; what a name ordains besides is done first."""
    return {"kind": "capitals"}, _capitals


UPPER = Job({"kind": "capitals"}, upper)


def done(crew: WorkerPool, job: Job, names: list[str], size: int) -> dict[int, object]:
    rows = list(enumerate(names))
    results = list(crew.map_rows(job, (rows[at : at + size] for at in range(0, len(rows), size))))
    assert sorted(number for number, _ in results) == list(range(len(names)))
    return dict(results)


def test_a_row_that_raises_is_the_only_failure(crew: WorkerPool) -> None:
    names = [f"n{number}" for number in range(20)]
    names[7] = "raise"
    results = done(crew, UPPER, names, 5)
    failed = results.pop(7)
    assert isinstance(failed, Failure)
    assert not failed.final
    assert "ValueError: cannot be done" in failed.reason
    assert results == {at: name.upper() for at, name in enumerate(names) if at != 7}


def test_a_block_whose_worker_dies_is_done_by_another(crew: WorkerPool, tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(12)]
    names[4] = f"die@{tmp_path / 'once'}"
    results = done(crew, UPPER, names, 3)
    assert (tmp_path / "once").exists()
    assert results == {at: name.partition("@")[0].upper() for at, name in enumerate(names)}


def test_a_row_over_which_workers_die_is_given_up(crew: WorkerPool) -> None:
    names = ["a", "die", "b", "c", "d"]
    results = done(crew, UPPER, names, 1)
    failed = results.pop(1)
    assert isinstance(failed, Failure)
    assert "ActorDiedError" in failed.reason
    assert results == {0: "A", 2: "B", 3: "C", 4: "D"}


def test_a_death_is_laid_to_the_block_that_was_given_first(crew: WorkerPool) -> None:
    done(crew, UPPER, ["a"], 1)
    worker = crew._ready[0]
    rows: list[Rows] = [[(0, "die")], [(1, "b")]]
    under_way = {worker.work.remote(UPPER, one): _Given(one, worker) for one in rows}
    first, second = under_way
    ray.wait([first, second], num_returns=2)
    again: deque[_Given] = deque()
    assert list(crew._results(second, under_way, again)) == []
    assert [(one.rows, one.deaths) for one in again] == [(rows[1], 0)]
    assert list(crew._results(first, under_way, again)) == []
    assert [(one.rows, one.deaths) for one in again] == [(rows[1], 0), (rows[0], 1)]


def test_rows_that_all_raise_end_the_run_every_time(crew: WorkerPool) -> None:
    for _ in range(2):
        with pytest.raises(ModelError, match="failed on 20 rows in a row"):
            done(crew, UPPER, ["raise"] * 30, 10)


def test_several_threads_may_ask_at_once(crew: WorkerPool) -> None:
    names = [f"n{number}" for number in range(8)]
    crew.stop_workers()  # so that all of them wait for the same workers
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(done, crew, UPPER, names, 2) for _ in range(3)]
    assert all(one.result() == {at: name.upper() for at, name in enumerate(names)} for one in asked)


def test_where_another_process_has_all_of_it_there_is_nothing_to_ask(crew: WorkerPool) -> None:
    reader = open_models(Config(engine=ENGINE), store=Store()).annotator.model
    assert isinstance(reader, RemoteExtractiveModel)
    assert list(reader.generate(iter([]))) == []


def test_a_worker_with_another_model_is_refused(crew: WorkerPool) -> None:
    def other() -> tuple[dict[str, object], Work]:
        return {"kind": "vector", "revision": "another"}, _capitals

    with pytest.raises(ModelError, match="its revision differs"):
        done(crew, Job({"kind": "vector", "revision": "mine"}, other), ["a"], 1)


def test_an_error_that_has_a_mend_is_told_as_it_is(crew: WorkerPool) -> None:
    def missing() -> tuple[dict[str, object], Work]:
        raise ModelError("bring the weights with `hf download`")

    with pytest.raises(ModelError, match=r"^bring the weights"):
        done(crew, Job({"kind": "missing"}, missing), ["a"], 1)


def pids(crew: WorkerPool) -> set[int]:
    """Processes of the workers."""

    def who() -> tuple[dict[str, object], Work]:
        return maker, lambda blocks: ((at, os.getpid()) for block in blocks for at, _ in block)

    maker: dict[str, object] = {"kind": "pid"}
    found = [done(crew, Job(maker, who), [""] * 8, 1).values() for _ in range(3)]
    return {int(str(pid)) for some in found for pid in some}


def opened(folder: Path, engine: EngineConfig, **parts: Any) -> Models:
    """Models on a store of their own."""
    return open_models(Config(engine=engine, **parts), store=Store(folder / f"{engine.engine}.sqlite"))


class Assassin(threading.Thread):
    """Kills a worker with -9 as soon as a store holds so many results of a kind."""

    def __init__(self, crew: WorkerPool, store: Path | None, kind: str, most: int) -> None:
        super().__init__(daemon=True)
        self.victim, self.store, self.kind, self.most = min(pids(crew)), store, kind, most
        self.found = 0

    def run(self) -> None:
        store = Store(self.store)
        while (found := store.counts().get(self.kind, 0)) < self.most:
            time.sleep(0.01)
        os.kill(self.victim, signal.SIGKILL)
        self.found = found
        store.close()


def test_notes_and_vectors_are_those_of_one_process(
    minilm: None, crew: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteExtractiveModel, "chunk_size", 16)
    # In bf16 a text's vector hangs a little on the texts that are encoded beside it.
    exact = EncoderConfig(precision="fp32")
    far, near = (opened(tmp_path, engine, encoder=exact) for engine in (ENGINE, EngineConfig()))
    assert far.encoder.provenance == near.encoder.provenance
    assassin = Assassin(crew, far.store.path, "note", 16)
    assassin.start()
    notes = far.annotator.write_notes(TEXTS)
    assassin.join()
    assert 16 <= assassin.found < len(TEXTS) - 1
    assert assassin.victim not in pids(crew)
    assert notes == near.annotator.write_notes(TEXTS)
    assert far.store.counts() == near.store.counts()
    before = far.store.counts()
    far.encoder.encode([point for note in notes for point in (*note.likes, *note.dislikes)])
    assert far.store.counts() == before, "what a worker had encoded was encoded again"
    vectors, own = far.encoder.encode(TEXTS), near.encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, own, rtol=0, atol=1e-3)
    again = opened(tmp_path, ENGINE, encoder=exact)
    monkeypatch.setattr(WorkerPool, "map_rows", None)
    assert again.annotator.write_notes(TEXTS) == notes


def test_what_is_paid_is_asked_once_whoever_dies(
    minilm: None, crew: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    texts = [text for text in TEXTS if text]
    with serve(Behaviour(latency=0.02)) as server:
        language = LanguageConfig(llm=f"openai:test-model@{server.url}", in_flight=8)
        far, near = opened(tmp_path, ENGINE, language=language), opened(tmp_path, EngineConfig())
        assassin = Assassin(crew, far.store.path, "note", 20)
        assassin.start()
        notes = far.annotator.write_notes(texts)
        assassin.join()
        assert assassin.victim not in pids(crew)
        words = [note.gist for note in notes]
        assassin = Assassin(crew, far.store.path, "vector", 1)
        assassin.start()
        vectors = far.encoder.encode(words)
        assassin.join()
        asked = server.stats()["requests"]
        assert opened(tmp_path, ENGINE, language=language).annotator.write_notes(texts) == notes
        assert server.stats()["requests"] == asked == len(set(texts))
    cosine = (vectors.astype(np.float64) * near.encoder.encode(words)).sum(1)
    assert cosine.min() > 0.999


def photos(folder: Path) -> list[str]:
    """Photos of noise, and a broken one."""
    rng, paths = np.random.default_rng(0), []
    for number in range(20):
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(rng.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(paths[-1])
    Path(paths[3]).write_bytes(b"no photo")
    return paths


def test_captions_and_image_vectors_are_those_of_one_process(crew: WorkerPool, tmp_path: Path) -> None:
    blip, resnet = tiny_blip_folder(tmp_path / "blip"), tiny_resnet_folder(tmp_path / "resnet")
    vision = VisionConfig(captioner=f"blip:{blip}", image_model=str(resnet))
    captions, vectors = [], []
    for engine in (ENGINE, EngineConfig()):
        models = opened(tmp_path, engine, vision=vision)
        pictures, paths = PhotoAnnotator(models.store, 10**6), photos(tmp_path)
        captions.append(pictures.caption_photos(paths, models.captioner))
        vectors.append(pictures.encode_photos(paths, models.image_encoder))
        assert isinstance(models.captioner, RemoteCaptioner) == (engine is ENGINE)
    assert captions[0] == captions[1]
    assert captions[0].failed["photo cannot be read"] == 1
    assert any(captions[0].text.values())
    assert list(vectors[0]) == list(vectors[1])
    for path, own in vectors[1].items():
        np.testing.assert_array_equal(vectors[0][path], own)


def test_an_instruct_model_on_workers_says_the_same(crew: WorkerPool, tmp_path: Path) -> None:
    language = LanguageConfig(llm=f"transformers:{tiny_chat_folder(tmp_path / 'chat')}")
    answers = []
    for engine in (ENGINE, EngineConfig()):
        models = opened(tmp_path, engine, language=language)
        asks = [(at, Prompt(note_task("restaurant"), (text,))) for at, text in enumerate(TEXTS[:8]) if text]
        answers.append(dict(models.annotator.model.generate(iter([asks[:4], asks[4:]]))))
    assert answers[0] == answers[1]


def learned(share: Shard, mortal: Path | None = None) -> tuple[dict[str, np.ndarray], list[float]]:
    """Weights and losses of two runs in double precision; a worker dies at its ninth batch, once."""
    torch.set_default_dtype(torch.float64)
    deal, batches = share.local_rows, count(1)

    def fatal(rows: torch.Tensor) -> torch.Tensor:
        if mortal is not None and next(batches) == 9 and not mortal.exists():
            mortal.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return deal(rows)

    share.local_rows = fatal  # type: ignore[method-assign]
    try:
        task, runs = (
            toy(dtype=np.float64),
            [TrainingRun(5, 0.3, (0.4, 0.6)), TrainingRun(6, 0.0, (0.5, 0.5))],
        )
        ranker = ranker_of(task, runs, linear=True)
        training = TrainingConfig(learning_rate=0.02, batch_size=33, epochs=6, cold_start_dropout=0.1)
        course = train_ranker(ranker, runs, task, RankerConfig(reduction="staged"), training, 3, share)
    finally:
        torch.set_default_dtype(torch.float32)
    losses = [loss for histories in course.values() for history in histories for loss in history.loss]
    return {name: value.numpy() for name, value in ranker.state_dict().items()}, losses


def test_workers_train_the_model_of_one_process_also_when_one_dies(crew: WorkerPool, tmp_path: Path) -> None:
    alone, losses = learned(Shard())
    far, far_losses = train_on_workers(ENGINE, 256, partial(learned, mortal=tmp_path / "died"))
    assert (tmp_path / "died").exists()
    np.testing.assert_allclose(far_losses, losses, rtol=1e-9)
    for name, value in alone.items():
        np.testing.assert_allclose(far[name], value, rtol=0, atol=1e-9)


def test_a_model_is_sent_trained_and_brought_back(
    fitted: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(config: EngineConfig, size: int, work: Callable[[Shard], Any]) -> Any:
        return cloudpickle.loads(cloudpickle.dumps(work))(Shard())

    monkeypatch.setattr("mmrec.distributed.training.train_on_workers", sent)
    known, assembler = fitted._known, fitted._model.builder
    label, rows = known.data.rating >= 4, np.arange(len(known.data.rating))
    split, runs = (
        Split(rows[:300], rows[300:400], rows[400:]),
        [TrainingRun(1, 0.3, (0.4, 0.6)), TrainingRun(2, 0.3, (0.4, 0.6))],
    )
    rankers = []
    for engine in (ENGINE, EngineConfig()):
        config = assembler.config.model_copy(update={"engine": engine})
        own = assembler.model_copy(update={"config": config})
        rankers.append(train_runs(own, known.features, label, split, runs)[0])
    far, near = (ranker.state_dict() for ranker in rankers)
    assert all(torch.equal(far[name], near[name]) for name in near)
    assert not rankers[0].training


def test_small_batches_are_not_dealt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmrec.distributed.training.connect", None)
    assert train_on_workers(ENGINE, 255, lambda share: type(share)) is Shard


def test_without_ray_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmrec\[ray\]'"):
        connect(ENGINE)


def test_an_address_without_ray_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"are for --engine ray"):
        EngineConfig(address="10.0.0.1:6379")


def test_where_models_run_is_neither_saved_nor_compared() -> None:
    assert Config(engine=ENGINE).model_dump_json() == Config().model_dump_json()
    assert Config.model_validate_json(Config(engine=ENGINE).model_dump_json()).engine.engine == "local"
