"""Times annotating and encoding by two Ray workers, beside the same in one process.

Usage: python bench/cluster.py REVIEWS [--limit N] [--rounds N] [--workers N]

N random reviews are annotated by the builtin model and encoded, in turn by this process, with as
many threads as there are workers, and by the workers; each time with an empty store. Then the work
of the driver alone is timed: blocks without work, of texts and of photos, and writing results.
docs/cluster.md has been derived from these figures. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from mmrec.cache.store import Store
from mmrec.config import Config, EngineConfig
from mmrec.data import read_reviews
from mmrec.distributed.workers import Job, RowFunction, WorkerPool, worker_pool
from mmrec.encoder.weights import has_fast_bf16
from mmrec.llm.types import Note
from mmrec.pipeline import open_models

PROVENANCE: dict[str, object] = {"kind": "nothing"}


def open_idle_model() -> tuple[dict[str, object], RowFunction]:
    """A model that takes blocks and does no work."""
    return PROVENANCE, lambda blocks: ((row, None) for block in blocks for row, _ in block)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def annotate_and_encode(
    texts: list[str], engine: EngineConfig, folder: Path
) -> tuple[list[Note], np.ndarray]:
    """Notes and vectors of reviews, with an empty store."""
    models = open_models(Config(engine=engine), store=Store(folder / f"{time.time_ns()}.sqlite"))
    notes, vectors = models.annotator.write_notes(texts), models.encoder.encode(texts)
    models.store.close()
    return notes, vectors


def idle_blocks_per_second(pool: WorkerPool, rows: list[Any], count: int) -> float:
    """Speed of blocks that take no work."""
    blocks = iter([list(enumerate(rows))] * count)
    seconds, _ = timed(lambda: list(pool.map_rows(Job(PROVENANCE, open_idle_model), blocks)))
    return count / seconds


def writes_per_second(folder: Path, size: int, chunk: int, count: int = 50_000) -> float:
    """Speed of storing results of `size` bytes."""
    store, value = Store(folder / f"{size}-{chunk}.sqlite"), b"x" * size

    def compute(blocks: Iterator[list[int]]) -> Iterator[tuple[int, bytes]]:
        return ((row, value) for block in blocks for row in block)

    names, options = [str(number) for number in range(count)], {"title": "writing", "chunk": chunk}
    seconds, _ = timed(lambda: store.get_or_compute(PROVENANCE, names, compute, **options))
    store.close()
    return count / seconds


def main() -> None:
    """Time everything, and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    texts = read_reviews(options.reviews).table["text"].sample(options.limit, seed=0).to_list()
    words = np.mean([len(text.split()) for text in texts])
    bf16 = "native" if has_fast_bf16() else "emulated"
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, bf16 {bf16}"
    )
    print(f"ray {ray.__version__}; {len(texts):,} reviews of {words:.0f} words")
    engines = {"one process": EngineConfig()}
    engine = EngineConfig(engine="ray", workers=options.workers)
    engines[f"{options.workers} workers"] = engine
    pool = worker_pool(engine)
    start, _ = timed(lambda: idle_blocks_per_second(pool, [""], 1))
    print(f"start: {start:.1f} s until the first of {options.workers} workers has answered")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare_engines(texts, engines, options.rounds, folder)
        speeds = [idle_blocks_per_second(pool, texts[:rows], 200) for rows in (1, 256)]
        print(
            f"blocks without work: {speeds[0]:,.0f}/s of 1 text, {speeds[1]:,.0f}/s of 256 reviews"
        )
        photos = [np.full((768, 1024, 3), shade, np.uint8) for shade in range(8)]
        speed = idle_blocks_per_second(pool, photos, 20)
        megabytes = speed * sum(photo.nbytes for photo in photos) / 1e6
        print(f"blocks without work: {speed:.1f}/s of 8 photos ({megabytes:,.0f} MB/s)")
        size = max(path.stat().st_size for path in folder.glob("*.sqlite")) / len(texts)
        notes, vectors = writes_per_second(folder, 250, 256), writes_per_second(folder, 768, 512)
        print(
            f"store: {size / 1e3:.1f} KB a review; {notes:,.0f} notes/s, {vectors:,.0f} vectors/s"
        )
    ray.shutdown()


def compare_engines(
    texts: list[str], engines: dict[str, EngineConfig], rounds: int, folder: Path
) -> None:
    """Print the speeds of both engines, and how equal their results are."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    results = {}
    for engine in engines.values():
        annotate_and_encode(texts[:300], engine, folder)  # loads models, compiles kernels
    for _ in range(rounds):
        for name, engine in engines.items():
            work = partial(annotate_and_encode, texts, engine, folder)
            seconds, results[name] = timed(work)
            times[name].append(seconds)
    base = np.median(times["one process"])
    for name, seconds in times.items():
        median = np.median(seconds)
        rate, rounded = len(texts) / median, ", ".join(f"{value:.1f}" for value in seconds)
        print(
            f"{name:12}: {rate:7.1f} reviews/s, {base / median:.2f} times one process ({rounded} s)"
        )
    (notes, vectors), (remote_notes, remote_vectors) = results.values()
    equal = np.mean([note == remote for note, remote in zip(notes, remote_notes, strict=True)])
    cosine = (vectors.astype(np.float64) * remote_vectors).sum(1)
    print(f"equal: {equal:.2%} of notes; cosines mean {cosine.mean():.6f} min {cosine.min():.6f}")


if __name__ == "__main__":
    main()
