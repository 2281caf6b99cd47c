"""Layouts of review files: which columns hold what, and what their cells list."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmrec.config import ReadConfig
from mmrec.errors import ConfigError, DataError
from mmrec.text import escape_text

__all__ = ["LAYOUTS", "cell_entries", "choose_columns", "first_value", "is_url"]
__all__ += ["object_urls", "parse_list", "photo_names"]

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
    | {"user": ("user_id",), "item": ("business_id",)}
    | {"text": ("review_text",), "photos": ("pics",)},
    "yelp": _PLAIN | {"user": ("user_id",), "item": ("business_id",), "rating": ("stars",)},
    "amazon": _PLAIN
    | {"user": ("reviewerID", "user_id"), "item": ("parent_asin", "asin")}
    | {"rating": ("overall", "rating"), "text": ("reviewText", "text")}
    | {"time": ("unixReviewTime", "timestamp"), "photos": ("image", "images")},
}
"""Layout -> canonical column -> the names it may have in a file; the first one in a row counts.

Sources: Kaggle `hwwang98/google-restaurants`; the Yelp academic data set; the Amazon reviews of 2014,
2018 and 2023.
"""

# A file has the first layout whose columns it has all.
_SIGNATURES: tuple[tuple[str, set[str]], ...] = (
    ("amazon", {"reviewerID", "asin", "overall"}),
    ("amazon", {"user_id", "parent_asin", "rating"}),
    ("kaggle", {"user_id", "business_id", "rating", "review_text", "pics"}),
    ("yelp", {"user_id", "business_id", "stars", "text"}),
    ("plain", set()),
)


def choose_columns(
    columns: Sequence[str], config: ReadConfig, file: str
) -> dict[str, tuple[str, ...]]:
    """Return the names that each canonical column may have in a file.

    Args:
        columns: of the file's first rows.
        config: its `map` overrides single columns of the layout.
        file: for messages.

    Raises:
        ConfigError: `map` names a column that is not canonical.
        DataError: a mapped column, or one for user, item or rating, is not in the file.
    """
    present = f"there are: {escape_text(', '.join(columns), 500)}"
    layout: str = config.format
    if layout == "auto":
        layout = next(name for name, needed in _SIGNATURES if needed <= set(columns))
    names = dict(LAYOUTS[layout])
    for name, column in config.map.items():
        if name not in _PLAIN:
            known = ", ".join(_PLAIN)
            raise ConfigError(f"--map {name}=...: no such column of mmrec; map one of {known}")
        if column not in columns:
            raise DataError(
                f"{file}: --map {name}={column}: no such column in the first rows; {present}. "
                f"Mend it with --map {name}=COLUMN"
            )
        names[name] = (column,)
    for name in ("user", "item", "rating"):
        if set(columns).isdisjoint(names[name]):
            raise DataError(
                f"{file}: no column for {name} (looked for {', '.join(names[name])}; "
                f"layout {layout}); {present}. Name it with --map {name}=COLUMN"
            )
    return names


def first_value(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the value of the first of these columns that the row has; None for none, and for NaN."""
    for name in names:
        if name in row:
            value = row[name]
            # pandas writes NaN for a missing cell
            return None if isinstance(value, float) and math.isnan(value) else value
    return None


def parse_list(text: str) -> list[Any] | None:
    """Return the list that a text spells, in JSON or as pandas writes it; None if it spells none."""
    if text.lstrip().startswith("["):
        for spelling in (text, text.replace("'", '"')):
            try:
                return list(json.loads(spelling))
            except (ValueError, RecursionError):
                continue
    return None


def cell_entries(value: Any) -> list[Any]:
    """Return the entries of a cell: a list, also one in text, or parts of a text with `|` between."""
    if isinstance(value, str):
        listed = parse_list(value)
        return [part.strip() for part in value.split("|")] if listed is None else listed
    if isinstance(value, list):
        return value
    return [value] if value else []


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
