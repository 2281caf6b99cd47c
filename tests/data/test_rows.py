"""Layouts are recognised, columns are mapped, and single values are read or refused for a stated reason."""

import math
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.config import ReadConfig
from mmrec.data.columns import (
    LAYOUTS,
    RowError,
    as_id,
    as_rating,
    as_text,
    as_time,
    choose_columns,
    first_value,
)
from mmrec.errors import ConfigError, DataError
from mmrec.text import escape_text

LATEST = datetime(2026, 1, 1)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("columns", "layout"),
    [
        (["reviewerID", "asin", "overall", "reviewText", "unixReviewTime", "image"], "amazon"),
        (["rating", "title", "text", "images", "asin", "parent_asin", "user_id", "timestamp"], "amazon"),
        (["business_id", "user_id", "rating", "review_text", "pics", "history_reviews"], "kaggle"),
        (["review_id", "user_id", "business_id", "stars", "useful", "text", "date"], "yelp"),
        (["userId", "itemId", "score"], "plain"),
        (["user_id", "business_id", "rating", "review_text", "timestamp"], "plain"),
    ],
)
def test_auto_recognises_a_layout(columns: list[str], layout: str) -> None:
    assert choose_columns(columns, ReadConfig(), "f") == LAYOUTS[layout]


def test_a_recognised_layout_keeps_the_common_names_of_its_other_columns() -> None:
    assert LAYOUTS["kaggle"]["time"] == LAYOUTS["plain"]["time"]
    assert LAYOUTS["yelp"]["photos"] == LAYOUTS["plain"]["photos"]


def test_a_map_overrides_single_columns() -> None:
    config = ReadConfig(map={"rating": "grade", "text": "words"})
    columns = choose_columns(["user", "item", "grade", "words", "text"], config, "f")
    assert columns["rating"] == ("grade",)
    assert columns["text"] == ("words",)
    assert columns["user"] == LAYOUTS["plain"]["user"]


def test_a_map_onto_an_absent_column_lists_the_columns_there_are() -> None:
    config = ReadConfig(map={"rating": "grade"})
    with pytest.raises(DataError, match=r"f: --map rating=grade.*user, item, stars.*--map rating=COLUMN"):
        choose_columns(["user", "item", "stars"], config, "f")


def test_a_map_of_an_unknown_column_is_a_mistake_in_the_option() -> None:
    with pytest.raises(ConfigError, match=r"--map stars=.*review_id, user, item, rating, text, time, photos"):
        choose_columns(["user", "item", "rating"], ReadConfig(map={"stars": "rating"}), "f")


@pytest.mark.parametrize("absent", ["user", "item", "rating"])
def test_an_absent_column_names_the_mend(absent: str) -> None:
    columns = [name for name in ("user", "item", "rating", "text") if name != absent]
    with pytest.raises(DataError, match=rf"no column for {absent} .*--map {absent}=COLUMN"):
        choose_columns(columns, ReadConfig(), "f")


def test_a_named_layout_means_what_it_says() -> None:
    with pytest.raises(DataError, match="layout yelp"):
        choose_columns(["user_id", "business_id", "rating"], ReadConfig(format="yelp"), "f")


def test_the_first_name_that_the_row_has_counts() -> None:
    assert first_value({"asin": "variant", "parent_asin": "product"}, LAYOUTS["amazon"]["item"]) == "product"
    assert first_value({"asin": "variant"}, LAYOUTS["amazon"]["item"]) == "variant"
    assert first_value({}, ("a", "b")) is None


@pytest.mark.parametrize(
    ("value", "name"), [("u1", "u1"), (" u 1\n", "u 1"), (7, "7"), (12.0, "12"), (1.5, "1.5"), (0, "0")]
)
def test_ids(value: object, name: str) -> None:
    assert as_id(value, "user") == name


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "user is missing"),
        ("  ", "user is missing"),
        (math.nan, "user is missing"),
        (math.inf, "user is missing"),
        (True, "user is not an id: True"),
        (["u"], "user is not an id: list"),
        ("u" * 513, "user is longer than 512 characters"),
        ("a\x00b", r"user holds control characters: a\x00b"),
        ("a\nb", r"user holds control characters: a\nb"),
        ("\ud800", r"user holds control characters: \ud800"),
    ],
)
def test_refused_ids(value: object, reason: str) -> None:
    with pytest.raises(RowError) as refusal:
        as_id(value, "user")
    assert str(refusal.value) == reason


