"""Trains runs of a ranker as one stack and one by one, and says how many model-samples a second pass.

Usage: python bench/stacked.py [--rows N] [--runs N] [--epochs N] [--peer FOLDER]

The ranker is the paper's proposed one with summaries, on random data: 2 x 384 columns of text to 128 to 32,
107 categories, 7 numbers. `joint` trains all of it; `staged` is the paper's second step, in which the words
are reduced already. A model-sample is one row that one run has learned from once.

The share of the peak counts the multiply-adds of linear layers alone: one product forward and two backward,
or one backward where the inputs are data and so need no gradient. The peak is what the machine reaches at
the largest product of the stack. Run it on an otherwise idle machine.

With `--peer`, a checkout of facebookresearch/dlrm (whose script wants the package `tensorboard`), that script
trains a DLRM of the shape of `staged` in turn with ours: numbers, a bag of 11 of 107 categories, one more
vector of 32. It has plain SGD and no dropout, and is timed by itself, without the making of its batches; ours
has AdamW, is timed whole, and trains with dropout and without.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmrec.config import TrainingConfig
from mmrec.features.tables import EntityFeatures, Features
from mmrec.ranker.dlrm import Ranker, RankerShape, StackedLinear, TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.training import StackTrainer, TrainingTask

USERS, ITEMS, TEXT, CODES, BATCH = 15_000, 3_000, 384, 107, 512
SELECT = 512


def main() -> None:
    """Train both ways, joint and staged; print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    peak = gemm_peak()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"torch {torch.__version__} on {torch.get_num_threads()} threads")
    print(f"peak of ({BATCH} x 768) @ (768 x 3840) in fp32: {peak:.1f} GFLOP/s")
    task = random_task(arguments.rows)
    settings = product((0.1, 0.3, 0.5), ((0.5, 0.5), (0.8, 0.2)))
    runs = [
        TrainingRun(seed, *own) for seed, own in enumerate(islice(cycle(settings), arguments.runs))
    ]
    train(random_task(BATCH), runs[:1], "joint", 1)  # torch loads much at the first step
    for reduction in ("joint", "staged"):
        rows = arguments.rows * arguments.runs * arguments.epochs
        flops, seconds = train(task, runs, reduction, arguments.epochs)
        stacked = rows / seconds
        one_by_one = rows / sum(train(task, [run], reduction, arguments.epochs)[1] for run in runs)
        share = stacked * flops / peak / 1e9
        print(
            f"{reduction}, {len(runs)} runs stacked: {stacked:,.0f} model-samples/s, {share:.0%} of the peak"
        )
        print(f"{reduction}, {len(runs)} runs one by one: {one_by_one:,.0f} model-samples/s")
        print(f"{reduction}, stacked / one by one: {stacked / one_by_one:.2f}")
    if arguments.peer is not None:
        beside(arguments, task, runs)


