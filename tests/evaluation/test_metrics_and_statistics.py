"""Metrics and thresholds by hand; intervals and p-values: weights against repeated rows, and by hand."""

import json
from functools import partial
from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats
from sklearn.metrics import roc_auc_score

from mmrec.evaluation import metrics as evaluation
from mmrec.evaluation import statistics
from mmrec.evaluation.metrics import METRICS, Metrics, choose_threshold, evaluate, rates_at_threshold
from mmrec.evaluation.statistics import Difference, bootstrap, holm_correction, paired_t_test
from mmrec.ranker.training import class_weights

EQUAL = (0.5, 0.5)
LABEL = np.array([True, True, True, True, False, False])
PROBABILITY = np.array([0.9, 0.8, 0.6, 0.3, 0.7, 0.2])


def test_metrics_by_hand():
    right = [0.9, 0.8, 0.6, 0.3, 0.3, 0.8]
    assert evaluate(LABEL, PROBABILITY, EQUAL) == pytest.approx(
        {
            "accuracy": 4 / 6,
            "fpr": 1 / 2,
            "loss": -np.log(right).mean(),
            "auc": 6 / 8,  # of 4 x 2 pairs, 0.6 and 0.3 lose to 0.7
            "ap_negative": (1 / 1 + 2 / 4) / 2,  # dislikes are the 1st and the 4th from below
            "ap_positive": (1 + 1 + 3 / 4 + 4 / 5) / 4,  # likes are the 1st, 2nd, 4th and 5th from above
            "brier": (0.1**2 + 0.2**2 + 0.4**2 + 0.7**2 + 0.7**2 + 0.2**2) / 6,
            "ece": (0.2 + 0.7 + 0.4 + 0.7 + 0.2 + 0.1) / 6,  # each row is a bin
            **{f"tpr_at_{percent}": 0.5 for percent in (10, 20, 30)},
            **{f"fpr_at_{percent}": 0.5 for percent in (80, 90, 95)},
            "rows": 6,
            "likes": 4,
        }
    )


def test_metrics_with_class_weights_by_hand():
    # Twice the weight on a dislike: the threshold is p = 2/3, so that 0.6 is refused too.
    metrics = evaluate(LABEL, PROBABILITY, (2 / 3, 1 / 3))
    q = PROBABILITY / (PROBABILITY + 2 * (1 - PROBABILITY))
    loss = np.where(LABEL, -np.log(q), -2 * np.log(1 - q)).sum() / (4 * 1 + 2 * 2)
    expected = {"accuracy": 3 / 6, "fpr": 1 / 2, "loss": loss, "auc": 6 / 8}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    # The loss of a certain error is finite.
    assert 10 < evaluate(np.array([True, False]), np.array([0.0, 1.0]), EQUAL)["loss"] < 20


def test_every_metric_is_in_the_table_once_and_survives_json():
    metrics = evaluate(LABEL, PROBABILITY, EQUAL)
    names = [metric.name for metric in METRICS]
    assert sorted(metrics) == sorted([*names, "rows", "likes"])
    again = TypeAdapter(Metrics).validate_json(json.dumps(metrics, allow_nan=False))
    assert again == metrics
    assert isinstance(again["rows"], int)


ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def test_rates_by_hand():
    # From above 16 likes, a dislike, 2 likes, a dislike, a like, a dislike, a like, 7 dislikes.
    label = np.repeat([True, False] * 4, [16, 1, 2, 1, 1, 1, 1, 7])
    metrics = evaluate(label, np.linspace(1, 0, 30), EQUAL)
    assert [metrics[f"fpr_at_{percent}"] for percent in (80, 90, 95)] == [0, 0.1, 0.2]
    assert [metrics[f"tpr_at_{percent}"] for percent in (10, 20, 30)] == [0.9, 0.95, 1]
    assert evaluate(label, np.full(30, 0.3), EQUAL)["tpr_at_30"] == 0


@pytest.mark.parametrize(
    ("rows", "likes", "error"),
    [
        ((50, 50), (20, 45), 0.15),  # off by .2 in one half of the rows, by .1 in the other
        ((50, 50), (20, 30), 0.2),  # signs do not cancel
        ((10, 90), (7, 72), 0.1 * 0.5),  # a bin counts by its rows
    ],
)
def test_the_calibration_error_by_hand(rows, likes, error):
    label = np.concatenate([np.arange(n) < k for n, k in zip(rows, likes, strict=True)])
    for weights in (EQUAL, (0.9, 0.1)):
        assert evaluate(label, np.repeat([0.2, 0.8], rows), weights)["ece"] == pytest.approx(error)


