"""The canonical tables of reviews and items, and pydantic's checks of a row before it enters them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
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
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from mmrec.config import ReadConfig
from mmrec.data.columns import parse_list, photo_names
from mmrec.text import escape_text, remove_control_characters, single_line

__all__ = ["ITEM_SCHEMA", "NO_TIME", "REJECT_SCHEMA", "REVIEW_SCHEMA", "EntityKind"]
__all__ += ["Interactions", "ItemRow", "ReviewRow", "Reviews", "explain_refusal"]

EntityKind = Literal["user", "item"]
"""Whose reviews are meant: those that a user wrote, or those that an item got."""

NO_TIME = np.iinfo(np.int64).max
"""Sentinel for a missing timestamp; sorts after all others."""

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
"""Columns of `Reviews.table`; only `time` may be null. Photos are absolute paths of checked files;
captions came with the data."""

ITEM_SCHEMA: dict[str, pl.DataType] = {
    "item": pl.String(),
    "name": pl.String(),
    "photos": pl.List(pl.String()),
    "captions": pl.List(pl.String()),
}
"""Columns of `Reviews.items`; `name` may be null. Photos and captions belong to the item, not to a review."""

REJECT_SCHEMA = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "row": pl.String}
"""Columns of `Reviews.rejects`: lines count from 1, and the raw row is shortened."""


@dataclass(frozen=True)
class Reviews:
    """Checked reviews in the order of the file, their items, and what was refused.

    An item without a row has neither a name nor photos, except those of its reviews. The `source`
    is a path or name of the origin, for messages and reports.
    """

    table: pl.DataFrame
    items: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ITEM_SCHEMA))
    rejects: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REJECT_SCHEMA))
    source: str = "memory"

    def __len__(self) -> int:
        return self.table.height


@dataclass(frozen=True)
class Interactions:
    """Ratings as arrays, with users and items as codes.

    Attributes:
        user, item: (n,) int64 codes into `users` and `items`.
        rating: (n,) float32 stars.
        time: (n,) int64 microseconds since 1970; `NO_TIME` where unknown.
        users, items: ids by code, sorted.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray
    users: list[str]
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


def _spell_number(value: Any) -> Any:
    """Return a number as text, 12.0 as `12`; anything else as it is."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) in (int, float) else value


def _scalar_or_none(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else None


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would take it for 0 or 1
        raise PydanticCustomError("boolean", "should be a valid number")
    return value


def _clean_text(value: Any, info: ValidationInfo[ReadConfig]) -> Any:
    if value is None:  # an empty entry of a list of captions
        return ""
    text = _spell_number(value)
    if not isinstance(text, str):
        return text
    return remove_control_characters(text)[: info.context.max_text]


def _name_or_none(text: str | None) -> str | None:
    return single_line(text or "") or None


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
    """Return the captions of a cell: one text, a list, or a list in text."""
    listed = parse_list(cell) if isinstance(cell, str) else cell
    return listed if isinstance(listed, list) else [cell]


def _drop_blank(captions: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(caption for caption in map(single_line, captions) if caption)


# Validators that run before the checks of a type run from the last to the first.
Id = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$"),
    StringConstraints(strip_whitespace=True),
    BeforeValidator(_spell_number),
]
Rating = Annotated[
    float,
    Field(ge=1, le=5, allow_inf_nan=False),
    BeforeValidator(_refuse_boolean),
    # The precision of the table, so that ids which are derived from reviews are stable.
    AfterValidator(lambda rating: float(np.float32(rating))),
]
Text = Annotated[str, Field(strict=True), BeforeValidator(_clean_text)]
Name = Annotated[
    str | None, Field(strict=True), BeforeValidator(_clean_text), AfterValidator(_name_or_none)
]
Time = Annotated[datetime | None, BeforeValidator(_parse_time), AfterValidator(_check_time)]
Photos = Annotated[SkipValidation[tuple[str, ...]], BeforeValidator(photo_names)]
Captions = Annotated[tuple[Text, ...], BeforeValidator(_list_captions), AfterValidator(_drop_blank)]


class ReviewRow(BaseModel):
    """A review, with the columns of `REVIEW_SCHEMA`; whether its photos exist is not checked here.

    The validation context is a `ReadConfig`, whose `max_text` cuts texts, names and captions.
    """

    review_id: Annotated[Name, BeforeValidator(_scalar_or_none)] = None
    user: Id
    item: Id
    rating: Rating
    text: Text = ""  # a rating alone is still a review
    time: Time = None
    photos: Photos = ()
    captions: Captions = ()


class ItemRow(BaseModel):
    """An item, with the columns of `ITEM_SCHEMA`; see `ReviewRow`."""

    item: Id
    name: Name = None
    photos: Photos = ()
    captions: Captions = ()


def explain_refusal(error: ValidationError) -> str:
    """Return why a row is refused, as `kind: value`."""
    problem = error.errors(include_url=False)[0]
    name, value, message = problem["loc"][0], problem["input"], problem["msg"]
    is_blank = value is None or (isinstance(value, str) and not value.strip())
    if is_blank or problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "string_pattern_mismatch":
        message = "holds control characters"
    message = message.removeprefix("Input ").removeprefix("String ")
    # Only scalars are spelt out: the repr of a hostile nesting could exhaust the stack.
    scalar = isinstance(value, str | int | float | date)
    return f"{name} {message}: {escape_text(str(value), 40) if scalar else type(value).__name__}"
