"""Makes the features of many invented reviews: seconds, memory, and how both grow with their number.

Usage: python bench/features.py [--sizes N ...] [--folder FOLDER] [--plot FILE] [--peer N]

N reviews of N / 10 users and N / 100 items, both heavy-tailed. A rating is made of effects, a taste and
noise; a text is a vector of 384 numbers in a file that is mapped. They are split, dealt into ten folds, and
made into the features of `baseline` (means of texts) and of `mmrec` (penalties, effects and tastes of every
fold; a note is one vector here). Each size has a process of its own. Memory is anonymous, that which no file
stands behind, sampled every 10 ms; resident has mapped pages in it, which the kernel takes back when it must.

The peer is Polars: the same sums over views of train reviews by group_by, of vectors in memory as columns.
Run it on an otherwise idle machine, with room on the disk for 4 kB a review.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from mmrec.config import Config, RankerConfig, SplitConfig
from mmrec.data.schema import NO_TIME, Interactions, split_reviews
from mmrec.evidence.policies import Evidence
from mmrec.evidence.views import EvidenceViews
from mmrec.features.annotations import EvidenceSums, rating_sums
from mmrec.features.builder import FeatureBuilder
from mmrec.features.dataset import Dataset
from mmrec.features.text_regression import RatedTexts
from mmrec.llm.types import Note

WIDTH, TOPICS, BLOCK = 384, 16, 1 << 16
LIMIT = 4.0  # GB
KINDS = ("baseline", "mmrec")
FEATURES = (
    "evidence",
    *(f"{kind} {what}" for kind in KINDS for what in ("constants", "users", "items")),
)


class Invented:
    """Stands in for a corpus: ratings in memory, vectors of texts in a file, notes without a category."""

    def __init__(self, size: int, folder: Path) -> None:
        rng = np.random.default_rng(size)
        users, items = size // 10, size // 100
        user, item = _codes(size, users, rng), _codes(size, items, rng)
        effects = rng.normal(0, 0.5, users)[user] + rng.normal(0, 0.4, items)[item]
        taste, topic = (
            rng.standard_normal((many, TOPICS), dtype=np.float32) for many in (users, items)
        )
        axes, tone = rng.standard_normal((TOPICS, WIDTH), dtype=np.float32), rng.normal(size=WIDTH)
        rating = np.empty(size, dtype=np.float32)
        shape = size, WIDTH
        self.text_vectors = np.lib.format.open_memmap(
            folder / "vectors.npy", "w+", np.float16, shape
        )
        for at in range(0, size, BLOCK):
            part = slice(at, at + BLOCK)
            liking = effects[part] + (taste[user[part]] * topic[item[part]]).sum(1) / TOPICS
            rating[part] = np.clip(np.rint(4 + liking + rng.normal(0, 0.8, len(liking))), 1, 5)
            text = rng.standard_normal((len(liking), WIDTH), dtype=np.float32)
            text += topic[item[part]] @ axes / 4 + (rating[part] - 4)[:, None] * tone / 4
            self.text_vectors[part] = text / np.linalg.norm(text, axis=1, keepdims=True)
        names = (
            [f"{side} {code}" for code in range(many)]
            for side, many in (("u", users), ("i", items))
        )
        self.data = Interactions(user, item, rating, np.full(size, NO_TIME), *names)
        self.rated_texts = RatedTexts(self.data, self.text_vectors, rng.integers(1, 2000, size))
        self.notes = [Note()] * size

    def __len__(self) -> int:
        return len(self.data)

    def has_photos(self, known: np.ndarray, *, captions: bool) -> bool:
        return False

    def note_sums(self, vocabulary: Sequence[str]) -> EvidenceSums:
        ones = np.ones(len(self), dtype=np.float32)
        ratings = rating_sums(self.data.rating)
        return replace(ratings, vectors={"gist": self.text_vectors}, text_count={"gist": ones})


def _codes(size: int, entities: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) codes, each once at least; the rest by weights of which few are very large."""
    weight = rng.permutation((np.arange(entities) + 20.0) ** -0.8)
    drawn = np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(size - entities))
    return rng.permutation(np.concatenate([np.arange(entities), np.minimum(drawn, entities - 1)]))


def one_size(size: int, folder: Path, *, peer: bool) -> None:
    """All stages of one size, a line of JSON after each."""
    with _stage("invention"):
        corpus = cast(Dataset, Invented(size, folder))
        rng = np.random.default_rng(0)
    with _stage("evidence"):
        split = split_reviews(corpus.data, SplitConfig(), rng)
        evidence = Evidence.derive(corpus.data, split, "fold", 10, rng)
    print(json.dumps({"views": [len(evidence.user), len(evidence.item)]}), flush=True)
    for kind in KINDS:
        with _stage(f"{kind} constants"):
            assembler = FeatureBuilder.fit(
                corpus, evidence, Config(ranker=RankerConfig(features=kind))
            )
        with _stage(f"{kind} users"):
            user = assembler.build("user", evidence.user, corpus)
        with _stage(f"{kind} items"):
            item = assembler.build("item", evidence.item, corpus)
        del assembler, user, item
    if peer:
        _peer(corpus, evidence.fold)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    told = {"stage": name, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(told), flush=True)


