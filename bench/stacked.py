"""Model-samples per second of rankers trained as one stack, compared with one by one.

Usage: python bench/stacked.py [--rows N] [--runs N] [--epochs N] [--peer FOLDER]

The ranker is the paper's proposed one with summaries, on random data: 2 x 384 columns of text to
128 to 32, 107 categories, 7 numbers. `joint` trains all of it; `staged` is the paper's second step,
in which the text is reduced already. A model-sample is one row that one run has been trained on
once.

The share of the peak counts the multiply-adds of linear layers alone: one product forward and two
backward, or one backward where the inputs are data and so need no gradient. The peak is what the
machine reaches at the largest product of the stack. Run it on an idle machine.

With `--peer`, a checkout of facebookresearch/dlrm (whose script needs the package `tensorboard`),
that script trains a DLRM of the shape of `staged` in turn with ours: numbers, a bag of 11 of 107
categories, one more vector of 32. It has plain SGD and no dropout, and is timed by its own clock,
without making its batches; ours has AdamW, is timed whole, and trains with and without dropout.
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
from functools import partial
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmrec.config import TrainingConfig
from mmrec.features.tables import EntityFeatures, Features
from mmrec.ranker.dlrm import Ranker, RankerShape, StackedLinear
from mmrec.ranker.inputs import RankerInputs, TrainingRun, TrainingTask
from mmrec.ranker.training import StackTrainer

USERS, ITEMS, TEXT, CATEGORIES, BATCH = 15_000, 3_000, 384, 107, 512


def main() -> None:
    """Train both ways, joint and staged, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    peak = peak_gflops()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"torch {torch.__version__} on {torch.get_num_threads()} threads")
    print(f"peak of ({BATCH} x 768) @ (768 x 3840) in fp32: {peak:.1f} GFLOP/s")
    task, epochs = random_task(options.rows), options.epochs
    settings = islice(cycle(product((0.1, 0.3, 0.5), ((0.5, 0.5), (0.8, 0.2)))), options.runs)
    runs = [TrainingRun(seed, *setting) for seed, setting in enumerate(settings)]
    train(random_task(BATCH), runs[:1], "joint", 1)  # torch loads much at the first step
    for reduction in ("joint", "staged"):
        samples = options.rows * options.runs * epochs
        flops, seconds = train(task, runs, reduction, epochs)
        single = samples / sum(train(task, [run], reduction, epochs)[1] for run in runs)
        stacked = samples / seconds
        name, share = f"{reduction}, {len(runs)} runs", stacked * flops / peak / 1e9
        print(f"{name} stacked: {stacked:,.0f} model-samples/s, {share:.0%} of the peak")
        print(f"{name} one by one: {single:,.0f} model-samples/s")
        print(f"{name}, stacked / one by one: {stacked / single:.2f}")
    if options.peer is not None:
        compare_with_peer(options, task, runs)


def compare_with_peer(
    options: argparse.Namespace, task: TrainingTask, runs: Sequence[TrainingRun]
) -> None:
    """Train the peer's DLRM and ours in turn; print samples per second, and ratios."""
    no_dropout = [replace(run, dropout=0.0) for run in runs]
    rows = options.rows * options.epochs

    def speed(stack: Sequence[TrainingRun]) -> float:
        return rows * len(stack) / train(task, stack, "staged", options.epochs)[1]

    trainers: dict[str, Callable[[], float]] = {
        "facebookresearch/dlrm": partial(peer_speed, options.peer, rows // BATCH),
        "ours, one model": partial(speed, no_dropout[:1]),
        "ours, one model, dropout": partial(speed, runs[-1:]),
        f"ours, {len(runs)} models": partial(speed, no_dropout),
        f"ours, {len(runs)} models, dropout": partial(speed, runs),
    }
    speeds: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(options.rounds):
        for name, trainer in trainers.items():
            speeds[name].append(trainer())
    peer = statistics.median(speeds["facebookresearch/dlrm"])
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"{name:28} {median:11,.0f} model-samples/s ({median / peer:.2f}x the peer)")


def peer_speed(folder: Path, batches: int) -> float:
    """Samples per second of the peer's own script, by its own clock, without its first 100 steps."""
    shape = "--arch-sparse-feature-size=32 --arch-embedding-size=107-1000 --arch-mlp-bot=7-128-32"
    shape += " --arch-mlp-top=128-1 --num-indices-per-lookup=11 --loss-function=bce"
    size = f"--mini-batch-size={BATCH} --num-batches={batches // 100 * 100}"
    flags = f"{shape} {size} --print-freq=100 --print-time".split()
    command = [sys.executable, "dlrm_s_pytorch.py", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    options = {
        "cwd": folder,
        "env": environment,
        "check": True,
        "capture_output": True,
        "text": True,
    }
    output = subprocess.run(command, **options).stdout
    milliseconds = [float(number) for number in re.findall(r"([\d.]+) ms/it", output)]
    return BATCH / statistics.median(milliseconds[1:]) * 1000


def peak_gflops(repeats: int = 30) -> float:
    """GFLOP/s of a product of the stack's size, at its fastest."""
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

    def features(views: int, numbers: int, categories: int) -> EntityFeatures:
        return EntityFeatures(
            tuple(f"number {column}" for column in range(numbers)),
            rng.normal(size=(views + 1, numbers)).astype(np.float32),
            {"summary": rng.normal(size=(views + 1, TEXT)).astype(np.float16)},
            {"summary": np.ones(views + 1, dtype=np.float32)},
            rng.integers(CATEGORIES, size=(views + 1, categories)),
        )

    views = rng.integers(USERS, size=rows), rng.integers(ITEMS, size=rows)
    inputs = RankerInputs(Features(features(USERS, 2, 0), features(ITEMS, 5, 11), *views))
    label = rng.random(rows) < 0.8
    return TrainingTask(inputs, label, np.arange(rows), np.arange(min(rows, BATCH)))


def train(
    task: TrainingTask, runs: Sequence[TrainingRun], reduction: str, epochs: int
) -> tuple[int, float]:
    """Operations per model-sample, and wall seconds of training one stack."""
    shape = RankerShape(
        dense=7,
        groups={"text": task.inputs.block_sizes},
        categories=CATEGORIES,
        embedding_size=32,
        hidden_size=128,
        runs=len(runs),
    )
    ranker = Ranker(shape, runs)
    ranker.standardiser.fit(task.inputs, task.train_rows)
    config = TrainingConfig(batch_size=BATCH, cold_start_dropout=0, epochs=epochs, patience=epochs)
    trainer = StackTrainer(ranker, runs, task, config, seed=0)
    modules = dict(ranker.named_children())
    if reduction == "staged":
        trainer.freeze_reducers()
        del modules["reducers"]
    parameters = [value for module in modules.values() for value in module.parameters()]
    start = time.perf_counter()
    trainer.optimise(parameters, trainer.score, f"{reduction} x {len(runs)}", epochs)
    return operations(ranker, [*modules.values()]), time.perf_counter() - start


def operations(ranker: Ranker, modules: Sequence[nn.Module]) -> int:
    """Multiplications and additions of linear layers for one model-sample, forward and backward."""
    on_data = [ranker.bottom[0], ranker.categories, ranker.reducers["text"].layers[0]]
    unused = ranker.reducers["text"].head
    total = 0
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, StackedLinear) and layer is not unused:
                total += 2 * layer.weight[0].numel() * (2 if layer in on_data else 3)
    return total


if __name__ == "__main__":
    main()
