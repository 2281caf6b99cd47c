"""Intervals and p-values: weights against repeated rows, and what they promise against many draws."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, roc_auc_score

from mmrec.evaluation import (
    bootstrap_interval,
    fpr_at_tpr,
    holm_correction,
    paired_bootstrap,
    paired_t_test,
    weighted_auc,
    weighted_brier,
    weighted_fpr_at_tpr,
    weighted_mean,
)
from mmrec.evaluation import statistics as module

WEIGHTED = st.lists(
    st.tuples(st.booleans(), st.integers(0, 5), st.lists(st.integers(0, 3), min_size=3, max_size=3)),
    min_size=1,
    max_size=30,
)


@given(WEIGHTED, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
@settings(max_examples=80, deadline=None)
def test_a_weight_is_as_many_rows(rows: list[tuple[bool, int, list[int]]], tpr: float) -> None:
    label = np.array([one for one, _, _ in rows])
    p = np.array([one / 5 for _, one, _ in rows])
    weights = np.array([one for _, _, one in rows]).T  # three weightings at once
    aucs = weighted_auc(label, p, weights)
    fprs = weighted_fpr_at_tpr(label, p, weights, tpr)
    with np.errstate(invalid="ignore"):
        briers = weighted_brier(label, p, weights)
    assert aucs.shape == fprs.shape == briers.shape == (3,)
    for weight, auc, fpr, brier in zip(weights, aucs, fprs, briers, strict=True):
        copies = np.repeat(np.arange(len(rows)), weight)
        if len(set(label[copies].tolist())) < 2:
            assert np.isnan([auc, fpr]).all()
            continue
        assert auc == pytest.approx(roc_auc_score(label, p, sample_weight=weight), abs=1e-12)
        assert auc == pytest.approx(roc_auc_score(label[copies], p[copies]), abs=1e-12)
        assert fpr == pytest.approx(fpr_at_tpr(label[copies], p[copies], tpr))
        assert brier == pytest.approx(brier_score_loss(label[copies], p[copies]))
        assert float(weighted_auc(label, p, weight)) == auc  # and one weighting alone


def test_the_weighted_auc_by_hand() -> None:
    label, p = np.array([True, False, True, False]), np.array([0.9, 0.6, 0.6, 0.1])
    # Pairs: .9 beats both, .6 ties with one and beats the other; then the dislike at .6 counts three times.
    assert float(weighted_auc(label, p, np.ones(4))) == 3.5 / 4
    assert float(weighted_auc(label, p, np.array([1, 3, 1, 1]))) == pytest.approx((4 + 1 + 1.5) / 8)


def any_rows(seed: int, rows: int = 400, users: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, labels, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    user = rng.integers(users, size=rows)
    label = rng.random(rows) < 0.7
    return user, label, np.round(0.3 * label + 0.7 * rng.random(rows), 2)


def test_the_interval_is_that_of_drawing_rows_again() -> None:
    user, label, p = any_rows(0)
    value, low, high = bootstrap_interval(user, label, p, weighted_auc, rounds=2000)
    assert value == pytest.approx(roc_auc_score(label, p))
    rng, aucs = np.random.default_rng(9), []
    rows_of = [np.flatnonzero(user == one) for one in np.unique(user)]
    for _ in range(800):
        drawn = np.concatenate([rows_of[one] for one in rng.integers(len(rows_of), size=len(rows_of))])
        aucs.append(roc_auc_score(label[drawn], p[drawn]))
    assert (low, high) == pytest.approx(tuple(np.quantile(aucs, [0.025, 0.975])), abs=0.006)


def test_a_user_is_drawn_with_all_rows() -> None:
    # One hundred copies of every row tell no more than one, where the user is known to be the same.
    rng = np.random.default_rng(2)
    value = rng.normal(size=50)
    user = np.arange(50)
    alone = bootstrap_interval(user, value > 0, value, weighted_mean, seed=5)
    copied = [np.repeat(part, 100) for part in (user, value > 0, value)]
    assert bootstrap_interval(*copied, weighted_mean, seed=5) == pytest.approx(alone)
    strangers = bootstrap_interval(np.arange(5000), *copied[1:], weighted_mean, seed=5)
    assert alone[2] - alone[1] > 5 * (strangers[2] - strangers[1])


def test_the_interval_of_a_mean_is_normal() -> None:
    value = np.random.default_rng(3).normal(size=500)
    mean, low, high = bootstrap_interval(np.arange(500), value > 0, value, weighted_mean, rounds=4000)
    half = 1.96 * value.std() / 500**0.5
    assert (mean, low, high) == pytest.approx(
        (value.mean(), value.mean() - half, value.mean() + half), abs=0.01
    )


@pytest.mark.parametrize("cells", [1, 1000, 1 << 30])
def test_one_seed_gives_one_result_however_much_fits_in_memory(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, label, p = any_rows(1)
    expected = bootstrap_interval(user, label, p, weighted_auc, 50, 7)
    monkeypatch.setattr(module, "_CELLS", cells)
    assert bootstrap_interval(user, label, p, weighted_auc, 50, 7) == expected
    assert bootstrap_interval(user, label, p, weighted_auc, 50, 8) != expected


def test_rounds_that_tell_nothing_do_not_count() -> None:
    # With two users, half of the rounds draw one alone: only likes, or only dislikes.
    user, label, p = np.array([0, 1]), np.array([True, False]), np.array([0.9, 0.1])
    assert bootstrap_interval(user, label, p, weighted_auc) == (1, 1, 1)
    gap = paired_bootstrap(user, label, p, 1 - p, weighted_auc)
    assert (gap.mean, gap.low, gap.high) == (1, 1, 1)
    assert 2 / 701 < gap.p_value < 2 / 301


def test_the_difference_by_hand() -> None:
    user, label, p = any_rows(4)
    same = paired_bootstrap(user, label, p, p, weighted_auc)
    assert same == (0, 0, 0, 1)
    # The same users for both: where b is a less a constant, there is no doubt at all.
    shifted = paired_bootstrap(user, label, p, p - 0.25, weighted_mean, rounds=300)
    assert shifted[:3] == pytest.approx((0.25, 0.25, 0.25))
    assert shifted.p_value == pytest.approx(2 / 301)
    other = paired_bootstrap(user, label, p - 0.25, p, weighted_mean, rounds=300)
    assert other[:3] == pytest.approx((-0.25, -0.25, -0.25))
    assert other.p_value == pytest.approx(2 / 301)


def test_the_difference_is_of_the_figure() -> None:
    user, label, p = any_rows(5)
    worse = np.random.default_rng(0).permutation(p)
    figure = partial(weighted_fpr_at_tpr, tpr=0.8)
    gap = paired_bootstrap(user, label, p, worse, figure)
    assert gap.mean == pytest.approx(fpr_at_tpr(label, p, 0.8) - fpr_at_tpr(label, worse, 0.8))
    assert gap.low < gap.mean < gap.high < 0
    assert gap.p_value < 0.01


def test_where_nothing_differs_small_p_values_are_as_rare_as_they_should_be() -> None:
    rng, values = np.random.default_rng(6), []
    user = np.repeat(np.arange(60), 2)
    for seed in range(300):
        taste = rng.normal(size=(60, 2)).repeat(2, axis=0)
        a, b = (taste[:, side] + 0.3 * rng.normal(size=120) for side in (0, 1))
        values.append(paired_bootstrap(user, a > 0, a, b, weighted_mean, 200, seed).p_value)
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.1
    assert 0.4 < np.mean(np.array(values) < 0.5) < 0.6


def test_over_seeds_by_hand() -> None:
    gap = paired_t_test([0.72, 0.75, 0.71], [0.70, 0.71, 0.70])
    # Differences of .02, .04 and .01: mean .07/3, standard error from their spread, two degrees of freedom.
    error = np.std([0.02, 0.04, 0.01], ddof=1) / 3**0.5
    half = stats.t.ppf(0.975, 2) * error
    assert gap[:3] == pytest.approx((0.07 / 3, 0.07 / 3 - half, 0.07 / 3 + half))
    assert gap.p_value == pytest.approx(2 * stats.t.sf(0.07 / 3 / error, 2))
    assert paired_t_test([0.7, 0.8], [0.7, 0.8]) == (0, 0, 0, 1)


def test_differences_that_do_not_vary_prove_nothing() -> None:
    gap = paired_t_test([0.75, 0.85, 0.65], [0.7, 0.8, 0.6])
    assert gap == pytest.approx((0.05, 0.05, 0.05, 1))


def test_splits_of_the_same_reviews_widen_the_interval() -> None:
    """Two models of the same worth, judged on five overlapping splits: a plain t-test is too often sure."""
    rng, found = np.random.default_rng(5), []
    for _ in range(400):
        each = rng.normal(size=400)  # a row's difference between two models
        gaps = [float(rng.choice(each, 100, replace=False).mean()) for _ in range(5)]
        found.append([paired_t_test(gaps, [0.0] * 5, ratio).p_value < 0.05 for ratio in (0, 1 / 3)])
    plain, corrected = np.mean(found, axis=0)
    assert plain > 0.1
    assert corrected < 0.07


def test_holm_by_hand() -> None:
    # In order: .005 x 4, .01 x 3, .03 x 2, and .04 x 1, which may not fall below the one before.
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.7, 0.9, 0.4]) == pytest.approx([1, 1, 1])
    assert holm_correction([0.02]) == pytest.approx([0.02])
    assert holm_correction([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
@settings(max_examples=200, deadline=None)
def test_holm_rejects_step_by_step(p: list[float], level: float) -> None:
    rejected = set()
    for step, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[at] * (len(p) - step) > level:
            break
        rejected.add(at)
    assert set(np.flatnonzero(holm_correction(p) <= level).tolist()) == rejected
