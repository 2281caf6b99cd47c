"""A small ranking task, and a stack of rankers that fits it."""

from __future__ import annotations

import numpy as np

from mmrec.features.tables import EntityFeatures, Features
from mmrec.ranker.dlrm import Ranker, RankerShape
from mmrec.ranker.inputs import RankerInputs, TrainingTask

CODES = 4
NUMBERS = ("mean rating", "no rating", "log count")


def toy_features(rows: int, rng: np.random.Generator, dtype: type = np.float32, factors: int = 0):
    """Features of 40 users and 30 items with dense columns, texts and categories; some texts are missing."""

    def entities(views: int) -> EntityFeatures:
        dense = np.concatenate([rng.normal(3, 2, (views, 2)), np.ones((views, 1))], axis=1)
        present = rng.random(views) < 0.8
        gist = rng.normal(0.5, 1, (views, 5)) * present[:, None]
        codes = np.concatenate([rng.integers(CODES, size=(views, 2)), np.full((views, 1), CODES)], axis=1)

        def with_unknown(values: np.ndarray, unknown: float = 0) -> np.ndarray:
            return np.pad(values, [(0, 1)] + [(0, 0)] * (values.ndim - 1), constant_values=unknown)

        return EntityFeatures(
            NUMBERS,
            with_unknown(dense).astype(dtype),
            {"gist": with_unknown(gist).astype(np.float16)},
            {"gist": with_unknown(present).astype(np.float32)},
            with_unknown(codes, CODES),
            with_unknown(rng.normal(size=(views, factors))).astype(np.float16),
        )

    user, item = entities(40), entities(30)
    return Features(user, item, rng.integers(40, size=rows), rng.integers(30, size=rows))


def toy(rows: int = 300, seed: int = 0, dtype: type = np.float32, factors: int = 0) -> TrainingTask:
    """Rows whose label depends on a product of texts, and on dense columns."""
    rng = np.random.default_rng(seed)
    features = toy_features(rows, rng, dtype, factors)
    user, item = features.user, features.item
    user_text, item_text = user.vectors["gist"][:, 0], item.vectors["gist"][:, 0]
    product = (user_text[features.user_view] * item_text[features.item_view]).astype(np.float32)
    score = product + 0.5 * user.dense[features.user_view, 0] + rng.normal(0, 0.5, rows)
    cut = rows * 2 // 3
    return TrainingTask(RankerInputs(features), score > 1.5, np.arange(cut), np.arange(cut, rows))


def ranker_of(task: TrainingTask, runs, *, linear: bool = False) -> Ranker:
    """An untrained, standardised stack over all that the task has."""
    groups = {"text": task.inputs.block_sizes}
    sizes = {"embedding_size": 4, "hidden_size": 8}
    dense = task.inputs.dense_size
    shape = RankerShape(dense=dense, groups=groups, categories=CODES, runs=len(runs), linear=linear, **sizes)
    ranker = Ranker(shape, runs)
    ranker.standardiser.fit(task.inputs, task.train_rows)
    return ranker
