"""Values and columns are read or refused for a stated reason; properties of every filter and split."""

import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mmrec.config import ReadConfig, SplitConfig
from mmrec.console import escape_text, remove_control_characters
from mmrec.data.images import photo_names
from mmrec.data.readers import choose_columns, explain_refusal
from mmrec.data.schema import ReviewRow, filter_reviews, split_reviews
from mmrec.errors import ConfigError, DataError
from review_tables import interactions, tables

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def read(max_text=100, **values):
    good = {"user": "u", "item": "i", "rating": 4}
    return ReviewRow.model_validate(good | values, context=ReadConfig(max_text=max_text))


@pytest.mark.parametrize(
    ("columns", "config", "kind", "reason"),
    [
        ("user item stars", {"map": {"rating": "grade"}}, DataError, "f: --map rating=grade.*item, stars"),
        ("user item rating", {"map": {"stars": "rating"}}, ConfigError, "--map stars=.*review_id, user"),
        ("user_id business_id rating", {"format": "yelp"}, DataError, "layout yelp"),
        ("item rating", {}, DataError, "no column for user .*--map user=COLUMN"),
        ("user rating", {}, DataError, "no column for item .*--map item=COLUMN"),
        ("user item", {}, DataError, "no column for rating .*--map rating=COLUMN"),
    ],
)
def test_an_absent_column_is_named_with_the_mend(columns, config, kind, reason):
    with pytest.raises(kind, match=reason):
        choose_columns(columns.split(), ReadConfig(**config), "f")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        *[("user", value, name) for value, name in [("u1", "u1"), (" u 1\n", "u 1"), (7, "7")]],
        *[("user", value, name) for value, name in [(12.0, "12"), (1.5, "1.5"), (0, "0")]],
        *[("rating", value, rating) for value, rating in [(1, 1), (5, 5), ("4.5", 4.5), (" 3 ", 3)]],
        ("rating", 4.1, 4.099999904632568),  # in the precision of float32
        ("text", "a\x00b\x1b[31m\u0085\ud83dc\td\r\ne\rf", "ab[31mc\td\ne\nf"),
        ("text", "é" * 120, "é" * 100),
        ("text", 10, "10"),
        ("review_id", " a\nb ", "a b"),
        ("review_id", ["a"], None),
        *[("time", value, datetime(2019, 5, 25)) for value in ("2019-05-25", "20190525", date(2019, 5, 25))],
        *[("time", value, None) for value in (None, "", " ", "null", "NaT")],
    ],
)
def test_values_are_read(field, value, expected):
    assert getattr(read(**{field: value}), field) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("2019-05-25T15:34:00", "2019-05-25 15:34:00", "2019-05-25T15:34:00Z", "2019-05-25T17:34:00+02:00"),
        *(1558798440, 1558798440.0, 1558798440000, "1558798440", "1558798440.0", "1558798440000"),
        datetime(2019, 5, 25, 15, 34),
        datetime(2019, 5, 25, 15, 34, tzinfo=UTC),
        datetime(2019, 5, 25, 8, 34, tzinfo=timezone(timedelta(hours=-7))),
    ],
)
def test_times_become_naive_utc(value):
    assert read(time=value).time == datetime(2019, 5, 25, 15, 34)


