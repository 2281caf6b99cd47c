"""How results are written down for `golden.py`, and compared with earlier ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel

ABSENT = "(absent)"
# Names of fields, flags and schemas that have changed: as they are now -> as the goldens have them.
RENAMED = {
    "operating_points": "operating",
    "extras": "asked",
    "coalitions": "values",
    "test_ratio": "ratio",
    "sample_counts": "looked",
    "sampled": "looked_at",
    "by_chance": "luck",
    "severity": "bad",
    "compared_text": "beside",
    "trained baselines": "peers",
    "UserRecommendationRequest": "UserWish",
    "NewUserRequest": "Newcomer",
    "Neighbor": "Near",
    "ReviewRequest": "Review",
    "tasks": "asks",
    "submitted": "handed_in",
    "deferred": "left",
    "rejected": "refused",
    "assessment": "judgement",
}
# Fields that differ in every run.
DROPPED = {
    "seconds",
    "milliseconds",
    "exact_milliseconds",
    "gigabytes",
    "bytes",
    "date",  # of a live review
    "oldest",
    "version",
}


def plain(value: Any) -> Any:
    """A result as JSON has it, under the names of the goldens, without fields that always differ."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif isinstance(value, pl.DataFrame):
        value = value.to_dicts()
    elif is_dataclass(value):
        value = asdict(value)
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {_old_name(str(key)): plain(x) for key, x in value.items() if key not in DROPPED}
    if isinstance(value, list | tuple):
        return [plain(element) for element in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return _old_name(value) if isinstance(value, str) else value


def as_stored(results: Any) -> Any:
    """Results as they are after they have been written to a file and read."""
    return json.loads(json.dumps(plain(results)))


def _old_name(name: str) -> str:
    # A reference in the OpenAPI document ends with the name of a schema.
    path, slash, last = name.rpartition("/") if name.startswith("#/") else ("", "", name)
    return path + slash + RENAMED.get(last, last)


def differences(
    old: Any, new: Any, tolerance: float = 1e-6, *, ties: bool = False, path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Path, old and new value of each difference; floats may differ by the tolerance.

    With `ties`, items of a list whose values are equal within the tolerance may change places.
    """
    options: dict[str, Any] = {"tolerance": tolerance, "ties": ties}
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            pair = old.get(key, ABSENT), new.get(key, ABSENT)
            yield from differences(*pair, path=f"{path}.{key}", **options)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        column = _rank_column(old)
        if ties and column and _rank_column(new) == column:
            yield from _ranking_differences(old, new, column, tolerance, path)
            return
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, path=f"{path}[{index}]", **options)
    elif isinstance(old, float) and isinstance(new, float):
        # NaN and infinity equal themselves by their text alone.
        if repr(old) != repr(new) and not abs(old - new) <= tolerance:
            yield path, old, new
    elif old != new or type(old) is not type(new):
        yield path, old, new


def _rank_column(rows: list[Any]) -> str | None:
    """The column that a list of items is ranked by; none for other lists."""
    if not (rows and isinstance(rows[0], dict) and "item" in rows[0]):
        return None
    return next((name for name in ("probability", "cosine") if name in rows[0]), None)


def _ranking_differences(
    old: list[Any], new: list[Any], column: str, tolerance: float, path: str
) -> Iterator[tuple[str, Any, Any]]:
    new_rows = {row["item"]: row for row in new}
    for rank, (row, other) in enumerate(zip(old, new, strict=True)):
        values = row[column], other[column]
        yield from differences(*values, tolerance, path=f"{path}[{rank}].{column}")
        if match := new_rows.get(row["item"]):
            yield from differences(row, match, tolerance, ties=True, path=f"{path}.{row['item']}")
        # Whatever is as good as the last may have fallen off the end.
        elif abs(row[column] - old[-1][column]) > tolerance:
            yield f"{path}[{rank}]", row["item"], ABSENT
