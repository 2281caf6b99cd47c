"""Makes the features of many invented reviews: seconds, memory, and how both grow with the number of reviews.

Usage: python bench/features.py [--sizes N ...] [--folder FOLDER] [--plot FILE] [--peer N]

N reviews of N / 10 users and N / 100 items, both heavy-tailed; a rating is the sum of effects, a taste and noise;
a text is a vector of 384 numbers, in a file that is mapped. They are split, dealt into ten folds, and made into
the features of `baseline` (means of texts) and of `mmrec` (penalties, effects and tastes of every fold; its notes
are one vector a review here). Each size has a process of its own. Memory is anonymous memory (what no file stands
behind), sampled every 10 ms; resident memory has mapped pages in it, which the kernel takes back when it needs them.

The peer is Polars: sums over the views of train reviews, which are all sums of groups less those of a fold.
Run it on an otherwise idle machine, with room on the disk for 4 kB a review.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from mmrec.config import Config, RankerConfig, SplitConfig
from mmrec.corpus import Corpus
from mmrec.evidence import Evidence, Side
from mmrec.language.base import Note
from mmrec.learning import Assembler
from mmrec.lens import Reviewed
from mmrec.profiles import NoteArrays
from mmrec.reviews.split import split_reviews
from mmrec.reviews.table import NO_TIME, Interactions

WIDTH, TOPICS, BLOCK = 384, 16, 1 << 16
LIMIT = 4.0  # GB
KINDS = ("baseline", "mmrec")
FEATURES = ("evidence", *(f"{kind} {what}" for kind in KINDS for what in ("constants", "users", "items")))


class Invented:
    """Stands in for a corpus: ratings in memory, vectors of texts in a file."""

    def __init__(self, size: int, folder: Path) -> None:
        rng = np.random.default_rng(size)
        user, item = _codes(size, size // 10, rng), _codes(size, size // 100, rng)
        taste, topic = rng.normal(size=(size // 10, TOPICS)), rng.normal(size=(size // 100, TOPICS))
        effects = rng.normal(0, 0.5, size // 10)[user] + rng.normal(0, 0.4, size // 100)[item]
        axes, tone = rng.normal(size=(TOPICS, WIDTH)).astype(np.float32), rng.normal(size=WIDTH)
        self.text_vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (size, WIDTH))
        rating = np.empty(size, dtype=np.float32)
        for at in range(0, size, BLOCK):
            part = slice(at, at + BLOCK)
            affinity = (taste[user[part]] * topic[item[part]]).sum(1) / TOPICS
            rating[part] = np.clip(
                np.rint(4 + effects[part] + affinity + rng.normal(0, 0.8, len(affinity))), 1, 5
            )
            text = rng.standard_normal((len(affinity), WIDTH), dtype=np.float32)
            text += topic[item[part]].astype(np.float32) @ axes / 4 + (rating[part] - 4)[:, None] * tone / 4
            self.text_vectors[part] = text / np.linalg.norm(text, axis=1, keepdims=True)
        names = (
            [f"user {code}" for code in range(size // 10)],
            [f"item {code}" for code in range(size // 100)],
        )
        self.data = Interactions(user, item, rating, np.full(size, NO_TIME), *names)
        self.reviewed = Reviewed(self.data, self.text_vectors, rng.integers(1, 2000, size))
        self.notes = _Wordless()

    def __len__(self) -> int:
        return len(self.data)

    def pictured(self, known: np.ndarray, *, captions: bool) -> bool:
        return False

    def note_arrays(self, vocabulary: Sequence[str]) -> NoteArrays:
        spoken, price = np.ones(len(self), dtype=bool), np.zeros((len(self), 4), dtype=np.float32)
        return NoteArrays({"gist": self.text_vectors}, {"gist": spoken}, price, price[:, :0])


class _Wordless:
    """Notes without a category."""

    def __getitem__(self, row: int) -> Note:
        return _NOTE


_NOTE = Note()


def _codes(size: int, entities: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) codes, each once at least; the rest by weights of which few are very large."""
    weight = rng.permutation((np.arange(entities) + 20.0) ** -0.8)
    drawn = np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(size - entities))
    return rng.permutation(np.concatenate([np.arange(entities), np.minimum(drawn, entities - 1)]))


def one_size(size: int, folder: Path, *, peer: bool) -> None:
    """All stages of one size, a line of JSON after each."""
    with _stage("invent"):
        corpus = cast(Corpus, Invented(size, folder))
        rng = np.random.default_rng(0)
    with _stage("evidence"):
        split = split_reviews(corpus.data, SplitConfig(), rng)
        evidence = Evidence.derive(corpus.data, split, "fold", 10, rng)
    print(json.dumps({"views": [len(evidence.user), len(evidence.item)]}), flush=True)
    for kind in KINDS:
        with _stage(f"{kind} constants"):
            assembler = Assembler.of(corpus, evidence, Config(ranker=RankerConfig(features=kind)))
        with _stage(f"{kind} users"):
            user = assembler.user(evidence.user, corpus)
        with _stage(f"{kind} items"):
            item = assembler.item(evidence.item, corpus)
        del assembler, user, item
    if peer:
        _peer(corpus, evidence)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    start, spent = time.perf_counter(), time.process_time()
    yield
    seconds = time.perf_counter() - start, time.process_time() - spent
    print(json.dumps({"stage": name, "wall": seconds[0], "cpu": seconds[1]}), flush=True)


