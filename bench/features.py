"""Builds the features of many invented reviews: seconds, memory, and how both grow.

Usage: python bench/features.py [--sizes N ...] [--folder FOLDER] [--plot FILE] [--peer N]

N reviews of N / 10 users and N / 100 items, both with heavy tails. A rating is a sum of effects, a taste and
noise; a text is a vector of 384 numbers in a file that is mapped. Reviews are split, put into ten folds, and
made into the features of `baseline` (means of texts) and of `mmrec` (penalties, effects and factors of every
fold; a note is one vector here). Each size has a process of its own. Anonymous memory, without a file behind
it, is sampled every 10 ms; resident memory includes mapped pages, which the kernel takes back when it must.

The peer is Polars: the same sums over views of train reviews by group_by, of vectors in memory as columns.
Run it on an idle machine, with room on the disk for 4 kB a review.
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
from mmrec.evidence.policies import Evidence, EvidenceViews
from mmrec.features.builder import FeatureBuilder
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import RatedTexts
from mmrec.features.tables import EvidenceSums, rating_sums
from mmrec.llm.types import Note

TEXT_SIZE, FACTORS, BLOCK = 384, 16, 1 << 16
MODELS = ("baseline", "mmrec")
STAGES = ["evidence"]
STAGES += [f"{model} {stage}" for model in MODELS for stage in ("constants", "users", "items")]


class InventedDataset:
    """Stands in for a `Dataset`: ratings in memory, text vectors in a file, notes without categories."""

    def __init__(self, size: int, folder: Path) -> None:
        rng = np.random.default_rng(size)
        users, items = size // 10, size // 100
        user, item = heavy_tailed_codes(size, users, rng), heavy_tailed_codes(size, items, rng)
        effects = rng.normal(0, 0.5, users)[user] + rng.normal(0, 0.4, items)[item]
        user_factors = rng.standard_normal((users, FACTORS), dtype=np.float32)
        item_factors = rng.standard_normal((items, FACTORS), dtype=np.float32)
        topics = rng.standard_normal((FACTORS, TEXT_SIZE), dtype=np.float32)
        praise = rng.normal(size=TEXT_SIZE)
        rating, path = np.empty(size, dtype=np.float32), folder / "vectors.npy"
        self.text_vectors = np.lib.format.open_memmap(path, "w+", np.float16, (size, TEXT_SIZE))
        for first in range(0, size, BLOCK):
            rows = slice(first, first + BLOCK)
            taste = (user_factors[user[rows]] * item_factors[item[rows]]).sum(1) / FACTORS
            noise = rng.normal(0, 0.8, len(taste))
            rating[rows] = np.clip(np.rint(4 + effects[rows] + taste + noise), 1, 5)
            text = rng.standard_normal((len(taste), TEXT_SIZE), dtype=np.float32)
            text += item_factors[item[rows]] @ topics / 4 + (rating[rows] - 4)[:, None] * praise / 4
            self.text_vectors[rows] = text / np.linalg.norm(text, axis=1, keepdims=True)
        names = [f"u {code}" for code in range(users)], [f"i {code}" for code in range(items)]
        self.data = Interactions(user, item, rating, np.full(size, NO_TIME), *names)
        self.rated_texts = RatedTexts(self.data, self.text_vectors, rng.integers(1, 2000, size))
        self.notes = [Note()] * size

    def __len__(self) -> int:
        return len(self.data)

    def has_photos(self, rows: np.ndarray, *, captions: bool) -> bool:
        return False

    def note_sums(self, vocabulary: Sequence[str]) -> EvidenceSums:
        ones = np.ones(len(self), dtype=np.float32)
        sums = rating_sums(self.data.rating)
        return replace(sums, vectors={"gist": self.text_vectors}, text_count={"gist": ones})


def heavy_tailed_codes(size: int, entities: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) codes, each once at least; the rest by weights of which few are very large."""
    weight = rng.permutation((np.arange(entities) + 20.0) ** -0.8)
    drawn = np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(size - entities))
    return rng.permutation(np.concatenate([np.arange(entities), np.minimum(drawn, entities - 1)]))


def build_all(size: int, folder: Path, *, peer: bool) -> None:
    """Run all stages of one size; print a line of JSON after each."""
    with stage("invention"):
        dataset = cast(Dataset, InventedDataset(size, folder))
        rng = np.random.default_rng(0)
    with stage("evidence"):
        split = split_reviews(dataset.data, SplitConfig(), rng)
        evidence = Evidence.derive(dataset.data, split, "fold", 10, rng)
    print(json.dumps({"views": [len(evidence.user), len(evidence.item)]}), flush=True)
    for model in MODELS:
        config = Config(ranker=RankerConfig(features=model))
        with stage(f"{model} constants"):
            builder = FeatureBuilder.fit(dataset, evidence, config)
        with stage(f"{model} users"):
            user = builder.build("user", evidence.user, dataset)
        with stage(f"{model} items"):
            item = builder.build("item", evidence.item, dataset)
        del builder, user, item
    if peer:
        sum_by_polars(dataset, evidence.fold)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print wall and CPU seconds of a block as JSON."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"stage": name, "wall": wall, "cpu": cpu}), flush=True)


