"""Layouts of review files and the values in them: from a file's columns and spelling to canonical ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from mmrec.config import ReadConfig
from mmrec.errors import ConfigError, DataError
from mmrec.text import escape_text, remove_control_characters

__all__ = [
    "LAYOUTS",
    "RowError",
    "as_captions",
    "as_id",
    "as_rating",
    "as_text",
    "as_time",
    "choose_columns",
    "first_value",
]

_PLAIN: dict[str, tuple[str, ...]] = {
    "review_id": ("review_id", "reviewId"),
    "user": ("user", "user_id", "userId"),
    "item": ("item", "item_id", "business_id", "itemId", "parent_asin", "asin"),
    "rating": ("rating", "stars", "score"),
    "text": ("text", "review_text", "review"),
    "time": ("time", "timestamp", "date"),
    "photos": ("photos", "pics", "images"),
}

LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "plain": _PLAIN,
    "kaggle": _PLAIN
    | {
        "user": ("user_id",),
        "item": ("business_id",),
        "text": ("review_text",),
        "photos": ("pics",),
    },
    "yelp": _PLAIN | {"user": ("user_id",), "item": ("business_id",), "rating": ("stars",)},
    "amazon": _PLAIN
    | {
        "user": ("reviewerID", "user_id"),
        "item": ("parent_asin", "asin"),
        "rating": ("overall", "rating"),
        "text": ("reviewText", "text"),
        "time": ("unixReviewTime", "timestamp"),
        "photos": ("image", "images"),
    },
}
"""Layout -> canonical column -> the names it may have in a file; the first one in a row counts.

Sources: Kaggle `hwwang98/google-restaurants`; the Yelp academic data set; the Amazon reviews of 2014, 2018
and 2023.
"""

_MARKS: tuple[tuple[str, frozenset[str]], ...] = (
    ("amazon", frozenset({"reviewerID", "asin", "overall"})),
    ("amazon", frozenset({"user_id", "parent_asin", "rating"})),
    ("kaggle", frozenset({"user_id", "business_id", "rating", "review_text", "pics"})),
    ("yelp", frozenset({"user_id", "business_id", "stars", "text"})),
)

MAX_ID = 512
"""Characters of an id; a longer one is a column that was taken for an id."""

EARLIEST = datetime(1800, 1, 1)
"""Times before this are mistakes; on the other side the limit is tomorrow."""

_EPOCH = datetime(1970, 1, 1)
_MILLISECONDS_FROM = 1e11  # as seconds the year 5138, as milliseconds 1973
_UNIX = re.compile(r"[+-]?[0-9]{9,}(\.[0-9]*)?")
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MISSING = frozenset({"", "null", "none", "nan", "nat"})


class RowError(Exception):
    """A value that a review cannot have; the message is the reason, `kind: detail`, for the rejects."""


def choose_columns(
    columns: Sequence[str], config: ReadConfig, file: str
) -> dict[str, tuple[str, ...]]:
    """Return the file's names of every canonical column.

    Args:
        columns: names that the file's first rows have.
        config: `format` and `map` decide; `map` overrides single columns of the layout.
        file: for messages.

    Raises:
        ConfigError: `map` names a column that is not canonical.
        DataError: a mapped column, or one for user, item or rating, is not in the file.
    """
    listed = escape_text(", ".join(columns), 500)
    unknown = sorted(set(config.map) - set(_PLAIN))
    if unknown:
        known = ", ".join(_PLAIN)
        raise ConfigError(f"--map {unknown[0]}=...: no such column of mmrec; map one of {known}")
    for name, column in config.map.items():
        if column not in columns:
            raise DataError(
                f"{file}: --map {name}={column}: no such column in the first rows; there are: {listed}. "
                f"Mend it with --map {name}=COLUMN"
            )
    recognised = (layout for layout, marks in _MARKS if marks <= set(columns))
    layout = next(recognised, "plain") if config.format == "auto" else config.format
    names = LAYOUTS[layout] | {name: (column,) for name, column in config.map.items()}
    for needed in ("user", "item", "rating"):
        if not any(name in columns for name in names[needed]):
            raise DataError(
                f"{file}: no column for {needed} (looked for {', '.join(names[needed])}; layout {layout}); "
                f"there are: {listed}. Name it with --map {needed}=COLUMN"
            )
    return names


def first_value(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the value of the first of these columns that the row has, or None."""
    for name in names:
        if name in row:
            return row[name]
    return None