def _peer(corpus: Dataset, fold: np.ndarray) -> None:
    """Sums over all views of train reviews, ours and those of Polars; they must be the same."""
    train, names = np.flatnonzero(fold > 0), [str(at) for at in range(WIDTH)]
    table = pl.DataFrame(corpus.text_vectors[train].astype(np.float32), schema=names)
    for of, entity in (("users", corpus.data.user), ("items", corpus.data.item)):
        with _stage(f"{of} summed here"):
            side = EvidenceViews.excluding(entity, train, fold)
            ours = side.sum(corpus.text_vectors)
        coded = table.with_columns(entity=pl.Series(entity[train]), fold=pl.Series(fold[train]))
        with _stage(f"{of} summed by Polars"):
            groups = coded.lazy().group_by("entity", "fold").agg(pl.col(names).sum())
            less = [pl.col(name).sum().over("entity") - pl.col(name) for name in names]
            theirs = groups.select("entity", "fold", *less).collect()
        asked = pl.DataFrame({"entity": entity[train[:1000]], "fold": fold[train[:1000]]})
        found = asked.join(theirs, on=["entity", "fold"], how="left", maintain_order="left").select(
            names
        )
        assert np.allclose(ours[side.view[train[:1000]]], found.to_numpy(), atol=1e-3)


def measured(size: int, folder: Path, *, peer: bool) -> dict[str, Any]:
    """Run one size in a process of its own; its stages, by name, with their peaks of memory (GB)."""
    command = [
        sys.executable,
        __file__,
        f"--one={size}",
        f"--folder={folder}",
        f"--peer={size * peer}",
    ]
    environment = {**os.environ, "TMPDIR": str(folder)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=environment)
    assert child.stdout is not None
    result: dict[str, Any] = {"size": size, "stages": {}}
    peak = 0.0, 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(0.01):
                peak = cast(tuple[float, float], tuple(map(max, peak, _memory(child.pid))))
            elif line := child.stdout.readline():
                told = json.loads(line)
                if name := told.pop("stage", None):
                    told |= {"anonymous": peak[0], "resident": peak[1]}
                    figures = ", ".join(f"{what} {figure:.2f}" for what, figure in told.items())
                    print(f"{size:>10,} {name:<24}{figures}", flush=True)
                    result["stages"][name], peak = told, (0.0, 0.0)
                else:
                    result |= told
            else:
                break
    if child.wait():
        sys.exit(f"the run of {size:,} reviews failed")
    made = [result["stages"][name] for name in FEATURES]
    total = {what: sum(stage[what] for stage in made) for what in ("wall", "cpu")}
    return result | total | {"anonymous": max(stage["anonymous"] for stage in made)}


def _memory(process: int) -> tuple[float, float]:
    """Anonymous and resident memory (GB) of a process; none when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except ProcessLookupError:
        return 0.0, 0.0
    told = dict(line.split(":", 1) for line in lines)
    anonymous, resident = (
        float(told.get(name, "0 kB").split()[0]) / 1e6 for name in ("RssAnon", "VmRSS")
    )
    return anonymous, resident


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds and anonymous memory over the number of reviews, both logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    sizes = np.array([result["size"] for result in results])
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in FEATURES:
        seconds = [result["stages"][name]["wall"] for result in results]
        axes[0].loglog(sizes, seconds, ".-", lw=1, label=name)
    for one, what, unit in zip(
        axes, ("wall", "anonymous"), ("seconds", "GB of anonymous memory"), strict=True
    ):
        whole = [result[what] for result in results]
        one.loglog(sizes, whole, "k.-", label="all")
        one.loglog(sizes, whole[0] * sizes / sizes[0], "k:", label="slope 1")
        one.set(xlabel="reviews", ylabel=unit)
    axes[0].loglog(sizes, [result["cpu"] for result in results], "k--", label="all, of CPU")
    axes[1].axhline(LIMIT, color="red", label=f"{LIMIT:g} GB")
    for one in axes:
        one.legend(fontsize="x-small")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Run all sizes, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument(
        "--folder", type=Path, help="for vectors and mapped arrays, in a folder of their own"
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument(
        "--peer", type=int, default=10**6, help="the size at which Polars sums too; 0: none"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one_size(arguments.one, arguments.folder, peer=arguments.peer == arguments.one)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"numpy {np.__version__}, Polars {pl.__version__}, {threads} threads")
    results = []
    for size in sorted(arguments.sizes):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results.append(measured(size, Path(folder), peer=size == arguments.peer))
    for result in results:
        size, views = result["size"], " and ".join(f"{many:,}" for many in result["views"])
        print(
            f"{size:,} reviews, {views} views: {result['wall']:.0f} s, {result['anonymous']:.2f} GB"
        )
        for of in ("users", "items") if size == arguments.peer else ():
            ours, theirs = (result["stages"][f"{of} summed {by}"] for by in ("here", "by Polars"))
            ratios = ", ".join(
                f"{what} {theirs[what] / ours[what]:.2f}" for what in ("wall", "cpu")
            )
            print(f"sums over views of {of}, Polars / ours: {ratios}")
    for small, large in itertools.pairwise(results):
        step = math.log(large["size"] / small["size"])
        growth = {
            what: math.log(large[what] / small[what]) / step
            for what in ("wall", "cpu", "anonymous")
        }
        told = ", ".join(f"{what} ^{exponent:.2f}" for what, exponent in growth.items())
        print(f"{small['size']:,} to {large['size']:,}: {told}")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