NO_DATES = ("2023-02-30", "0000-01-01", "yesterday", "2019", "4.5")
FAR_DATES = ("1799-12-31", "2999-01-02", 1 << 33)
IMPOSSIBLE = [True, [2019], math.inf, 10**400, "9" * 500]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("user", None, "user is missing"),
        ("user", "  ", "user is missing"),
        ("item", " ", "item is missing"),
        ("user", True, "user should be a valid string: True"),
        ("user", ["u"], "user should be a valid string: list"),
        ("user", "u" * 513, "user should have at most 512 characters: " + "u" * 39 + "…"),
        ("item", "a\x00b", r"item holds control characters: a\x00b"),
        ("item", "a\nb", r"item holds control characters: a\nb"),
        ("rating", "", "rating is missing"),
        ("rating", math.nan, "rating should be a finite number: nan"),
        ("rating", True, "rating should be a valid number: True"),
        ("rating", [5], "rating should be a valid number: list"),
        ("rating", 0, "rating should be greater than or equal to 1: 0"),
        ("rating", 5.0000001, "rating should be less than or equal to 5: 5.0000001"),
        ("rating", math.inf, "rating should be a finite number: inf"),
        ("rating", 10**400, "rating should be a valid number: 1" + "0" * 38 + "…"),
        ("text", {"text": "x"}, "text should be a valid string: dict"),
        ("user", "\ud800", "user should be a valid string, unable to parse raw data as a unicode string..."),
        *[("time", value, f"time should be a possible date: {value}") for value in NO_DATES],
        *[("time", value, f"time should be between 1800-01-01 and tomorrow: {value}") for value in FAR_DATES],
        *[("time", value, "time should be a valid datetime...") for value in IMPOSSIBLE],
    ],
)
def test_unusable_values_are_refused_with_the_reason(field, value, reason):
    with pytest.raises(ValidationError) as error:
        read(**{field: value})
    refused = explain_refusal(error.value)
    assert refused == reason or (reason.endswith("...") and refused.startswith(reason.rstrip(".")))


@given(st.text(st.characters()), st.integers(1, 50))
def test_a_read_text_can_be_stored_and_reads_the_same_again(text, limit):
    once = read(limit, text=text).text
    once.encode()
    assert len(once) <= limit
    assert read(limit, text=once).text == once == remove_control_characters(once)


@given(anything, st.sampled_from(list(ReviewRow.model_fields)))
def test_any_value_is_read_or_refused(value, field):
    reason = ""
    try:
        read(**{field: value})
    except ValidationError as error:
        reason = explain_refusal(error)
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        *[(empty, []) for empty in (None, "", [])],
        ("a.jpg", ["a.jpg"]),
        ("a.jpg|b c.jpg| a.jpg", ["a.jpg", "b c.jpg"]),
        ('["a.jpg", "b.jpg"]', ["a.jpg", "b.jpg"]),
        ("['a.jpg', 'b.jpg']", ["a.jpg", "b.jpg"]),
        ("[broken", ["[broken"]),
        (["a.jpg", None, "HTTP://x.org/c.jpg"], ["a.jpg", "HTTP://x.org/c.jpg"]),
        ([{"id": "AF1Q", "url": ["https://x.org/1"]}], ["AF1Q"]),
        ([{"id": float("nan"), "url": "https://x.org/1"}], ["https://x.org/1"]),
        ([{"url": ["https://x.org/1", "https://x.org/2"]}], ["https://x.org/1"]),
        ([{"small_url": "https://x.org/s", "large_url": "https://x.org/l"}], ["https://x.org/l"]),
        ([7, [1], {}], ["7", "(list)", "(dict)"]),
    ],
)
def test_photo_names_of_a_cell(cell, names):
    assert photo_names(cell) == tuple(names)


@given(st.text(st.characters()), st.integers(1, 50))
def test_escaped_text_is_printable_and_short(text, limit):
    assert escape_text(text, limit).isprintable()
    assert len(escape_text(text, limit)) <= limit


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


def test_shares_are_met_in_large_tables_and_the_latest_reviews_are_test_rows():
    drawn, halved = split(dense_table()), split(dense_table(), test_share=0.5, valid_share=0.2)
    by_time = split(dense_table(), split_by="time")
    sizes = [(len(parts.test), len(parts.valid), len(parts.train)) for parts in (drawn, halved, by_time)]
    assert sizes == [(150, 45, 405), (300, 60, 240), (150, 45, 405)]
    assert by_time.test.tolist() == list(range(150))


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