def test_calibration_bins_hold_equally_many_rows_and_keep_ties_together():
    rng = np.random.default_rng(1)
    p = rng.random(5000)
    bins = evaluation.calibration_bins(rng.random(5000) < p, p, 20)
    assert bins[:, 2].tolist() == [250] * 20
    assert np.all(np.diff(bins[:, 0]) > 0)
    assert np.abs(bins[:, 0] - bins[:, 1]).max() < 0.1
    tied = evaluation.calibration_bins(np.array([True, False, True, True]), np.full(4, 0.5))
    assert tied.tolist() == [[0.5, 0.75, 4]]


@given(st.floats(0, 1), st.floats(0.01, 0.99))
@settings(max_examples=200, deadline=None)
def test_reweighting_multiplies_the_odds_by_the_ratio_of_the_weights(p, like):
    q = float(evaluation.reweighted(np.array([p]), (1 - like, like))[0])
    assert q * (1 - like) * (1 - p) == pytest.approx((1 - q) * like * p, abs=1e-12)
    assert float(evaluation.reweighted(np.array([p]), EQUAL)[0]) == pytest.approx(p)


@pytest.mark.parametrize("likes", [1, 7, 50, 93])
def test_always_like_has_a_false_positive_rate_of_one(likes):
    label = np.arange(100) < likes
    metrics = evaluate(label, np.full(100, label.mean()), class_weights(label, "basic"))
    assert (metrics["fpr"], metrics["auc"], metrics["fpr_at_80"]) == (1, 0.5, 1)
    assert metrics["accuracy"] == pytest.approx(likes / 100)


def test_a_slice_is_evaluated_alone_where_it_has_20_likes_and_dislikes():
    rows = np.arange(60)
    label, probability = rows < 30, np.linspace(0, 1, 60)
    mask = (rows >= 10) & (rows < 50)
    masks = {"19 likes": rows >= 11, "19 dislikes": rows < 49, "20 of each": mask, "empty": rows < 0}
    assert evaluation.slice_metrics(label, probability, (0.7, 0.3), masks) == {
        "19 likes": {"rows": 49, "likes": 19},
        "19 dislikes": {"rows": 49, "likes": 30},
        "20 of each": evaluate(label[mask], probability[mask], (0.7, 0.3)),
        "empty": {"rows": 0, "likes": 0},
    }


@pytest.mark.parametrize(
    ("bound", "thresholds"),
    [
        ("max_fpr", {0: 0.8, 0.24: 0.8, 0.25: 0.6, 0.49: 0.6, 0.5: 0.5, 0.99: 0.4, 1: 0.3}),
        ("min_tpr", {0.01: 0.9, 0.25: 0.9, 0.26: 0.8, 0.75: 0.6, 0.76: 0.5, 1: 0.5}),
    ],
)
def test_thresholds_and_their_rates_by_hand(bound, thresholds):
    label = np.array([1, 1, 0, 1, 0, 1, 0, 0], dtype=bool)
    probability = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4, 0.3])
    for value, threshold in thresholds.items():
        assert choose_threshold(label, probability, bound, value) == threshold, value
    # Three likes of four and one dislike of four are at .6 or above.
    assert rates_at_threshold(label, probability, 0.6) == (3 / 4, 1 / 4, 4 / 8, 3 / 4)
    assert rates_at_threshold(label, probability, 0.61) == (2 / 4, 1 / 4, 3 / 8, 2 / 3)
    curve = evaluation.threshold_curve(label, probability)
    assert [curve.for_max_fpr(bound) for bound in (0.249, 0.25)] == [(0.8, 2 / 4), (0.6, 3 / 4)]
    # Nothing is recommended where the best is disliked.
    assert choose_threshold(~label, probability, "max_fpr", 0.2) == inf
    nothing = rates_at_threshold(label, probability, inf)
    assert nothing[:3] == (0, 0, 0)
    assert isnan(nothing.precision)
    assert isnan(rates_at_threshold(np.array([True]), np.array([0.9]), 0.5).fpr)


@given(
    ROWS,
    st.one_of(st.floats(0, 1), st.sampled_from([0.1, 0.2, 1 / 3, 0.5, 0.9])),
    st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=100, deadline=None)
