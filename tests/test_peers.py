"""Simple peers: the least squares they claim to be, and honest on test rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conftest import interactions
from mmrec.config import SplitConfig
from mmrec.data.schema import Interactions
from mmrec.data.split import Split, split_reviews
from mmrec.experiments.baselines import MEAN_BASELINES, baseline_probabilities, bias_scores

NAMES = ["always like", "user mean", "item mean", "user + item mean", "bias model"]


def town(seed: int = 0, users: int = 40, items: int = 25, rows: int = 700) -> Interactions:
    """Ratings of lenient and strict users, of good and bad items."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(users, size=rows), rng.integers(items, size=rows)
    raw = 4 + rng.normal(0, 0.7, users)[user] + rng.normal(0, 0.7, items)[item] + rng.normal(0, 0.5, rows)
    return interactions(user.tolist(), item.tolist(), np.clip(np.rint(raw), 1, 5).tolist())


def split_of(data: Interactions) -> Split:
    return split_reviews(data, SplitConfig(), np.random.default_rng(0))


@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_the_bias_model_is_the_dense_ridge_solution(alpha: float) -> None:
    data = town(rows=200)
    rows = np.arange(0, 200, 2)
    design = np.concatenate([np.eye(len(data.users))[data.user], np.eye(len(data.items))[data.item]], axis=1)
    rating = data.rating.astype(np.float64)
    mean = rating[rows].mean()
    gram = design[rows].T @ design[rows] + alpha * np.eye(design.shape[1])
    biases = np.linalg.solve(gram, design[rows].T @ (rating[rows] - mean))
    assert bias_scores(data, rows, alpha) == pytest.approx(mean + design @ biases, abs=1e-4)


def test_the_bias_model_expects_the_mean_of_strangers() -> None:
    data = interactions([0, 0, 1, 2], [0, 1, 1, 2], [5, 3, 1, 5])
    assert bias_scores(data, np.array([0, 1, 2]), 1.0)[3] == pytest.approx(3)


def test_means_by_hand() -> None:
    data = interactions([0, 0, 0, 1, 2], [0, 1, 1, 0, 1], [5, 2, 4, 1, 3])
    rows = np.array([0, 1, 3])  # mean 8/3; user 0: 3.5, user 1: 1, item 0: 3, item 1: 2
    assert MEAN_BASELINES["user mean"](data, rows) == pytest.approx([3.5, 3.5, 3.5, 1, 8 / 3])
    assert MEAN_BASELINES["item mean"](data, rows) == pytest.approx([3, 2, 2, 3, 2])
    assert MEAN_BASELINES["user + item mean"](data, rows) == pytest.approx([6.5, 5.5, 5.5, 4, 2 + 8 / 3])


def test_always_like_is_the_share_of_likes_in_train() -> None:
    data = town()
    split, label = split_of(data), data.rating >= 4
    answers = baseline_probabilities(data, split, label)
    assert sorted(answers) == sorted(NAMES)
    assert (answers["always like"] == label[split.train].mean()).all()
    assert label[split.train].mean() != label.mean()


def test_peers_never_look_at_test_rows() -> None:
    data = town()
    split, label = split_of(data), data.rating >= 4
    rating, turned = data.rating.copy(), label.copy()
    rating[split.test] = 6 - rating[split.test]
    turned[split.test] = ~turned[split.test]
    before = baseline_probabilities(data, split, label)
    after = baseline_probabilities(replace(data, rating=rating), split, turned)
    for name in NAMES:
        assert np.array_equal(before[name], after[name]), name


def test_peers_learn_from_valid_too() -> None:
    data = town()
    split, label = split_of(data), data.rating >= 4
    scores = bias_scores(data, split.evidence_rows, 3.0)
    assert not np.allclose(scores, bias_scores(data, split.train, 3.0))
    p = baseline_probabilities(data, split, label)["user mean"]
    order = np.argsort(MEAN_BASELINES["user mean"](data, split.evidence_rows), kind="stable")
    assert (np.diff(p[order]) >= 0).all()


def test_the_bias_model_tells_good_from_bad_and_its_probabilities_are_calibrated() -> None:
    data = town(rows=3000)
    split, label = split_of(data), data.rating >= 4
    answers = baseline_probabilities(data, split, label)
    test = split.test
    aucs = {name: roc_auc_score(label[test], answers[name][test]) for name in NAMES}
    assert aucs["always like"] == 0.5
    assert aucs["bias model"] > max(aucs["user mean"], aucs["item mean"]) + 0.03
    assert answers["bias model"][test].mean() == pytest.approx(label[test].mean(), abs=0.05)
