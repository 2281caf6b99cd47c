"""How results are written down for `golden.py`, and held against others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel

import golden_names as names

TOLERANCE = 1e-6
ABSENT = "(absent)"


def plain(value: Any) -> Any:
    """A result as JSON has it, under the names of the goldens and without what is another every time."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif isinstance(value, pl.DataFrame):
        value = value.to_dicts()
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {renamed(str(key)): plain(x) for key, x in value.items() if key not in names.DROPPED}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return renamed(value) if isinstance(value, str) else value


def read_again(found: dict[str, Any]) -> dict[str, Any]:
    """Results as they are when they have been written and read."""
    again: dict[str, Any] = json.loads(json.dumps(plain(found)))
    return again


def renamed(name: str) -> str:
    """As the goldens call it; also the schema at the end of a reference."""
    head, slash, last = name.rpartition("/") if name.startswith("#/") else ("", "", name)
    return head + slash + names.RENAMED.get(last, last)


def differences(
    old: Any, new: Any, tolerance: float = TOLERANCE, *, ties: bool = False, at: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Path, old and new value of what differs; floats may by the tolerance.

    With `ties`, items of a list that are as good as each other, within the tolerance, may change places.
    """
    how: dict[str, Any] = {"tolerance": tolerance, "ties": ties}
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from differences(
                old.get(key, ABSENT), new.get(key, ABSENT), at=f"{at}.{key}", **how
            )
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        if ties and (value := _ranked(old)) and _ranked(new) == value:
            yield from _rankings(old, new, value, tolerance, at)
            return
        for place, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, at=f"{at}[{place}]", **how)
    elif isinstance(old, float) and isinstance(new, float):
        if not (repr(old) == repr(new) or abs(old - new) <= tolerance):
            yield at, old, new
    elif old != new or type(old) is not type(new):
        yield at, old, new


def _ranked(rows: list[Any]) -> str | None:
    """By which of its columns a list is ranked, where it is a list of items."""
    if not (rows and isinstance(rows[0], dict) and "item" in rows[0]):
        return None
    return next((name for name in ("probability", "cosine") if name in rows[0]), None)


def _rankings(
    old: list[Any], new: list[Any], value: str, tolerance: float, at: str
) -> Iterator[tuple[str, Any, Any]]:
    theirs = {row["item"]: row for row in new}
    for place, (row, other) in enumerate(zip(old, new, strict=True)):
        yield from differences(row[value], other[value], tolerance, at=f"{at}[{place}].{value}")
        if row["item"] in theirs:
            found = theirs[row["item"]]
            yield from differences(row, found, tolerance, ties=True, at=f"{at}.{row['item']}")
        elif abs(row[value] - old[-1][value]) > tolerance:
            yield f"{at}[{place}]", row["item"], ABSENT
