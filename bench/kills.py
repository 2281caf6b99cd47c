"""Kills a process at random moments, and checks what it leaves: `python bench/kills.py save --kills 100`.

save: a process that saves one model over another is killed with SIGKILL; each time the folder must
hold one of the two, whole, and what else lies in it. One save at the end must remove what was left.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from mmrec import Config, Recommender, read_reviews
from mmrec.config import RankerConfig, ReadConfig, TrainingConfig
from mmrec.data.synthetic.city import write_sample_city
from mmrec.recommender.loading import load_recommender
from mmrec.recommender.persistence import SavedRecommender

OTHERS = {
    "live.sqlite": b"reviews",
    "live.sqlite-wal": b"more",
    "notes.md": b"# Ours",
    "keep/me": b"!",
}


def fingerprint(saved: SavedRecommender) -> str:
    """A digest of weights, features, tables and figures."""
    digest = sha256(repr(saved.evaluation).encode())
    for name, tensor in sorted(saved.model.ranker.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    for entity in (saved.features.user, saved.features.item):
        digest.update(entity.dense.tobytes())
    for name, array in sorted(saved.retrieval.arrays().items()):
        digest.update(name.encode() + array.tobytes())
    for table in (saved.reviews.table, saved.reviews.items):
        digest.update(table.drop("photos").write_json().encode())
    digest.update(repr(saved.notes).encode())
    return digest.hexdigest()


def save_when_told(sources: list[Path], folder: Path, pipe: Connection) -> None:
    """What the killed process does: load the models, say how long a save takes, and save one."""
    torch.set_num_threads(1)
    models = [Recommender.load(source) for source in sources]
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        models[0].save(name)
        start = time.perf_counter()
        models[0].save(name)
        pipe.send(time.perf_counter() - start)
    models[pipe.recv()].save(folder)


def kill_saves(sources: list[Path], folder: Path, kills: int, seed: int = 0) -> Counter[str]:
    """Kill `kills` saves of either of two models in a folder, and count what was left."""
    prints = [fingerprint(load_recommender(source)) for source in sources]
    Recommender.load(sources[0]).save(folder)
    for name, content in OTHERS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    rng, counts, context = random.Random(seed), Counter[str](), get_context("spawn")

    def start() -> tuple[SpawnProcess, Connection]:
        pipe, other = context.Pipe()
        process = context.Process(target=save_when_told, args=(sources, folder, other))
        process.start()
        return process, pipe

    waiting = [start()]
    for kill in range(kills):
        if kill < kills - 1:  # it loads meanwhile
            waiting.append(start())
        process, pipe = waiting.pop(0)
        seconds = pipe.recv()
        before = prints.index(fingerprint(load_recommender(folder)))
        pipe.send(1 - before)  # always the other one
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        process.join()
        after = fingerprint(load_recommender(folder))
        state = "the old model" if after == prints[before] else "the new model"
        counts[state if after in prints else "a mixture"] += 1
        counts["killed during the save"] += process.exitcode != 0
        counts["left files of a model behind"] += len([*folder.glob("model-*")]) > 1
        for name, content in OTHERS.items():
            counts[f"{name} lost"] += (folder / name).read_bytes() != content
        print(f"\r{kill + 1}/{kills}", end="", file=sys.stderr, flush=True)
    Recommender.load(sources[0]).save(folder)
    counts["folders of models after the next save"] = len([*folder.glob("model-*")])
    return +counts


def small_models(folder: Path) -> list[Path]:
    """Two saved models that differ in everything."""
    folders = []
    for seed in (0, 1):
        city = folder / f"city-{seed}"
        data = write_sample_city(city, seed=seed, users=80, items=30, reviews=700)
        read, ranker = ReadConfig(items=city / "places.jsonl"), RankerConfig(fallback=False)
        config = Config(seed=seed, read=read, ranker=ranker, training=TrainingConfig(epochs=2))
        config = config.model_copy(update={"store": folder / "store.sqlite"})
        recommender = Recommender(config).fit(read_reviews(data, read))
        folders.append(recommender.save(folder / f"model-of-{seed}"))
    return folders


def main() -> None:
    """Kill, and print the counts; status 1 if a mixture was left or anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=["save"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        sources = small_models(Path(name))
        counts = kill_saves(sources, Path(name) / "model", options.kills, options.seed)
    print()
    for subject, count in sorted(counts.items()):
        print(f"{count:4} {subject}")
    sys.exit(counts["a mixture"] > 0 or any(subject.endswith("lost") for subject in counts))


if __name__ == "__main__":
    main()
