"""One row of a file, checked by pydantic: ids, rating, text, time, photos and captions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import numpy as np
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
from mmrec.data.columns import cell_entries, first_value, parse_list
from mmrec.text import escape_text, remove_control_characters, single_line

__all__ = ["ItemRow", "ReviewRow", "explain_refusal", "is_url", "object_urls", "photo_names"]


def is_url(text: str) -> bool:
    """Tell whether a text starts like a URL, of any scheme."""
    return re.match(r"\s*[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def object_urls(fields: Mapping[str, Any]) -> list[str]:
    """Return the URLs in the first field that has any; fields of large photos go first."""
    for name in sorted(fields, key=lambda name: "large" not in name):
        texts = fields[name] if isinstance(fields[name], list) else [fields[name]]
        urls = [text.strip() for text in texts if isinstance(text, str) and is_url(text)]
        if urls:
            return urls
    return []


def photo_names(cell: Any) -> tuple[str, ...]:
    """Return the photos that a cell names, each once and in order; remote ones by their URL.

    An entry of the cell is a name, or an object with an id or URLs.
    """
    names: dict[str, None] = {}
    for entry in cell_entries(cell):
        if isinstance(entry, Mapping):
            usable = {name: value for name, value in entry.items() if value}
            urls = object_urls(entry)
            entry = first_value(usable, ("id", "path", "photo_id")) or (urls[0] if urls else entry)
        if isinstance(entry, str | int | float):
            names[str(entry)] = None
        elif entry is not None:
            names[f"({type(entry).__name__})"] = None
    names.pop("", None)
    return tuple(names)


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
    return (
        remove_control_characters(text)[: info.context.max_text] if isinstance(text, str) else text
    )


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
    if (
        value is None
        or problem["type"] == "missing"
        or (isinstance(value, str) and not value.strip())
    ):
        return f"{name} is missing"
    if problem["type"] == "string_pattern_mismatch":
        message = "holds control characters"
    message = message.removeprefix("Input ").removeprefix("String ")
    # Only scalars are spelt out: the repr of a hostile nesting could exhaust the stack.
    scalar = isinstance(value, str | int | float | date)
    return f"{name} {message}: {escape_text(str(value), 40) if scalar else type(value).__name__}"