def _shown(value: Any) -> str:
    # Only scalars are spelt out: the repr of a hostile nesting could exhaust the stack.
    return (
        escape_text(str(value), 40)
        if isinstance(value, str | int | float | date)
        else type(value).__name__
    )


def _scalar(value: Any, otherwise: str) -> str | int | float:
    """Return a text or a number, of which a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"{otherwise}: {_shown(value)}")
    return value


def as_id(value: Any, column: str) -> str:
    """Return an id as a string without outer blanks; numbers become strings, 12.0 as `12`.

    Raises:
        Refused: missing, blank, too long, not text or number, or with control characters.
    """
    if isinstance(value, float):
        value = None if not math.isfinite(value) else int(value) if value.is_integer() else value
    name = "" if value is None else str(_scalar(value, f"{column} is not an id")).strip()
    if not name:
        raise RowError(f"{column} is missing")
    if len(name) > MAX_ID:
        raise RowError(f"{column} is longer than {MAX_ID} characters")
    if _UNWANTED.search(name) or "\n" in name or "\t" in name:
        raise RowError(f"{column} holds control characters: {_shown(name)}")
    return name


def as_rating(value: Any) -> float:
    """Return a rating from 1 to 5 in the table's precision (float32), so that derived ids are stable.

    Raises:
        Refused: missing, not a number (a boolean is none), or outside 1..5.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
        raise RowError("rating is missing")
    try:  # as a text, no integer is too large for a float
        number = float(
            value if isinstance(value, Decimal) else str(_scalar(value, "rating is not a number"))
        )
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise RowError(f"rating is not a number: {_shown(value)}")
    if not 1 <= number <= 5:
        raise RowError(f"rating is outside 1..5: {_shown(value)}")
    return float(np.float32(number))


def as_text(value: Any, limit: int) -> str:
    """Return text without control characters (but newline and tab) and lone surrogates, cut at `limit`.

    Missing text is "": a rating alone is still a review.

    Raises:
        Refused: neither text nor a number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return remove_control_characters(str(_scalar(value, "text is not text")))[:limit]


def as_captions(value: Any, limit: int) -> list[str]:
    """Return captions, each on one line, from a text, a list of texts, or such a list as JSON.

    Blank ones are left out; each is cut at `limit` characters.

    Raises:
        Refused: something that is neither text nor a number.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):  # a text may begin with a bracket
            value = list(json.loads(value))
    found = value if isinstance(value, list) else [value]
    try:
        lines = [" ".join(as_text(one, limit).split()) for one in found]
    except RowError as refusal:
        raise RowError(f"captions hold something else: {refusal}") from refusal
    return [line for line in lines if line]


def as_time(value: Any, latest: datetime) -> datetime | None:
    """Return a naive UTC time, or None where there is none.

    ISO dates and datetimes with or without zone, and seconds or milliseconds since 1970 (told apart by
    magnitude), as numbers or as text.

    Raises:
        Refused: no possible date, or outside `EARLIEST`..`latest`.
    """
    try:
        moment = _moment(value)
    except (ValueError, OverflowError):
        raise RowError(f"time is not a possible date: {_shown(value)}") from None
    if moment is not None and not EARLIEST <= moment <= latest:
        raise RowError(f"time is outside {EARLIEST.date()}..tomorrow: {_shown(value)}")
    return moment


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in _MISSING:
            return None
        value = float(value) if _UNIX.fullmatch(value) else datetime.fromisoformat(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if abs(value) >= _MILLISECONDS_FROM:
        return _EPOCH + timedelta(milliseconds=value)
    return _EPOCH + timedelta(seconds=value)
