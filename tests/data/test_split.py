"""Filtering and splitting: properties of every split of every table."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmrec.config import SplitConfig
from mmrec.data.schema import filter_reviews, split_reviews
from mmrec.errors import DataError
from review_tables import interactions, tables


def split(data, seed=0, passed_filter=None, **settings):
    return split_reviews(data, SplitConfig(**settings), np.random.default_rng(seed), passed_filter)


def dense_table(users=30, items=20):
    user, item = np.divmod(rows := np.arange(users * items), items)
    return interactions(user.tolist(), item.tolist(), time=rows[::-1].tolist())


def slow_filter(rows, min_reviews):
    while True:
        users, items = Counter(user for user, _ in rows), Counter(item for _, item in rows)
        remaining = [pair for pair in rows if min(users[pair[0]], items[pair[1]]) >= min_reviews]
        if len(remaining) == len(rows):
            return rows
        rows = remaining


@given(st.data(), st.integers(0, 99), st.sampled_from(["random", "time"]))
@settings(max_examples=200, deadline=None)
def test_parts_are_disjoint_and_keep_users_and_items_or_the_order_of_time(draw, seed, method):
    data = draw.draw(tables(gaps=method == "random"))
    try:
        parts = split(data, seed, split_by=method)
    except DataError:
        assume(False)
    together = np.concatenate([parts.train, parts.valid, parts.test])
    assert sorted(together.tolist()) == list(range(len(data)))
    for part in (parts.train, parts.valid, parts.test, parts.evidence_rows):
        assert len(part)
        assert (np.diff(part) > 0).all()
    assert parts.evidence_rows.tolist() == sorted([*parts.train.tolist(), *parts.valid.tolist()])
    if method == "time":
        assert data.time[parts.train].max() < data.time[parts.valid].min()
        assert data.time[parts.valid].max() < data.time[parts.test].min()
        return
    assert len(parts.test) <= round(0.25 * len(data))
    assert len(parts.valid) <= round(0.1 * (len(data) - len(parts.test)))
    for entity in (data.user, data.item):
        assert {*entity[parts.valid], *entity[parts.test]} <= {*entity[parts.train]}


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, (150, 45, 405)),
        ({"test_share": 0.5, "valid_share": 0.2}, (300, 60, 240)),
        ({"split_by": "time"}, (150, 45, 405)),
    ],
)
def test_shares_are_met_in_large_tables(settings, sizes):
    parts = split(dense_table(), **settings)
    assert (len(parts.test), len(parts.valid), len(parts.train)) == sizes
    if settings == {"split_by": "time"}:
        assert parts.test.tolist() == list(range(150))


def test_every_row_can_come_into_test_and_the_seed_decides():
    data = dense_table(6, 5)
    drawn = [split(data, seed).test.tolist() for seed in range(60)]
    assert {*np.concatenate(drawn)} == {*range(len(data))}
    assert drawn == [split(data, seed).test.tolist() for seed in range(60)]


@pytest.mark.parametrize(
    ("items", "times", "method", "reason"),
    [
        (range(4), None, "random", "too few"),
        ([0] * 40, [*range(39), None], "time", "1 of 40 reviews have no time"),
        ([0] * 40, [7] * 40, "time", "no review can go to test"),
    ],
)
def test_what_cannot_be_split_is_refused(items, times, method, reason):
    with pytest.raises(DataError, match=reason):
        split(interactions([*items], [*items], time=times), split_by=method)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=50), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_filtering_is_a_fixpoint_and_equals_a_slow_one(rows, min_reviews):
    named = [(f"u{user}", f"i{item}") for user, item in rows]
    table = pl.DataFrame(named, schema=["user", "item"], orient="row").with_row_index("row")
    expected = slow_filter(named, min_reviews)
    if not expected:
        with pytest.raises(DataError, match="no review is left"):
            filter_reviews(table, min_reviews)
        return
    filtered = filter_reviews(table, min_reviews)
    assert filtered.drop("row").rows() == expected
    assert filtered["row"].is_sorted()
    assert filter_reviews(filtered, min_reviews).equals(filtered)


def test_filtered_reviews_of_a_later_time_are_no_evidence():
    data = interactions([0] * 8 + [1, 2, 3], [0] * 11, time=[1, 2, 3, 4, 5, 6, 7, 8, 3, 8, None])
    passed = np.arange(11) < 8
    assert split(data, passed_filter=passed, split_by="time").filtered_rows.tolist() == [8]
    assert split(data, passed_filter=passed, test_share=0.1).filtered_rows.tolist() == [8, 9, 10]
