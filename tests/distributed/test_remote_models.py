"""Models on workers: the same results as in one process, also when workers die; paid calls are made once."""

from pathlib import Path

import numpy as np
from PIL import Image
from ray_pool import ENGINE, Killer, worker_pids

from chat_server import Behaviour, serve
from mmrec.cache.store import Store
from mmrec.config import AnnotationConfig, Config, EncoderConfig, EngineConfig, LanguageConfig, VisionConfig
from mmrec.distributed import remote_models
from mmrec.distributed.workers import WorkerPool
from mmrec.llm.annotator import build_task
from mmrec.llm.types import Prompt
from mmrec.pipeline import open_models
from mmrec.vision.image_features import PhotoAnnotator
from tiny_models import tiny_blip_folder, tiny_chat_folder, tiny_resnet_folder

LOCAL = EngineConfig()
TEXTS = ["Great food, friendly staff. The soup was cold though, and it was overpriced.", ""]
TEXTS += ["Terrible. We waited an hour! Never again.", "Quiet place with a view."]
TEXTS += [f"The waiter forgot dish number {number}. Good music, dirty tables." for number in range(36)]


def open_with(folder, engine, **parts):
    """Models with a store of their own."""
    return open_models(Config(engine=engine, **parts), store=Store(folder / f"{engine.engine}.sqlite"))


def test_notes_and_vectors_equal_those_of_one_process_although_a_worker_is_killed(
    minilm, pool, tmp_path, monkeypatch
):
    monkeypatch.setattr(remote_models._RemoteExtractiveModel, "chunk_size", 8)
    # In bf16 a vector depends a little on the texts of the same batch. Places have a small vocabulary.
    parts = {"encoder": EncoderConfig(precision="fp32"), "annotation": AnnotationConfig(item_kind="place")}
    remote, local = (open_with(tmp_path, engine, **parts) for engine in (ENGINE, LOCAL))
    assert remote.encoder.provenance == local.encoder.provenance
    # The local ones first: they convert the encoder, for the workers too.
    expected = local.annotator.write_notes(TEXTS)
    killer = Killer(pool, remote.store.path, 8)
    notes = remote.annotator.write_notes(TEXTS)
    killer.join()
    assert 8 <= killer.count < len(TEXTS) - 1
    assert killer.victim not in worker_pids(pool)
    assert notes == expected
    assert any(note.likes for note in notes)
    counts = remote.store.counts()
    assert counts == local.store.counts()
    remote.encoder.encode([point for note in notes for point in (*note.likes, *note.dislikes)])
    assert remote.store.counts() == counts, "a vector of a worker was not stored"
    vectors = remote.encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, local.encoder.encode(TEXTS), rtol=0, atol=1e-3)
    again = open_with(tmp_path, ENGINE, **parts)
    monkeypatch.setattr(WorkerPool, "map_rows", None)
    assert again.annotator.write_notes(TEXTS) == notes


def test_paid_calls_are_made_once_although_a_worker_is_killed(minilm, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    texts = [text for text in TEXTS if text]
    with serve(Behaviour(latency=0.02)) as server:
        parts = {"language": LanguageConfig(llm=f"openai:test-model@{server.url}", in_flight=8)}
        remote, local = (open_with(tmp_path, engine, **parts) for engine in (ENGINE, LOCAL))
        killer = Killer(pool, remote.store.path, 20)
        notes = remote.annotator.write_notes(texts)
        killer.join()
        assert killer.victim not in worker_pids(pool)
        gists = [note.gist for note in notes]
        vectors = remote.encoder.encode(gists)
        requests = server.requests
        assert open_with(tmp_path, ENGINE, **parts).annotator.write_notes(texts) == notes
        assert server.requests == requests == len(set(texts))
    cosine = (vectors.astype(np.float64) * local.encoder.encode(gists)).sum(1)
    assert cosine.min() > 0.999


def test_captions_and_image_vectors_equal_those_of_one_process(pool, tmp_path):
    # One block for each model, so that only one worker has to load them.
    rng, paths = np.random.default_rng(0), [str(tmp_path / f"{number}.png") for number in range(8)]
    for path in paths:
        Image.fromarray(rng.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(path)
    Path(paths[3]).write_bytes(b"no photo")
    blip, resnet = tiny_blip_folder(tmp_path / "blip"), tiny_resnet_folder(tmp_path / "resnet")
    vision = VisionConfig(captioner=f"blip:{blip}", image_model=str(resnet))
    captions, vectors = [], []
    for engine in (ENGINE, LOCAL):
        models = open_with(tmp_path, engine, vision=vision)
        for model in (models.captioner, models.image_encoder):
            assert isinstance(model, remote_models._RemoteModel) == (engine is ENGINE)
        annotator = PhotoAnnotator(models.store, 10**6)
        captions.append(annotator.caption_photos(paths, models.captioner))
        vectors.append(annotator.encode_photos(paths, models.image_encoder))
    assert captions[0] == captions[1]
    assert captions[0].failures["photo cannot be read"] == 1
    assert any(captions[0].texts.values())
    remote, local = vectors
    assert list(remote) == list(local) == [*paths[:3], *paths[4:]]
    np.testing.assert_array_equal(list(remote.values()), list(local.values()))


def test_an_instruct_model_on_workers_gives_the_same_answers(pool, tmp_path):
    language = LanguageConfig(llm=f"transformers:{tiny_chat_folder(tmp_path / 'chat')}")
    task, answers = build_task("note", "restaurant"), []
    prompts = [(number, Prompt(task, (text,))) for number, text in enumerate(TEXTS[:8]) if text]
    for engine in (ENGINE, LOCAL):
        model = open_with(tmp_path, engine, language=language).annotator.model
        answers.append(dict(model.generate(iter([prompts]))))
    assert len(answers[0]) == 7
    assert answers[0] == answers[1]
