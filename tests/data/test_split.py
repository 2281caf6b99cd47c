"""Filtering and splitting: properties of every split of every table."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.config import SplitConfig
from mmrec.data.schema import filter_reviews, split_reviews
from mmrec.errors import DataError
from review_tables import interactions, tables

LATER = SplitConfig(split_by="time")


def split(data, seed=0, config=None):
    return split_reviews(data, config or SplitConfig(), np.random.default_rng(seed))


def dense_table(users=30, items=20):
    user, item = np.divmod(np.arange(users * items), items)
    return interactions(user.tolist(), item.tolist(), time=np.arange(users * items)[::-1].tolist())


def pairs(table):
    return list(zip(table["user"].to_list(), table["item"].to_list(), strict=True))


def slow_filter(rows, least):
    while True:
        users, items = Counter(user for user, _ in rows), Counter(item for _, item in rows)
        kept = [(user, item) for user, item in rows if users[user] >= least and items[item] >= least]
        if len(kept) == len(rows):
            return kept
        rows = kept


@given(tables(), st.integers(0, 99), st.sampled_from(["random", "time"]))
@settings(max_examples=150, deadline=None)
def test_parts_are_sorted_disjoint_and_cover_every_row(data, seed, method):
    try:
        parts = split(data, seed, SplitConfig(split_by=method))
    except DataError:
        return
    together = np.concatenate([parts.train, parts.valid, parts.test])
    assert sorted(together.tolist()) == list(range(len(data)))
    for part in (parts.train, parts.valid, parts.test, parts.evidence_rows):
        assert len(part)
        assert (np.diff(part) > 0).all()
    assert parts.evidence_rows.tolist() == sorted([*parts.train.tolist(), *parts.valid.tolist()])


@given(tables(), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_a_random_split_keeps_its_shares_and_tests_seen_users_and_items(data, seed):
    try:
        parts = split(data, seed)
    except DataError:
        return
    assert len(parts.test) <= round(0.25 * len(data))
    assert len(parts.valid) <= round(0.1 * (len(data) - len(parts.test)))
    for entity in (data.user, data.item):
        in_train = set(entity[parts.train].tolist())
        assert {*entity[parts.valid].tolist(), *entity[parts.test].tolist()} <= in_train


@pytest.mark.parametrize(
    ("settings", "sizes"), [({}, (150, 45, 405)), ({"test_share": 0.5, "valid_share": 0.2}, (300, 60, 240))]
)
def test_shares_are_met_in_large_tables(settings, sizes):
    parts = split(dense_table(), config=SplitConfig(**settings))
    assert (len(parts.test), len(parts.valid), len(parts.train)) == sizes


def test_every_row_can_come_into_test():
    data = dense_table(6, 5)
    drawn = {int(row) for seed in range(60) for row in split(data, seed).test}
    assert drawn == set(range(len(data)))


def test_one_seed_gives_one_split_and_another_seed_another():
    data = dense_table()
    first, again, other = split(data, 1), split(data, 1), split(data, 2)
    for name in ("train", "valid", "test"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.test, other.test)
    assert not np.array_equal(first.valid, other.valid)


def test_a_split_of_single_reviews_is_refused():
    with pytest.raises(DataError, match="too few"):
        split(interactions([0, 1, 2, 3], [0, 1, 2, 3]))


@given(tables(gaps=False))
@settings(max_examples=150, deadline=None)
def test_a_time_split_puts_train_before_valid_before_test(data):
    try:
        parts = split(data, config=LATER)
    except DataError:
        return
    assert data.time[parts.train].max() < data.time[parts.valid].min()
    assert data.time[parts.valid].max() < data.time[parts.test].min()


def test_a_time_split_of_different_moments_has_a_quarter_in_test():
    data = dense_table()
    parts = split(data, config=LATER)
    assert parts.test.tolist() == list(range(150))
    assert len(parts.valid) == 45


@pytest.mark.parametrize(
    ("times", "reason"),
    [([*range(39), None], "1 of 40 reviews have no time"), ([7] * 40, "no review can go to test")],
)
def test_a_time_split_needs_different_times_of_all_reviews(times, reason):
    with pytest.raises(DataError, match=reason):
        split(interactions([0] * 40, [0] * 40, time=times), config=LATER)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=50), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_filtering_is_a_fixpoint_and_equals_a_slow_one(rows, least):
    named = [(f"u{user}", f"i{item}") for user, item in rows]
    table = pl.DataFrame(named, schema=["user", "item"], orient="row").with_row_index("row")
    expected = slow_filter(named, least)
    if not expected:
        with pytest.raises(DataError, match="no review is left"):
            filter_reviews(table, least)
        return
    kept = filter_reviews(table, least)
    assert pairs(kept) == expected
    assert kept["row"].is_sorted()
    assert min(*Counter(kept["user"]).values(), *Counter(kept["item"]).values()) >= least
    assert filter_reviews(kept, least).equals(kept)


def test_filtering_follows_a_chain_to_its_end():
    # Every drop makes the next one necessary; only the block of c, d and y, z stays.
    chain = [("a", "w"), ("a", "x"), ("b", "x"), ("b", "y"), ("c", "y"), ("c", "z"), ("d", "y"), ("d", "z")]
    table = pl.DataFrame(chain, schema=["user", "item"], orient="row")
    assert pairs(filter_reviews(table, 2)) == chain[4:]


def test_filtered_reviews_of_a_later_time_are_no_evidence():
    data = interactions([0] * 8 + [1, 2, 3], [0] * 11, time=[1, 2, 3, 4, 5, 6, 7, 8, 3, 8, None])
    kept = np.arange(11) < 8
    parts = split_reviews(data, SplitConfig(split_by="time"), np.random.default_rng(0), kept)
    assert parts.filtered_rows.tolist() == [8]
    random = split_reviews(data, SplitConfig(test_share=0.1), np.random.default_rng(0), kept)
    assert random.filtered_rows.tolist() == [8, 9, 10]
