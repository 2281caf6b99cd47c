"""The canonical tables of reviews and items, pydantic's checks of a row, and the split of reviews."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SkipValidation,
    StringConstraints,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from mmrec.config import ReadConfig, SplitConfig
from mmrec.console import remove_control_characters, single_line
from mmrec.data.files import parse_list
from mmrec.data.images import photo_names
from mmrec.errors import DataError

EntityKind = Literal["user", "item"]  # whose reviews are meant
NO_TIME = np.iinfo(np.int64).max  # stands for a missing time, and sorts after all others

REVIEW_SCHEMA: dict[str, pl.DataType] = {
    "review_id": pl.String(),
    "user": pl.String(),
    "item": pl.String(),
    "rating": pl.Float32(),
    "text": pl.String(),
    "time": pl.Datetime("us"),
    "photos": pl.List(pl.String()),
    "captions": pl.List(pl.String()),
}
"""Columns of `Reviews.table`; only `time` may be null. Photos are absolute paths of checked files."""

ITEM_SCHEMA: dict[str, pl.DataType] = {
    "item": pl.String(),
    "name": pl.String(),
    "photos": pl.List(pl.String()),
    "captions": pl.List(pl.String()),
}
"""Columns of `Reviews.items`; `name` may be null. Photos and captions are not those of reviews."""

REJECT_SCHEMA = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "row": pl.String}
"""Columns of `Reviews.rejects`: lines count from 1, and the raw row is shortened."""


@dataclass(frozen=True)
class Reviews:
    """Checked reviews in the order of the file, their items (maybe not all), and what was refused."""

    table: pl.DataFrame
    items: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ITEM_SCHEMA))
    rejects: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REJECT_SCHEMA))
    source: str = "memory"  # a path or name, for messages and reports

    def __len__(self) -> int:
        return self.table.height


@dataclass(frozen=True)
class Interactions:
    """Ratings as arrays, with users and items as codes."""

    user: np.ndarray  # (n,) int64 codes into `users`
    item: np.ndarray  # (n,) int64 codes into `items`
    rating: np.ndarray  # (n,) float32 stars
    time: np.ndarray  # (n,) int64 microseconds since 1970; `NO_TIME` where unknown
    users: list[str]  # ids by code, sorted
    items: list[str]

    @classmethod
    def from_table(cls, table: pl.DataFrame) -> Interactions:
        """Code a reviews table; the codes depend on the ids alone, not on the order of rows."""
        users, user = np.unique(table["user"].to_numpy(), return_inverse=True)
        items, item = np.unique(table["item"].to_numpy(), return_inverse=True)
        time = table["time"].to_physical().fill_null(NO_TIME).to_numpy()
        rating = table["rating"].to_numpy().astype(np.float32)
        return cls(user, item, rating, time, users.tolist(), items.tolist())

    def __len__(self) -> int:
        return len(self.rating)

    def rows_of(self, kind: EntityKind, code: int) -> np.ndarray:
        """(k,) rows of the reviews by a user or of an item, in order; indexed on first use."""
        order, start = self._rows[kind]
        return order[start[code] : start[code + 1]]

    @cached_property
    def _rows(self) -> dict[EntityKind, tuple[np.ndarray, np.ndarray]]:
        # By kind: (n,) rows sorted by code, and where those of each code start.
        rows: dict[EntityKind, tuple[np.ndarray, np.ndarray]] = {}
        entities: dict[EntityKind, np.ndarray] = {"user": self.user, "item": self.item}
        for kind, codes in entities.items():
            order = np.argsort(codes, kind="stable")
            size = 1 + codes.max(initial=-1)
            rows[kind] = order, np.searchsorted(codes[order], np.arange(size + 1))
        return rows


def _spell_number(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) in (int, float) else value


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would take it for 0 or 1
        raise PydanticCustomError("boolean", "should be a valid number")
    return value


def _clean_text(value: Any, info: ValidationInfo[ReadConfig]) -> Any:
    text = "" if value is None else _spell_number(value)  # an empty caption of a list
    is_text = isinstance(text, str)
    return remove_control_characters(text)[: info.context.max_text] if is_text else text


def _parse_time(value: Any) -> Any:
    """Parse ISO dates and times; numbers since 1970, also in text, are left to pydantic."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in {"", "null", "none", "nan", "nat"}:
        return None
    # With fewer digits it is a date such as `20190525` or a mere year, and no number of seconds.
    if re.fullmatch(r"[+-]?[0-9]{9,}(\.[0-9]*)?", text):
        return text
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise PydanticCustomError("time", "should be a possible date") from None


def _check_time(time: datetime | None) -> datetime | None:
    """Return naive UTC; refuse what must be a mistake."""
    if time is None:
        return None
    utc = time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    tomorrow = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    if not datetime(1800, 1, 1) <= utc <= tomorrow:
        raise PydanticCustomError("time", "should be between 1800-01-01 and tomorrow")
    return utc


def _list_captions(cell: Any) -> list[Any]:
    listed = parse_list(cell) if isinstance(cell, str) else cell
    return listed if isinstance(listed, list) else [cell]


