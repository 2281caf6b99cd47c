"""Metrics, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from mmrec.metrics import class_weights, evaluate, fpr_at_tpr, mean_and_error, reweighted

EQUAL = (0.5, 0.5)
LABEL = np.array([True, True, True, True, False, False])
PROBABILITY = np.array([0.9, 0.8, 0.6, 0.3, 0.7, 0.2])


def test_scores_by_hand() -> None:
    scores = evaluate(LABEL, PROBABILITY, EQUAL)
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.fpr == pytest.approx(1 / 2)
    right = [0.9, 0.8, 0.6, 0.3, 0.3, 0.8]
    assert scores.loss == pytest.approx(-np.log(right).mean())
    # Of 4 x 2 pairs, 0.6 and 0.3 lose to 0.7.
    assert scores.auc == pytest.approx(6 / 8)
    # Dislikes are the 1st and the 4th found from below.
    assert scores.ap_negative == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert (scores.fpr_at_80, scores.fpr_at_90, scores.fpr_at_95) == (0.5, 0.5, 0.5)
    assert (scores.rows, scores.likes) == (6, 4)


def test_scores_with_class_weights_by_hand() -> None:
    # Twice the weight on a dislike: the threshold is p = 2/3, so that 0.6 is refused too.
    weights = (2 / 3, 1 / 3)
    scores = evaluate(LABEL, PROBABILITY, weights)
    assert scores.accuracy == pytest.approx(3 / 6)
    assert scores.fpr == pytest.approx(1 / 2)
    q = PROBABILITY / (PROBABILITY + 2 * (1 - PROBABILITY))
    entropy = np.where(LABEL, -np.log(q), -2 * np.log(1 - q))
    assert scores.loss == pytest.approx(entropy.sum() / (4 * 1 + 2 * 2))
    assert scores.auc == pytest.approx(6 / 8)


def test_loss_of_a_certain_error_is_finite() -> None:
    scores = evaluate(np.array([True, False]), np.array([0.0, 1.0]), EQUAL)
    assert 10 < scores.loss < 20


def test_the_false_positive_rate_at_a_recall_by_hand() -> None:
    label = np.array([1, 0, 1, 0, 1, 0, 1, 0], dtype=bool)
    score = np.arange(8, 0, -1.0)
    assert [fpr_at_tpr(label, score, tpr) for tpr in (0.25, 0.26, 0.5, 0.75, 0.76, 1.0)] == [
        0,
        0.25,
        0.25,
        0.5,
        0.75,
        0.75,
    ]


def test_tied_likes_bring_their_tied_dislikes() -> None:
    label = np.array([1, 1, 0, 0, 1, 0], dtype=bool)
    score = np.array([3.0, 2.0, 2.0, 2.0, 2.0, 1.0])
    assert fpr_at_tpr(label, score, 1 / 3) == 0
    assert fpr_at_tpr(label, score, 0.34) == pytest.approx(2 / 3)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    ),
    st.sampled_from([0.8, 0.9, 0.95]),
)
@settings(max_examples=200, deadline=None)
def test_the_false_positive_rate_at_a_recall_is_the_lowest_over_all_thresholds(
    rows: list[tuple[bool, int]], tpr: float
) -> None:
    label, score = np.array([one for one, _ in rows]), np.array([float(one) for _, one in rows])
    rates = [
        float(np.mean(score[~label] >= threshold))
        for threshold in np.unique(score)
        if np.mean(score[label] >= threshold) >= tpr
    ]
    assert fpr_at_tpr(label, score, tpr) == pytest.approx(min(rates))


@given(st.floats(0, 1), st.floats(0.01, 0.99))
@settings(max_examples=200, deadline=None)
def test_reweighting_multiplies_the_odds_by_the_ratio_of_the_weights(p: float, like: float) -> None:
    q = float(reweighted(np.array([p]), (1 - like, like))[0])
    assert q * (1 - like) * (1 - p) == pytest.approx((1 - q) * like * p, abs=1e-12)
    assert float(reweighted(np.array([p]), EQUAL)[0]) == pytest.approx(p)


def test_reweighting_minimises_the_weighted_entropy() -> None:
    p, weights = 0.7, (0.6, 0.2)
    grid = np.linspace(0.001, 0.999, 9981)
    entropy = -(weights[1] * p * np.log(grid) + weights[0] * (1 - p) * np.log(1 - grid))
    assert reweighted(np.array([p]), weights)[0] == pytest.approx(grid[np.argmin(entropy)], abs=2e-4)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("plain", (0.5, 0.5)),
        ("basic", (0.8, 0.2)),  # 1 - n_c/n: dislikes are .2 of the rows, likes .8
        ("sqrt", (2 / 3, 1 / 3)),  # sqrt(.8) : sqrt(.2) = 2 : 1
    ],
)
def test_class_weights_follow_the_formula(loss: str, expected: tuple[float, float]) -> None:
    label = np.array([True] * 80 + [False] * 20)
    assert class_weights(label, loss) == pytest.approx(expected)


@pytest.mark.parametrize("likes", [1, 7, 50, 93])
def test_always_like_has_a_false_positive_rate_of_one(likes: int) -> None:
    label = np.arange(100) < likes
    scores = evaluate(label, np.full(100, label.mean()), class_weights(label, "basic"))
    assert scores.fpr == 1
    assert scores.accuracy == pytest.approx(likes / 100)
    assert scores.auc == 0.5
    assert scores.ap_negative == pytest.approx(1 - likes / 100)
    assert scores.fpr_at_80 == 1


@pytest.mark.parametrize("loss", ["plain", "basic", "sqrt"])
def test_scores_agree_with_sklearn(loss: str) -> None:
    rng = np.random.default_rng(5)
    label = rng.random(500) < 0.8
    probability = np.clip(np.round(0.2 * label + rng.random(500) * 0.8, 2), 0.01, 0.99)
    weights = class_weights(label, loss)
    scores = evaluate(label, probability, weights)
    q = reweighted(probability, weights)
    sample = np.where(label, weights[1], weights[0])
    assert scores.loss == pytest.approx(log_loss(label, q, sample_weight=sample))
    assert scores.auc == pytest.approx(roc_auc_score(label, probability))
    assert scores.ap_negative == pytest.approx(average_precision_score(~label, 1 - probability))
    assert scores.accuracy == pytest.approx(np.mean((q >= 0.5) == label))


def test_mean_and_standard_error() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / 3**0.5))
    assert mean_and_error([4.0]) == (4.0, 0.0)