def test_a_threshold_keeps_its_bound_and_no_other_is_better(rows, value, dtype):
    label, scores = map(np.array, zip(*rows, strict=True))
    probability = (scores / 7).astype(dtype)
    cuts = [*np.unique(probability).tolist(), inf]
    rates = {cut: rates_at_threshold(label, probability, cut) for cut in cuts}
    within = [cut for cut in cuts if rates[cut].fpr <= value + 1e-12]
    assert choose_threshold(label, probability, "max_fpr", value) == min(within)
    within = [cut for cut in cuts if rates[cut].tpr >= value - 1e-12]
    assert choose_threshold(label, probability, "min_tpr", value) == max(within)


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
        metrics = evaluate(label[copies], p[copies], EQUAL)
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
    order = np.random.default_rng(3).permutation(5000)  # no user's rows stand together
    copies = [np.repeat(column, 100)[order] for column in (user, value > 0, value)]
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
    assert bootstrap(user, label, p, statistics.weighted_auc, 1 - p)[:3] == (1, 1, 1)
    samples = statistics.bootstrap_samples(user, label, p, statistics.weighted_auc)
    assert 2 / 701 < statistics.describe_samples(1.0, samples).p_value < 2 / 301


def test_a_ratio_is_that_of_the_sums_of_users_drawn_again():
    rng = np.random.default_rng(0)
    parts = np.stack([rng.integers(0, 4, 900), rng.integers(1, 9, 900)], axis=1).astype(float)
    ratio = bootstrap(np.arange(900), parts, parts, statistics.weighted_ratio, rounds=2000)
    assert ratio.mean == parts[:, 0].sum() / parts[:, 1].sum()
    # The delta method.
    deviation = np.std(parts[:, 0] - ratio.mean * parts[:, 1]) / np.sqrt(900) / parts[:, 1].mean()
    assert ratio.high - ratio.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    nothing = bootstrap(np.arange(900), parts, 0 * parts, statistics.weighted_ratio, rounds=20)
    assert np.isnan(nothing).all()


def test_the_paired_bootstrap_by_hand():
    user, label, p = random_rows(4)
    assert bootstrap(user, label, p, statistics.weighted_auc, p) == (0, 0, 0, 1)
    # The same users for both: a constant difference is certain.
    for first, second, sign in ((p, p - 0.25, 1), (p - 0.25, p, -1)):
        gap = bootstrap(user, label, first, weighted_mean, second, rounds=300)
        assert gap == pytest.approx((sign * 0.25, sign * 0.25, sign * 0.25, 2 / 301))
    worse = np.random.default_rng(0).permutation(p)
    gap = bootstrap(user, label, p, partial(statistics.weighted_fpr_at_tpr, tpr=0.8), worse)
    expected, of_worse = (evaluate(label, x, EQUAL)["fpr_at_80"] for x in (p, worse))
    assert gap.mean == pytest.approx(expected - of_worse)
    assert gap.low < gap.mean < gap.high < 0
    assert gap.p_value < 0.01


@pytest.mark.parametrize(("users", "p_value"), [(1, 1), (2, 0.5), (4, 0.125), (5, 0.0625), (300, 2 / 1001)])
def test_few_users_prove_nothing(users, p_value):
    user, label = np.arange(600) % users, np.arange(600) % 7 > 2
    gap = bootstrap(user, label, np.full(600, 0.9), weighted_mean, np.full(600, 0.4))
    assert gap == pytest.approx((0.5, 0.5, 0.5, p_value))


def test_the_paired_t_test_by_hand():
    gap = paired_t_test([0.72, 0.75, 0.71], [0.70, 0.71, 0.70])
    # Differences of .02, .04 and .01: mean .07/3, standard error from their spread, two degrees of freedom.
    mean, error = 0.07 / 3, np.std([0.02, 0.04, 0.01], ddof=1) / 3**0.5
    half, p_value = stats.t.ppf(0.975, 2) * error, 2 * stats.t.sf(mean / error, 2)
    assert gap == pytest.approx((mean, mean - half, mean + half, p_value))
    assert paired_t_test([0.7, 0.8], [0.7, 0.8]) == (0, 0, 0, 1)
    # Differences that do not vary prove nothing.
    assert paired_t_test([0.75, 0.85, 0.65], [0.7, 0.8, 0.6]) == pytest.approx((0.05, 0.05, 0.05, 1))
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