# The pattern, for those who read it in OpenAPI, says of blank text, too, that it is no id.
_NO_CONTROL = r"[^\x00-\x1f\x7f-\x9f]*"
_ID_PATTERN = rf"^{_NO_CONTROL}[^\s\x00-\x1f\x7f-\x9f]{_NO_CONTROL}$"
EntityId = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=512, pattern=_ID_PATTERN),
    StringConstraints(strip_whitespace=True),
]
"""An id of a user or an item, in files and in requests."""
# Validators that run before the checks of a type run from the last to the first.
_Id = Annotated[EntityId, BeforeValidator(_spell_number)]
_Rating = Annotated[
    float,
    Field(ge=1, le=5, allow_inf_nan=False),
    BeforeValidator(_refuse_boolean),
    # The precision of the table, so that ids which are derived from reviews are stable.
    AfterValidator(lambda rating: float(np.float32(rating))),
]
_Text = Annotated[str, Field(strict=True), BeforeValidator(_clean_text)]
_Name = Annotated[
    str | None,
    Field(strict=True),
    BeforeValidator(_clean_text),
    AfterValidator(lambda name: single_line(name) or None),
]
_Time = Annotated[datetime | None, BeforeValidator(_parse_time), AfterValidator(_check_time)]
_Photos = Annotated[SkipValidation[tuple[str, ...]], BeforeValidator(photo_names)]
_Captions = Annotated[
    tuple[_Text, ...],
    BeforeValidator(_list_captions),
    AfterValidator(lambda captions: tuple(filter(None, map(single_line, captions)))),
]


class ReviewRow(BaseModel):
    """A review, with the columns of `REVIEW_SCHEMA`; the validation context is a `ReadConfig`."""

    review_id: Annotated[
        _Name, BeforeValidator(lambda id: id if isinstance(id, str | int | float) else None)
    ] = None
    user: _Id
    item: _Id
    rating: _Rating
    text: _Text = ""  # a rating alone is still a review
    time: _Time = None
    photos: _Photos = ()
    captions: _Captions = ()


class ItemRow(BaseModel):
    """An item, with the columns of `ITEM_SCHEMA`."""

    item: _Id
    name: _Name = None
    photos: _Photos = ()
    captions: _Captions = ()


@dataclass(frozen=True)
class Split:
    """Row numbers of disjoint parts, each sorted."""

    train: np.ndarray
    valid: np.ndarray  # selects the epoch and the threshold
    test: np.ndarray
    # Dropped by the filter; their reviews may still be evidence.
    filtered_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def evidence_rows(self) -> np.ndarray:
        """Rows whose reviews may be evidence: all but test, sorted."""
        return np.sort(np.concatenate([self.train, self.valid, self.filtered_rows]))

    @property
    def rows_before_validation(self) -> np.ndarray:
        """Rows whose reviews may be evidence for validation rows, sorted."""
        return np.sort(np.concatenate([self.train, self.filtered_rows]))


def filter_reviews(table: pl.DataFrame, min_reviews: int = 2) -> pl.DataFrame:
    """Drop users and items with fewer than `min_reviews` reviews until none is left; or a DataError."""
    enough = (pl.len().over("user") >= min_reviews) & (pl.len().over("item") >= min_reviews)
    previous, remaining = table, table.filter(enough)
    while remaining.height < previous.height:  # each drop may make others necessary
        previous, remaining = remaining, remaining.filter(enough)
    if remaining.is_empty():
        rare = f"users and items with fewer than {min_reviews} reviews (of {table.height:,})"
        mend = "bring more data or lower --min-reviews"
        raise DataError(f"no review is left after dropping {rare}; {mend}")
    return remaining


def split_reviews(
    data: Interactions,
    config: SplitConfig,
    rng: np.random.Generator,
    passed_filter: np.ndarray | None = None,
) -> Split:
    """Split the rows that passed the filter, (n,) bool (all by default), into train, valid and test.

    `random`: every user and item of test stays in train (paper, section 4), and so for valid; if too
    few rows are left, test is smaller. `time`: test is strictly later than valid, and valid than
    train. A DataError says that reviews lack a time, or a part stays empty.
    """
    passed = np.ones(len(data), dtype=bool) if passed_filter is None else passed_filter
    rows, filtered = np.flatnonzero(passed), np.flatnonzero(~passed)
    by_time = config.split_by == "time"
    if by_time and (missing := int((data.time[rows] == NO_TIME).sum())):
        reason = f"{missing:,} of {len(rows):,} reviews have no time"
        raise DataError(f"{reason}; use a random split instead")
    rest, test = _cut(data, rows, config.test_share, None if by_time else rng)
    train, valid = _cut(data, rest, config.valid_share, None if by_time else rng)
    for name, subset in (("test", test), ("valid", valid)):
        if not len(subset):
            reason = f"{len(rows):,} reviews are too few for a split"
            raise DataError(f"no review can go to {name}: {reason}")
    if by_time:  # later reviews may not be evidence for earlier ones
        times = data.time[filtered]
        filtered = filtered[(times != NO_TIME) & (times <= data.time[train].max())]
    return Split(train, valid, test, filtered)


def _cut(
    data: Interactions, rows: np.ndarray, share: float, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into those that stay and a share: drawn at random, or without `rng` the latest."""
    if rng is None:
        time = data.time[rows]
        is_cut = time > np.quantile(time, 1 - share, method="lower")
    else:
        order = rng.permutation(rows)
        movable = np.ones(len(order), dtype=bool)
        for entity in (data.user, data.item):
            # The first row of each user and item, in random order, stays.
            movable[np.unique(entity[order], return_index=True)[1]] = False
        is_cut = np.isin(rows, order[movable][: round(share * len(rows))])
    return rows[~is_cut], rows[is_cut]