def beside(arguments: argparse.Namespace, task: TrainingTask, runs: Sequence[TrainingRun]) -> None:
    """Train the peer's DLRM and ours in turn; print samples a second, and ratios."""
    plain = [replace(run, dropout=0.0) for run in runs]
    rows = arguments.rows * arguments.epochs
    ways: dict[str, Callable[[], float]] = {
        "facebookresearch/dlrm": lambda: peer(arguments.peer, rows // BATCH),
        "ours, one model": lambda: rows / train(task, plain[:1], "staged", arguments.epochs)[1],
        "ours, one model, dropout": lambda: (
            rows / train(task, runs[-1:], "staged", arguments.epochs)[1]
        ),
    }
    for name, some in (("", plain), (", dropout", runs)):
        count = rows * len(some)
        ways[f"ours, {len(some)} models{name}"] = lambda some=some, count=count: (
            count / train(task, some, "staged", arguments.epochs)[1]
        )
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, speed in ways.items():
            speeds[name].append(speed())
    first, *_ = speeds.values()
    for name, own in speeds.items():
        ratio = statistics.median(own) / statistics.median(first)
        print(f"{name:28} {statistics.median(own):11,.0f} model-samples/s ({ratio:.2f}x the peer)")


def peer(folder: Path, batches: int) -> float:
    """Samples a second of the peer's own script, by its own clock; the first hundred steps do not count."""
    shape = "--arch-sparse-feature-size=32 --arch-embedding-size=107-1000 --arch-mlp-bot=7-128-32"
    shape += " --arch-mlp-top=128-1 --num-indices-per-lookup=11 --loss-function=bce"
    given = f"--mini-batch-size={BATCH} --num-batches={batches // 100 * 100} --print-freq=100 --print-time"
    command = [sys.executable, "dlrm_s_pytorch.py", *shape.split(), *given.split()]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    said = subprocess.run(
        command, cwd=folder, env=os.environ | threads, check=True, capture_output=True, text=True
    ).stdout
    milliseconds = [float(one) for one in re.findall(r"([\d.]+) ms/it", said)]
    return BATCH / statistics.median(milliseconds[1:]) * 1000


def gemm_peak(repeats: int = 30) -> float:
    """GFLOP/s of a product of the stack's size, at its best."""
    a, b = torch.randn(BATCH, 768), torch.randn(768, 3840)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * BATCH * b.numel() / min(seconds) / 1e9


def random_task(rows: int) -> TrainingTask:
    """Views with text, numbers and (items) categories; rows of random pairs of them."""
    rng = np.random.default_rng(0)

    def side(views: int, numbers: int, most: int) -> EntityFeatures:
        return EntityFeatures(
            tuple(f"number {at}" for at in range(numbers)),
            rng.normal(size=(views + 1, numbers)).astype(np.float32),
            {"summary": rng.normal(size=(views + 1, TEXT)).astype(np.float16)},
            {"summary": np.ones(views + 1, dtype=np.float32)},
            rng.integers(CODES, size=(views + 1, most)),
        )

    views = rng.integers(USERS, size=rows), rng.integers(ITEMS, size=rows)
    inputs = RankerInputs(Features(side(USERS, 2, 0), side(ITEMS, 5, 11), *views))
    return TrainingTask(
        inputs, rng.random(rows) < 0.8, np.arange(rows), np.arange(min(rows, SELECT))
    )


def train(
    task: TrainingTask, runs: Sequence[TrainingRun], reduction: str, epochs: int
) -> tuple[int, float]:
    """Operations a model-sample, and wall seconds of some epochs of one stack."""
    shape = RankerShape(
        dense=7,
        groups={"text": task.inputs.block_sizes},
        categories=CODES,
        embedding_size=32,
        hidden_size=128,
        runs=len(runs),
    )
    ranker = Ranker(shape, runs)
    ranker.standardiser.fit(task.inputs, task.train_rows)
    config = TrainingConfig(batch_size=BATCH, cold_start_dropout=0, epochs=epochs, patience=epochs)
    stack = StackTrainer(ranker, runs, task, config, seed=0)
    parts = [
        part for name, part in ranker.named_children() if reduction == "joint" or name != "reducers"
    ]
    if reduction == "staged":
        stack.freeze_reducers()
    learned = [parameter for part in parts for parameter in part.parameters()]
    start = time.perf_counter()
    stack.optimise(learned, stack.score, f"{reduction} x {len(runs)}", epochs)
    return operations(ranker, parts), time.perf_counter() - start


def operations(ranker: Ranker, parts: Sequence[nn.Module]) -> int:
    """Multiplications and additions of the linear layers for one model-sample, forward and backward."""
    layers = [
        layer for part in parts for layer in part.modules() if isinstance(layer, StackedLinear)
    ]
    on_data = [ranker.bottom[0], ranker.categories, ranker.reducers["text"].layers[0]]
    unused = ranker.reducers["text"].head
    products = {layer: 2 if layer in on_data else 3 for layer in layers if layer is not unused}
    return sum(2 * layer.weight[0].numel() * times for layer, times in products.items())


if __name__ == "__main__":
    main()
