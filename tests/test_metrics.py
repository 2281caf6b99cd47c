"""Metrics, worked by hand."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from mmrec.evaluation import (
    Metrics,
    calibration_bins,
    evaluate,
    fpr_at_tpr,
    mean_and_standard_error,
    reweighted,
)
from mmrec.ranker.loss import class_weights

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
    # Likes are the 1st, 2nd, 4th and 5th found from above.
    assert scores.ap_positive == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4)
    assert scores.brier == pytest.approx((0.1**2 + 0.2**2 + 0.4**2 + 0.7**2 + 0.7**2 + 0.2**2) / 6)
    assert (scores.tpr_at_10, scores.tpr_at_20, scores.tpr_at_30) == (0.5, 0.5, 0.5)
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


ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@given(ROWS, st.sampled_from([0.8, 0.9, 0.95]))
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


def test_the_recall_at_a_false_positive_rate_by_hand() -> None:
    # Ten dislikes: a like, a dislike, a like, a dislike and so on, and then dislikes alone.
    label = np.array([1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    probability = np.linspace(0.95, 0.05, 14)
    scores = evaluate(label, probability, EQUAL)
    assert (scores.tpr_at_10, scores.tpr_at_20, scores.tpr_at_30) == (0.5, 0.75, 1)
    # A dislike that is tied with the first like is recommended with it.
    tied = np.concatenate([[probability[1]], probability[1:]])
    assert evaluate(label, tied, EQUAL).tpr_at_10 == 0.5
    assert evaluate(~label, np.full(14, 0.3), EQUAL).tpr_at_30 == 0


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_every_rate_of_the_scores_is_the_best_over_all_thresholds(rows: list[tuple[bool, int]]) -> None:
    label, score = np.array([one for one, _ in rows]), np.array([one / 6 for _, one in rows])
    scores = evaluate(label, score, EQUAL)
    pairs = [(0.0, 0.0)]
    pairs += [(np.mean(score[~label] >= cut), np.mean(score[label] >= cut)) for cut in np.unique(score)]
    for share in (10, 20, 30):
        best = max(tpr for fpr, tpr in pairs if fpr <= share / 100)
        assert scores.dict()[f"tpr_at_{share}"] == pytest.approx(best)
    for share in (80, 90, 95):
        assert scores.dict()[f"fpr_at_{share}"] == fpr_at_tpr(label, score, share / 100)
    assert scores.auc == pytest.approx(roc_auc_score(label, score))


def test_the_calibration_error_by_hand() -> None:
    # Off by .2 in one half of the rows, by .1 in the other.
    probability = np.repeat([0.2, 0.8], 50)
    label = np.concatenate([np.arange(50) < 20, np.arange(50) < 45])
    assert evaluate(label, probability, EQUAL).ece == pytest.approx(0.15)
    # Signs do not cancel, and a bin counts by its rows.
    label = np.concatenate([np.arange(50) < 20, np.arange(50) < 30])
    assert evaluate(label, probability, EQUAL).ece == pytest.approx(0.2)
    uneven = np.repeat([0.2, 0.8], [10, 90])
    label = np.concatenate([np.arange(10) < 7, np.arange(90) < 72])
    assert evaluate(label, uneven, EQUAL).ece == pytest.approx(0.1 * 0.5)
    assert evaluate(LABEL, np.full(6, 0.5), EQUAL).ece == pytest.approx(4 / 6 - 0.5)


def test_the_calibration_error_is_of_the_probability_without_class_weights() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(20_000)
    label = rng.random(20_000) < probability
    for weights in (EQUAL, (0.9, 0.1)):
        assert evaluate(label, probability, weights).ece < 0.02
        assert evaluate(label, probability**2, weights).ece > 0.1


def test_bins_hold_equally_many_rows() -> None:
    rng = np.random.default_rng(1)
    bins = calibration_bins(rng.random(1000) < 0.5, rng.random(1000) ** 4, 20)
    assert bins[:, 2].tolist() == [50] * 20
    assert np.all(np.diff(bins[:, 0]) > 0)


def test_scores_come_back_from_json() -> None:
    reader = TypeAdapter(dict[str, Metrics])
    scores = {"one": evaluate(LABEL, PROBABILITY, EQUAL)}
    assert reader.validate_python(json.loads(reader.dump_json(scores))) == scores
    assert set(scores["one"].dict()) == {field.name for field in fields(Metrics)}


def test_scores_of_an_older_version_come_back_without_the_newer_figures() -> None:
    newer = {"ap_positive", "tpr_at_10", "tpr_at_20", "tpr_at_30", "brier", "ece"}
    reader = TypeAdapter(Metrics)
    full = evaluate(LABEL, PROBABILITY, EQUAL)
    older = {name: value for name, value in full.dict().items() if name not in newer}
    scores = reader.validate_python(older)
    assert scores.auc == full.auc
    assert all(isnan(getattr(scores, name)) for name in newer)
    assert scores.dict() == older
    again = reader.validate_python(json.loads(reader.dump_json(scores)))
    assert again.dict() == older
    assert all(isnan(getattr(again, name)) for name in newer)
    assert json.dumps(replace(full, ece=nan).dict(), allow_nan=False)


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
    assert scores.ap_positive == pytest.approx(average_precision_score(label, probability))
    assert scores.brier == pytest.approx(brier_score_loss(label, probability))


def test_mean_and_standard_error() -> None:
    assert mean_and_standard_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / 3**0.5))
    assert mean_and_standard_error([4.0]) == (4.0, 0.0)