@pytest.mark.parametrize(("value", "rating"), [(1, 1.0), (5, 5.0), ("4.5", 4.5), (" 3 ", 3.0)])
def test_ratings(value: object, rating: float) -> None:
    assert as_rating(value) == rating


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "rating is missing"),
        ("", "rating is missing"),
        ("good", "rating is not a number: good"),
        (math.nan, "rating is not a number: nan"),
        (True, "rating is not a number: True"),
        ([5], "rating is not a number: list"),
        (0, "rating is outside 1..5: 0"),
        (5.0000001, "rating is outside 1..5: 5.0000001"),
        (math.inf, "rating is outside 1..5: inf"),
        (10**400, "rating is outside 1..5: 1" + "0" * 38 + "…"),
    ],
)
def test_refused_ratings(value: object, reason: str) -> None:
    with pytest.raises(RowError) as refusal:
        as_rating(value)
    assert str(refusal.value) == reason


def test_texts() -> None:
    assert as_text(None, 10) == as_text(math.nan, 10) == ""
    assert as_text("a\x00b\x1b[31m\u0085\ud83dc\td\r\ne\rf", 100) == "ab[31mc\td\ne\nf"
    assert as_text("é" * 20, 10) == "é" * 10
    assert as_text(10, 5) == "10"
    with pytest.raises(RowError, match="text is not text: dict"):
        as_text({"text": "x"}, 10)


@given(st.text(st.characters()), st.integers(1, 50))
def test_a_read_text_can_be_stored_and_reads_the_same_again(text: str, limit: int) -> None:
    once = as_text(text, limit)
    once.encode()
    assert len(once) <= limit
    assert as_text(once, limit) == once


@pytest.mark.parametrize(
    "value",
    [
        "2019-05-25T15:34:00",
        "2019-05-25 15:34:00",
        "2019-05-25T15:34:00Z",
        "2019-05-25T17:34:00+02:00",
        1558798440,
        1558798440.0,
        1558798440000,
        "1558798440",
        "1558798440.0",
        "1558798440000",
        datetime(2019, 5, 25, 15, 34),
        datetime(2019, 5, 25, 15, 34, tzinfo=UTC),
        datetime(2019, 5, 25, 8, 34, tzinfo=timezone(timedelta(hours=-7))),
    ],
)
def test_times(value: object) -> None:
    assert as_time(value, LATEST) == datetime(2019, 5, 25, 15, 34)


def test_dates_and_absent_times() -> None:
    assert as_time("2019-05-25", LATEST) == as_time(date(2019, 5, 25), LATEST) == datetime(2019, 5, 25)
    assert as_time("20190525", LATEST) == datetime(2019, 5, 25)
    for missing in (None, "", " ", "null", "NaT", math.nan):
        assert as_time(missing, LATEST) is None


@pytest.mark.parametrize(
    "value", ["2023-02-30", "0000-01-01", "yesterday", True, [2019], math.inf, 10**400, "9" * 500]
)
def test_impossible_times(value: object) -> None:
    with pytest.raises(RowError, match="time is not a possible date: "):
        as_time(value, LATEST)


@pytest.mark.parametrize("value", ["1799-12-31", "2026-01-02", 1 << 33])
def test_times_out_of_range(value: object) -> None:
    with pytest.raises(RowError, match=r"time is outside 1800-01-01\.\.tomorrow: "):
        as_time(value, LATEST)


@given(anything)
def test_no_value_does_worse_than_being_refused(value: object) -> None:
    for read in (
        lambda: as_id(value, "user"),
        lambda: as_rating(value),
        lambda: as_text(value, 10),
        lambda: as_time(value, LATEST),
    ):
        reason = ""
        try:
            read()
        except RowError as refusal:
            reason = str(refusal)
        assert reason.isprintable()


@given(st.text(st.characters()), st.integers(1, 50))
def test_escaped_text_is_printable_and_short(text: str, limit: int) -> None:
    assert escape_text(text, limit).isprintable()
    assert len(escape_text(text, limit)) <= limit
