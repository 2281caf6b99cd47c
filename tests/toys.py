"""A small ranking task, and a stack of rankers that fits it."""

import numpy as np

from mmrec.features.tables import EntityFeatures, Features
from mmrec.ranker.dlrm import Ranker, RankerShape
from mmrec.ranker.inputs import RankerInputs, TrainingTask

CODES = 4
NUMBERS = ("mean rating", "no rating", "log count")
DENSE = [f"{kind} {name}" for kind in ("user", "item") for name in NUMBERS]


def toy_features(rows, rng, dtype=np.float32, factors=0):
    """Features of 40 users and 30 items with dense columns, texts and categories; some texts are missing."""
    user, item = (_entities(views, rng, dtype, factors) for views in (40, 30))
    return Features(user, item, rng.integers(40, size=rows), rng.integers(30, size=rows))


def _entities(views, rng, dtype, factors):
    dense = np.concatenate([rng.normal(3, 2, (views, 2)), np.ones((views, 1))], axis=1)
    present = rng.random(views) < 0.8
    gist = rng.normal(0.5, 1, (views, 5)) * present[:, None]
    codes = np.concatenate([rng.integers(CODES, size=(views, 2)), np.full((views, 1), CODES)], axis=1)

    def with_unknown(values, dtype, unknown=0):
        return np.append(values, np.full_like(values[:1], unknown), axis=0).astype(dtype)

    vectors, presence = with_unknown(gist, np.float16), with_unknown(present, np.float32)
    categories = with_unknown(codes, np.int64, CODES)
    pair = with_unknown(rng.normal(size=(views, factors)), np.float16)
    dense = with_unknown(dense, dtype)
    return EntityFeatures(NUMBERS, dense, {"gist": vectors}, {"gist": presence}, categories, pair)


def toy(rows=300, seed=0, dtype=np.float32, factors=0):
    """Rows whose label depends on a product of texts, and on dense columns."""
    rng = np.random.default_rng(seed)
    features = toy_features(rows, rng, dtype, factors)
    user, item = features.user, features.item
    user_text, item_text = user.vectors["gist"][:, 0], item.vectors["gist"][:, 0]
    product = (user_text[features.user_view] * item_text[features.item_view]).astype(np.float32)
    score = product + 0.5 * user.dense[features.user_view, 0] + rng.normal(0, 0.5, rows)
    cut = rows * 2 // 3
    return TrainingTask(RankerInputs(features), score > 1.5, np.arange(cut), np.arange(cut, rows))


def ranker_of(task, runs, *, linear=False):
    """An untrained, standardised stack over all that the task has."""
    groups, dense = {"text": task.inputs.block_sizes}, task.inputs.dense_size
    sizes = {"embedding_size": 4, "hidden_size": 8}
    shape = RankerShape(dense=dense, groups=groups, categories=CODES, runs=len(runs), linear=linear, **sizes)
    ranker = Ranker(shape, runs)
    ranker.standardiser.fit(task.inputs, task.train_rows)
    return ranker