def _peer(corpus: Corpus, evidence: Evidence) -> None:
    """Sums over all views of train reviews, ours and those of Polars, which has the vectors in memory."""
    train = np.flatnonzero(evidence.fold > 0)
    fold, names = evidence.fold, [f"{at}" for at in range(WIDTH)]
    vectors = corpus.text_vectors[train].astype(np.float32)
    table = pl.DataFrame(vectors, schema=names, orient="row")
    for of, entity in (("users", corpus.data.user), ("items", corpus.data.item)):
        with _stage(f"peer: ours, {of}"):
            side = Side.excluding(entity, train, fold)
            ours = side.sum(corpus.text_vectors)
        coded = table.with_columns(entity=pl.Series(entity[train]), fold=pl.Series(fold[train]))
        with _stage(f"peer: Polars, {of}"):
            groups = coded.lazy().group_by("entity", "fold").agg(pl.col(names).sum())
            less = [pl.col(name).sum().over("entity") - pl.col(name) for name in names]
            theirs = groups.select("entity", "fold", *less).collect()
        keys = side.view[train[:1000]]
        at = {key: row for row, key in enumerate(theirs.select("entity", "fold").iter_rows())}
        rows = [
            at[key] for key in zip(entity[train[:1000]].tolist(), fold[train[:1000]].tolist(), strict=True)
        ]
        assert np.allclose(ours[keys], theirs[rows].select(names).to_numpy(), atol=1e-3)


def measured(size: int, folder: Path, *, peer: bool) -> dict[str, object]:
    """Run one size in a process of its own; its stages with their peaks of memory (GB)."""
    command = [sys.executable, __file__, "--one", str(size), "--folder", str(folder), *["--peer"] * peer]
    environment = {**os.environ, "TMPDIR": str(folder)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=environment)
    assert child.stdout is not None
    stages, views, peak = [], [], [0.0, 0.0]
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(0.01):
                peak = [max(*both) for both in zip(peak, _memory(child.pid), strict=True)]
            elif line := child.stdout.readline():
                told = json.loads(line)
                views = told.get("views", views)
                if "stage" in told:
                    stages.append({**told, "anonymous": peak[0], "resident": peak[1]})
                    print(f"{size:>10,} {_row(stages[-1])}", flush=True)
                    peak = [0.0, 0.0]
            else:
                break
    if child.wait():
        sys.exit(f"the run of {size:,} reviews failed")
    return {"size": size, "views": views, "stages": stages}


def _memory(process: int) -> tuple[float, float]:
    """Anonymous and resident memory (GB) of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except ProcessLookupError:
        return 0.0, 0.0
    told = dict(line.split(":", 1) for line in lines)
    kilobytes = [float(told.get(name, "0 kB").split()[0]) for name in ("RssAnon", "VmRSS")]
    return kilobytes[0] / 1e6, kilobytes[1] / 1e6


def _row(stage: dict[str, float | str]) -> str:
    figures = "{wall:8.1f} s {cpu:8.1f} s of CPU {anonymous:6.2f} GB {resident:6.2f} GB resident".format(
        **stage
    )
    return f"{stage['stage']:<30}{figures}"


def plot(results: Sequence[dict], path: Path) -> None:
    """Seconds and anonymous memory over the number of reviews, both logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    sizes = np.array([one["size"] for one in results], dtype=float)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in FEATURES:
        seconds = [sum(one["wall"] for one in result["stages"] if one["stage"] == name) for result in results]
        left.loglog(sizes, seconds, ".-", label=name)
    totals = np.array([_total(result) for result in results])
    left.loglog(sizes, totals[:, 0], "k.-", label="all")
    left.loglog(sizes, totals[0, 0] * sizes / sizes[0], "k:", label="slope 1")
    left.set(xlabel="reviews", ylabel="seconds")
    left.legend(fontsize="x-small")
    right.loglog(sizes, totals[:, 1], "k.-", label="anonymous memory, peak")
    right.loglog(sizes, totals[0, 1] * sizes / sizes[0], "k:", label="slope 1")
    right.axhline(LIMIT, color="red", label=f"{LIMIT:g} GB")
    right.set(xlabel="reviews", ylabel="GB")
    right.legend(fontsize="x-small")
    figure.savefig(path, dpi=110)


def _total(result: dict) -> tuple[float, float]:
    """Seconds, and peak of anonymous memory (GB), of all that makes features."""
    made = [one for one in result["stages"] if one["stage"] in FEATURES]
    return sum(one["wall"] for one in made), max(one["anonymous"] for one in made)


def main() -> None:
    """Run all sizes, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument(
        "--folder", type=Path, help="for vectors and mapped arrays; a temporary one by default"
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument(
        "--peer", type=int, nargs="?", const=1, default=10**6, help="size with a peer; 0: none"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one_size(arguments.one, arguments.folder, peer=arguments.peer == 1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"numpy {np.__version__}, polars {pl.__version__}, threads {os.environ.get('OMP_NUM_THREADS', 'all')}"
    )
    results = []
    for size in sorted(arguments.sizes):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results.append(measured(size, Path(folder), peer=size == arguments.peer))
    for small, large in zip(results, results[1:], strict=False):
        growth = [math.log(b / a) for a, b in zip(_total(small), _total(large), strict=True)]
        step = math.log(large["size"] / small["size"])
        print(
            f"{small['size']:,} to {large['size']:,}: time ^{growth[0] / step:.2f}, memory ^{growth[1] / step:.2f}"
        )
    for result in results:
        seconds, memory = _total(result)
        print(
            f"{result['size']:,} reviews, {result['views']} views: {seconds:.0f} s, {memory:.2f} GB anonymous"
        )
        wall = {one["stage"]: one["wall"] for one in result["stages"]}
        for of in ("users", "items"):
            if f"peer: ours, {of}" in wall:
                ratio = wall[f"peer: Polars, {of}"] / wall[f"peer: ours, {of}"]
                print(f"sums over views of {of}, Polars / ours: {ratio:.2f}")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
