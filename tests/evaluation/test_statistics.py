"""Intervals and p-values: weights against repeated rows, and coverage over many draws."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from mmrec.evaluation import statistics
from mmrec.evaluation.metrics import evaluate
from mmrec.evaluation.statistics import Difference, bootstrap, holm_correction, paired_t_test


def weighted_mean(label, value, weight):
    """The simplest of weighted metrics; it needs no labels."""
    return np.asarray(weight @ value / weight.sum(axis=-1))


WEIGHTED_ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 5), st.lists(st.integers(0, 3), min_size=3, max_size=3)),
    min_size=1,
    max_size=30,
)


@given(WEIGHTED_ROWS, st.sampled_from([80, 90, 95]))
@settings(max_examples=80, deadline=None)
def test_a_weight_counts_as_so_many_rows(rows, tpr):
    label = np.array([label for label, _, _ in rows])
    p = np.array([number / 5 for _, number, _ in rows])
    weights = np.array([weight for _, _, weight in rows]).T  # three weightings at once
    aucs = statistics.weighted_auc(label, p, weights)
    fprs = statistics.weighted_fpr_at_tpr(label, p, weights, tpr / 100)
    assert aucs.shape == fprs.shape == (3,)
    for weight, auc, fpr in zip(weights, aucs, fprs, strict=True):
        copies = np.repeat(np.arange(len(rows)), weight)
        if len(set(label[copies].tolist())) < 2:
            assert np.isnan([auc, fpr]).all()
            continue
        metrics = evaluate(label[copies], p[copies], (0.5, 0.5))
        assert auc == pytest.approx(metrics["auc"], abs=1e-12)
        assert fpr == pytest.approx(metrics[f"fpr_at_{tpr}"])
        assert float(statistics.weighted_auc(label, p, weight)) == auc  # a single weighting


def random_rows(seed, rows=400, users=80):
    """Users, labels, and probabilities that depend on the labels."""
    rng = np.random.default_rng(seed)
    user = rng.integers(users, size=rows)
    label = rng.random(rows) < 0.7
    return user, label, np.round(0.3 * label + 0.7 * rng.random(rows), 2)


def test_the_interval_is_that_of_drawing_rows_again():
    user, label, p = random_rows(0)
    value, low, high, _ = bootstrap(user, label, p, statistics.weighted_auc, rounds=2000)
    assert value == pytest.approx(roc_auc_score(label, p))
    rng, aucs = np.random.default_rng(9), []
    rows_of_user = [np.flatnonzero(user == code) for code in np.unique(user)]
    for _ in range(800):
        codes = rng.integers(len(rows_of_user), size=len(rows_of_user))
        sample = np.concatenate([rows_of_user[code] for code in codes])
        aucs.append(roc_auc_score(label[sample], p[sample]))
    assert (low, high) == pytest.approx(tuple(np.quantile(aucs, [0.025, 0.975])), abs=0.006)


def test_the_interval_by_hand_leaves_out_a_fortieth_at_either_end():
    # Half of 8 users like: draws have k likes with the shares 1, 8, 28, ... of 256. No like has a share of
    # .004, and at most one of .035, so the quantile of .025 is one like of eight; that of .05 would be two.
    label = np.arange(8) < 4
    interval = bootstrap(np.arange(8), label, label.astype(float), weighted_mean, rounds=8000)[:3]
    assert interval == (0.5, 1 / 8, 7 / 8)


def test_a_user_is_drawn_with_all_rows():
    # A hundred copies of every row add nothing, where they are of the same user.
    value, user = np.random.default_rng(2).normal(size=50), np.arange(50)
    alone = bootstrap(user, value > 0, value, weighted_mean, seed=5)
    copies = [np.repeat(column, 100) for column in (user, value > 0, value)]
    assert bootstrap(*copies, weighted_mean, seed=5) == pytest.approx(alone)
    distinct = bootstrap(np.arange(5000), *copies[1:], weighted_mean, seed=5)
    assert alone[2] - alone[1] > 5 * (distinct[2] - distinct[1])


@pytest.mark.parametrize("max_cells", [1, 1000, 1 << 30])
def test_the_seed_decides_the_interval_and_memory_does_not(max_cells):
    rows = random_rows(1)
    expected = pytest.approx(bootstrap(*rows, statistics.weighted_auc, rounds=50, seed=7), rel=1e-12)
    assert bootstrap(*rows, statistics.weighted_auc, None, 50, 7, max_cells) == expected
    assert bootstrap(*rows, statistics.weighted_auc, None, 50, 8, max_cells) != expected


def test_rounds_without_likes_or_dislikes_do_not_count():
    # With two users, half of the rounds draw only one of them: only likes, or only dislikes.
    user, label, p = np.array([0, 1]), np.array([True, False]), np.array([0.9, 0.1])
    assert bootstrap(user, label, p, statistics.weighted_auc)[:3] == (1, 1, 1)
    gap = bootstrap(user, label, p, statistics.weighted_auc, 1 - p)
    assert gap[:3] == (1, 1, 1)
    assert 2 / 701 < gap.p_value < 2 / 301


def test_the_paired_bootstrap_by_hand():
    user, label, p = random_rows(4)
    assert bootstrap(user, label, p, statistics.weighted_auc, p) == (0, 0, 0, 1)
    # The same users for both: a constant difference is certain.
    for first, second, sign in ((p, p - 0.25, 1), (p - 0.25, p, -1)):
        gap = bootstrap(user, label, first, weighted_mean, second, rounds=300)
        assert gap == pytest.approx((sign * 0.25, sign * 0.25, sign * 0.25, 2 / 301))
    worse = np.random.default_rng(0).permutation(p)
    gap = bootstrap(user, label, p, partial(statistics.weighted_fpr_at_tpr, tpr=0.8), worse)
    expected, of_worse = (evaluate(label, x, (0.5, 0.5))["fpr_at_80"] for x in (p, worse))
    assert gap.mean == pytest.approx(expected - of_worse)
    assert gap.low < gap.mean < gap.high < 0
    assert gap.p_value < 0.01


def test_the_paired_t_test_by_hand():
    gap = paired_t_test([0.72, 0.75, 0.71], [0.70, 0.71, 0.70])
    # Differences of .02, .04 and .01: mean .07/3, standard error from their spread, two degrees of freedom.
    error = np.std([0.02, 0.04, 0.01], ddof=1) / 3**0.5
    half = stats.t.ppf(0.975, 2) * error
    p_value = 2 * stats.t.sf(0.07 / 3 / error, 2)
    assert gap == pytest.approx((0.07 / 3, 0.07 / 3 - half, 0.07 / 3 + half, p_value))
    assert paired_t_test([0.7, 0.8], [0.7, 0.8]) == (0, 0, 0, 1)
    # Differences that do not vary prove nothing.
    gap = paired_t_test([0.75, 0.85, 0.65], [0.7, 0.8, 0.6])
    assert gap == pytest.approx((0.05, 0.05, 0.05, 1))
    single = paired_t_test([0.75], [0.5])
    assert single == (0.25, 0.25, 0.25, 1)
    assert (single.as_text(2), single.interval) == ("+0.25", (0.25,))
    assert Difference(0.5, -0.25, 1.0, 0.4).as_text(1) == "+0.5 [-0.2, +1.0]"


def test_holm_correction_by_hand():
    # In order: .005 x 4, .01 x 3, .03 x 2, and .04 x 1, which may not fall below the one before.
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.7, 0.9, 0.4]) == pytest.approx([1, 1, 1])
    assert holm_correction([0.02]) == pytest.approx([0.02])
    assert holm_correction([]).shape == (0,)
