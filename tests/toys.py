"""A small ranking task, and a stack of rankers that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mmrec.features.tables import EntityFeatures, Features
from mmrec.ranker.dlrm import Ranker, RankerShape, TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.training import TrainingTask

CODES = 4


def toy(rows: int = 300, seed: int = 0, dtype: type = np.float32, *, tastes: int = 0) -> TrainingTask:
    """Rows whose label hangs on a product of words, and on dense numbers; some words are missing."""
    rng = np.random.default_rng(seed)

    def side(views: int) -> EntityFeatures:
        dense = np.concatenate([rng.normal(3, 2, (views, 2)), np.ones((views, 1))], axis=1)
        there = rng.random(views) < 0.8
        block = rng.normal(0.5, 1, (views, 5)) * there[:, None]
        codes = np.concatenate([rng.integers(CODES, size=(views, 2)), np.full((views, 1), CODES)], axis=1)
        return EntityFeatures(
            ("mean rating", "no rating", "log count"),
            np.concatenate([dense, np.zeros((1, 3))]).astype(dtype),
            {"gist": np.concatenate([block, np.zeros((1, 5))]).astype(np.float16)},
            {"gist": np.append(there, False).astype(np.float32)},
            np.concatenate([codes, np.full((1, 3), CODES)]),
        )

    user, item = side(40), side(30)
    user_view, item_view = rng.integers(40, size=rows), rng.integers(30, size=rows)
    taste = (user.vectors["gist"][user_view, 0] * item.vectors["gist"][item_view, 0]).astype(np.float32)
    label = taste + 0.5 * user.dense[user_view, 0] + rng.normal(0, 0.5, rows) > 1.5
    cut = rows * 2 // 3
    if tastes:
        user, item = (
            replace(side, factors=_with_nobody(rng.normal(size=(side.unknown_index, tastes))))
            for side in (user, item)
        )
    inputs = RankerInputs(Features(user, item, user_view, item_view))
    return TrainingTask(inputs, label, np.arange(cut), np.arange(cut, rows))


def ranker_of(task: TrainingTask, runs: Sequence[TrainingRun], *, linear: bool = False) -> Ranker:
    """An untrained stack over all that the task has."""
    shape = RankerShape(
        dense=task.inputs.dense_size,
        groups={"text": task.inputs.block_sizes},
        categories=CODES,
        embedding_size=4,
        hidden_size=8,
        runs=len(runs),
        linear=linear,
    )
    ranker = Ranker(shape, runs)
    ranker.standardise(task.inputs, task.train_rows)
    return ranker


def _with_nobody(taste: np.ndarray) -> np.ndarray:
    return np.pad(taste, ((0, 1), (0, 0))).astype(np.float16)
