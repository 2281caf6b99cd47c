"""Thresholds of operating points, worked by hand and by trying every threshold."""

from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.evaluation.thresholds import OperatingPoint, rates_at_threshold

LABEL = np.array([1, 1, 0, 1, 0, 1, 0, 0], dtype=bool)
PROBABILITY = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4, 0.3])


@pytest.mark.parametrize(
    ("rate", "thresholds"),
    [
        ("max_fpr", {0: 0.8, 0.24: 0.8, 0.25: 0.6, 0.49: 0.6, 0.5: 0.5, 0.99: 0.4, 1: 0.3}),
        ("min_tpr", {0.01: 0.9, 0.25: 0.9, 0.26: 0.8, 0.75: 0.6, 0.76: 0.5, 1: 0.5}),
    ],
)
def test_thresholds_of_operating_points_by_hand(rate: str, thresholds: dict[float, float]) -> None:
    for bound, threshold in thresholds.items():
        assert OperatingPoint(rate, bound).threshold(LABEL, PROBABILITY) == threshold, bound


def test_nothing_is_recommended_where_the_best_is_disliked() -> None:
    threshold = OperatingPoint("max_fpr", 0.2).threshold(~LABEL, PROBABILITY)
    assert threshold == inf
    result = rates_at_threshold(LABEL, PROBABILITY, threshold)
    assert (result.tpr, result.fpr, result.share) == (0, 0, 0)
    assert isnan(result.precision)


def test_rates_at_a_threshold_by_hand() -> None:
    # Three likes of four and one dislike of four are at .6 or above.
    assert rates_at_threshold(LABEL, PROBABILITY, 0.6) == (3 / 4, 1 / 4, 4 / 8, 3 / 4)
    assert rates_at_threshold(LABEL, PROBABILITY, 0.61) == (2 / 4, 1 / 4, 3 / 8, 2 / 3)
    assert rates_at_threshold(LABEL, PROBABILITY, 0) == (1, 1, 1, 1 / 2)
    only_likes = rates_at_threshold(np.array([True, True]), np.array([0.1, 0.9]), 0.5)
    assert (only_likes.tpr, only_likes.share, only_likes.precision) == (0.5, 0.5, 1)
    assert isnan(only_likes.fpr)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    ),
    st.one_of(st.floats(0, 1), st.sampled_from([0.1, 0.2, 1 / 3, 0.5, 0.9])),
    st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=100, deadline=None)
def test_a_threshold_keeps_its_bound_and_no_other_is_better(
    rows: list[tuple[bool, int]], value: float, dtype: type[np.floating]
) -> None:
    label = np.array([label for label, _ in rows])
    probability = np.array([number / 7 for _, number in rows], dtype=dtype)
    cuts = [*np.unique(probability).tolist(), inf]
    within = [cut for cut in cuts if rates_at_threshold(label, probability, cut).fpr <= value + 1e-12]
    assert OperatingPoint("max_fpr", value).threshold(label, probability) == min(within)
    within = [cut for cut in cuts if rates_at_threshold(label, probability, cut).tpr >= value - 1e-12]
    assert OperatingPoint("min_tpr", value).threshold(label, probability) == max(within)