def sum_by_polars(dataset: Dataset, fold: np.ndarray) -> None:
    """Sums over all views of train reviews, ours and those of Polars; they must be equal."""
    train, names = np.flatnonzero(fold > 0), [str(column) for column in range(TEXT_SIZE)]
    table = pl.DataFrame(dataset.text_vectors[train].astype(np.float32), schema=names)
    for kind, entity in (("users", dataset.data.user), ("items", dataset.data.item)):
        with stage(f"{kind} summed here"):
            views = EvidenceViews.excluding(entity, train, fold)
            ours = views.sum(dataset.text_vectors)
        coded = table.with_columns(entity=pl.Series(entity[train]), fold=pl.Series(fold[train]))
        with stage(f"{kind} summed by Polars"):
            groups = coded.lazy().group_by("entity", "fold").agg(pl.col(names).sum())
            # The evidence of a fold are the reviews of all others.
            others = [pl.col(name).sum().over("entity") - pl.col(name) for name in names]
            sums = groups.select("entity", "fold", *others).collect()
        rows = train[:1000]
        sample = pl.DataFrame({"entity": entity[rows], "fold": fold[rows]})
        sample = sample.join(sums, on=["entity", "fold"], how="left", maintain_order="left")
        assert np.allclose(ours[views.view[rows]], sample.select(names).to_numpy(), atol=1e-3)


def measure(size: int, folder: Path, *, peer: bool) -> dict[str, Any]:
    """Run one size in a process of its own: its stages by name with their peaks of memory in GB."""
    command = [sys.executable, __file__, f"--one={size}", f"--folder={folder}"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    child = subprocess.Popen(
        [*command, f"--peer={size * peer}"], stdout=subprocess.PIPE, bufsize=0, env=environment
    )
    assert child.stdout is not None
    result: dict[str, Any] = {"size": size, "stages": {}}
    peak = {"anonymous": 0.0, "resident": 0.0}
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(0.01):
                for name, memory in memory_in_use(child.pid).items():
                    peak[name] = max(peak[name], memory)
            elif line := child.stdout.readline():
                message = json.loads(line)
                name = message.pop("stage", None)
                if name is None:
                    result |= message
                    continue
                result["stages"][name] = message | peak
                figures = ", ".join(f"{key} {value:.2f}" for key, value in (message | peak).items())
                print(f"{size:>10,} {name:<24}{figures}", flush=True)
                peak = dict.fromkeys(peak, 0.0)
            else:
                break
    if child.wait():
        sys.exit(f"the run of {size:,} reviews failed")
    stages = [result["stages"][name] for name in STAGES]
    for key in ("wall", "cpu"):
        result[key] = sum(figures[key] for figures in stages)
    return result | {"anonymous": max(figures["anonymous"] for figures in stages)}


def memory_in_use(process: int) -> dict[str, float]:
    """Anonymous and resident memory in GB of a process; none when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except ProcessLookupError:
        return {}
    values = dict(line.split(":", 1) for line in lines)
    names = {"anonymous": "RssAnon", "resident": "VmRSS"}
    return {key: float(values.get(name, "0").split()[0]) / 1e6 for key, name in names.items()}


def plot(results: Sequence[dict[str, Any]], path: Path, max_memory: float = 4.0) -> None:
    """Draw seconds and anonymous memory over the number of reviews, both logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    sizes = np.array([result["size"] for result in results])
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in STAGES:
        seconds = [result["stages"][name]["wall"] for result in results]
        axes[0].loglog(sizes, seconds, ".-", lw=1, label=name)
    axes[0].loglog(sizes, [result["cpu"] for result in results], "k--", label="all, of CPU")
    axes[1].axhline(max_memory, color="red", label=f"{max_memory:g} GB")
    labels = ("wall", "seconds"), ("anonymous", "GB of anonymous memory")
    for axis, (key, label) in zip(axes, labels, strict=True):
        values = [result[key] for result in results]
        axis.loglog(sizes, values, "k.-", label="all")
        axis.loglog(sizes, values[0] * sizes / sizes[0], "k:", label="slope 1")
        axis.set(xlabel="reviews", ylabel=label)
        axis.legend(fontsize="x-small")
    figure.savefig(path, dpi=100)


def print_summary(results: Sequence[dict[str, Any]], peer: int) -> None:
    """Print totals, ratios to the peer, and exponents of growth."""
    for result in results:
        size, views = result["size"], " and ".join(f"{count:,}" for count in result["views"])
        print(f"{size:,} reviews, {views} views: ", end="")
        print(f"{result['wall']:.0f} s, {result['anonymous']:.2f} GB")
        for kind in ("users", "items") if size == peer else ():
            ours = result["stages"][f"{kind} summed here"]
            polars = result["stages"][f"{kind} summed by Polars"]
            ratios = ", ".join(f"{key} {polars[key] / ours[key]:.2f}" for key in ("wall", "cpu"))
            print(f"sums over views of {kind}, Polars / ours: {ratios}")
    for small, large in itertools.pairwise(results):
        step, growth = math.log(large["size"] / small["size"]), []
        for key in ("wall", "cpu", "anonymous"):
            growth.append(f"{key} ^{math.log(large[key] / small[key]) / step:.2f}")
        print(f"{small['size']:,} to {large['size']:,}: {', '.join(growth)}")


def main() -> None:
    """Run all sizes, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--folder", type=Path, help="for vectors and mapped arrays")
    parser.add_argument("--plot", type=Path)
    parser.add_argument(
        "--peer", type=int, default=10**6, help="the size that Polars sums too, or 0"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return build_all(options.one, options.folder, peer=options.peer == options.one)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"numpy {np.__version__}, Polars {pl.__version__}, {threads} threads")
    results = []
    for size in sorted(options.sizes):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            results.append(measure(size, Path(folder), peer=size == options.peer))
    print_summary(results, options.peer)
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
