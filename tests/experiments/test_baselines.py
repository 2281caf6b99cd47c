"""Simple baselines: the least squares that they claim to be, and blind to test rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mmrec.config import SplitConfig
from mmrec.data.schema import Interactions, Split, split_reviews
from mmrec.experiments.baselines import (
    ALWAYS_LIKE,
    MEAN_BASELINES,
    bias_scores,
    simple_baseline_probabilities,
)
from review_tables import interactions

NAMES = [ALWAYS_LIKE, "user mean", "item mean", "user + item mean", "bias model"]


def biased_ratings(users: int = 40, items: int = 25, rows: int = 700) -> Interactions:
    """Ratings of lenient and strict users, of good and bad items."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(users, size=rows), rng.integers(items, size=rows)
    biases = rng.normal(0, 0.7, users)[user] + rng.normal(0, 0.7, items)[item]
    rating = np.clip(np.rint(4 + biases + rng.normal(0, 0.5, rows)), 1, 5)
    return interactions(user.tolist(), item.tolist(), rating.tolist())


def split_and_label(data: Interactions) -> tuple[Split, np.ndarray]:
    return split_reviews(data, SplitConfig(), np.random.default_rng(0)), data.rating >= 4


@pytest.mark.parametrize("penalty", [1.0, 5.0])
def test_the_bias_model_is_the_dense_ridge_solution(penalty: float) -> None:
    data, rows = biased_ratings(rows=200), np.arange(0, 200, 2)
    design = np.concatenate([np.eye(len(data.users))[data.user], np.eye(len(data.items))[data.item]], axis=1)
    rating = data.rating.astype(np.float64)
    mean = rating[rows].mean()
    gram = design[rows].T @ design[rows] + penalty * np.eye(design.shape[1])
    biases = np.linalg.solve(gram, design[rows].T @ (rating[rows] - mean))
    assert bias_scores(data, rows, penalty) == pytest.approx(mean + design @ biases, abs=1e-4)


def test_the_bias_model_expects_the_mean_of_unknown_users_and_items() -> None:
    data = interactions([0, 0, 1, 2], [0, 1, 1, 2], [5, 3, 1, 5])
    assert bias_scores(data, np.array([0, 1, 2]), 1.0)[3] == pytest.approx(3)


def test_means_by_hand() -> None:
    data = interactions([0, 0, 0, 1, 2], [0, 1, 1, 0, 1], [5, 2, 4, 1, 3])
    rows = np.array([0, 1, 3])  # mean 8/3; user 0: 3.5, user 1: 1, item 0: 3, item 1: 2
    assert MEAN_BASELINES["user mean"](data, rows) == pytest.approx([3.5, 3.5, 3.5, 1, 8 / 3])
    assert MEAN_BASELINES["item mean"](data, rows) == pytest.approx([3, 2, 2, 3, 2])
    assert MEAN_BASELINES["user + item mean"](data, rows) == pytest.approx([6.5, 5.5, 5.5, 4, 2 + 8 / 3])


def test_always_like_is_the_share_of_likes_in_train() -> None:
    data = biased_ratings()
    split, label = split_and_label(data)
    probability = simple_baseline_probabilities(data, split, label)
    assert sorted(probability) == sorted(NAMES)
    assert (probability[ALWAYS_LIKE] == label[split.train].mean()).all()
    assert label[split.train].mean() != label.mean()


def test_baselines_are_blind_to_test_rows_and_use_valid_rows() -> None:
    data = biased_ratings()
    split, label = split_and_label(data)
    before = simple_baseline_probabilities(data, split, label)
    rating, flipped = data.rating.copy(), label.copy()
    rating[split.test] = 6 - rating[split.test]
    flipped[split.test] = ~flipped[split.test]
    after = simple_baseline_probabilities(replace(data, rating=rating), split, flipped)
    for name in NAMES:
        assert np.array_equal(before[name], after[name]), name
    scores = bias_scores(data, split.evidence_rows, 3.0)
    assert not np.allclose(scores, bias_scores(data, split.train, 3.0))
    order = np.argsort(MEAN_BASELINES["user mean"](data, split.evidence_rows), kind="stable")
    assert (np.diff(before["user mean"][order]) >= 0).all()


def test_the_bias_model_beats_means_and_its_probabilities_are_calibrated() -> None:
    data = biased_ratings(rows=3000)
    split, label = split_and_label(data)
    probability, test = simple_baseline_probabilities(data, split, label), split.test
    aucs = {name: roc_auc_score(label[test], probability[name][test]) for name in NAMES}
    assert aucs[ALWAYS_LIKE] == 0.5
    assert aucs["bias model"] > max(aucs["user mean"], aucs["item mean"]) + 0.03
    assert probability["bias model"][test].mean() == pytest.approx(label[test].mean(), abs=0.05)
