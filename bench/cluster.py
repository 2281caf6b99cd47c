"""What `--engine ray` costs and brings: reading and encoding by two workers, beside the same in one process.

Usage: python bench/cluster.py REVIEWS [--limit N] [--rounds N] [--workers N]

N reviews, drawn by chance, are read by the builtin reader and encoded, in turn by this process with as many
threads as there are workers, and by workers; each time into an empty store. Then what the driver alone does:
blocks that take no work, with texts and with photos, and answers that are written down. docs/cluster.md is
worked out from these figures. Run it on an otherwise idle machine.
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

MAKER: dict[str, object] = {"kind": "nothing"}


def nothing() -> tuple[dict[str, object], RowFunction]:
    """Takes blocks, and does no work."""
    return MAKER, lambda blocks: ((at, None) for block in blocks for at, _ in block)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def read_all(texts: list[str], engine: EngineConfig, folder: Path) -> tuple[list[Note], np.ndarray]:
    """Notes and vectors of reviews, with an empty store."""
    models = open_models(Config(engine=engine), store=Store(folder / f"{time.time_ns()}.sqlite"))
    notes = models.annotator.write_notes(texts)
    vectors = models.encoder.encode(texts)
    models.store.close()
    return notes, vectors


def overhead(crew: WorkerPool, rows: list[Any], blocks: int) -> float:
    """Blocks a second of which nothing is done."""
    block = list(enumerate(rows))
    given: Iterator[list[tuple[int, Any]]] = (block for _ in range(blocks))
    return blocks / timed(lambda: list(crew.map_rows(Job(MAKER, nothing), given)))[0]


def writing(folder: Path, size: int, count: int, chunk: int) -> float:
    """Results a second that the store keeps as they come."""
    store, value = Store(folder / f"{size}-{chunk}.sqlite"), b"x" * size

    def compute(blocks: Iterator[list[int]]) -> Iterator[tuple[int, bytes]]:
        return ((at, value) for block in blocks for at in block)

    names = [str(number) for number in range(count)]
    seconds, _ = timed(
        partial(store.get_or_compute, MAKER, names, compute, title="writing", chunk=chunk)
    )
    store.close()
    return count / seconds


def main() -> None:
    """Time everything, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    engine = EngineConfig(engine="ray", workers=given.workers)
    torch.set_num_threads(given.workers)
    texts = read_reviews(given.reviews).table["text"].sample(given.limit, seed=0).to_list()
    words, bf16 = (
        np.mean([len(text.split()) for text in texts]),
        "native" if has_fast_bf16() else "emulated",
    )
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, bf16 {bf16}, ",
        end="",
    )
    print(f"ray {ray.__version__}; {len(texts):,} reviews of {words:.0f} words")
    crew = worker_pool(engine)
    first, _ = timed(lambda: overhead(crew, [""], 1))
    print(f"start: {first:.1f} s until the first of {given.workers} workers has answered")
    ways = {"one process": EngineConfig(), f"{given.workers} workers": engine}
    times: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for way in ways.values():
            read_all(texts[:300], way, folder)  # models are loaded, kernels compiled
        for _ in range(given.rounds):
            results = {}
            for way, where in ways.items():
                seconds, results[way] = timed(partial(read_all, texts, where, folder))
                times[way].append(seconds)
        (notes, vectors), (far_notes, far_vectors) = results.values()
        base = np.median(times["one process"])
        for way, some in times.items():
            rate = given.limit / np.median(some)
            print(
                f"{way:12}: {rate:7.1f} reviews/s, {base / np.median(some):.2f} times one process ",
                end="",
            )
            print(f"(rounds: {', '.join(f'{seconds:.1f}' for seconds in some)} s)")
        same = np.mean([own == far for own, far in zip(notes, far_notes, strict=True)])
        cosine = (vectors.astype(np.float64) * far_vectors).sum(1)
        print(
            f"the same: {same:.2%} of notes; cosines mean {cosine.mean():.6f} least {cosine.min():.6f}"
        )
        print(f"blocks without work: {overhead(crew, texts[:1], 500):,.0f}/s of one text, ", end="")
        print(f"{overhead(crew, texts[:256], 200):,.0f}/s of 256 reviews, ", end="")
        photos = [np.full((768, 1024, 3), shade, np.uint8) for shade in range(8)]
        rate = overhead(crew, photos, 20)
        print(f"{rate:.1f}/s of 8 photos ({rate * 8 * 1024 * 768 * 3 / 1e6:,.0f} MB/s)")
        size = max(path.stat().st_size for path in folder.glob("*.sqlite")) / len(texts)
        print(f"store: {size / 1e3:.1f} KB a review; it keeps ", end="")
        print(
            f"{writing(folder, 250, 50_000, 256):,.0f} notes/s of 250 bytes in blocks of 256, ",
            end="",
        )
        print(f"{writing(folder, 768, 50_000, 512):,.0f} vectors/s in blocks of 512")
    ray.shutdown()


if __name__ == "__main__":
    main()
