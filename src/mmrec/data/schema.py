"""The canonical tables of reviews, items and refusals, which later steps need not check again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

__all__ = ["ITEM_SCHEMA", "NO_TIME", "REJECT_SCHEMA"]
__all__ += ["REVIEW_SCHEMA", "EntityKind", "Interactions", "Reviews"]

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
    """Checked reviews, their items, and what was refused.

    Attributes:
        table: one row per review, columns of `REVIEW_SCHEMA`, in the order of the file.
        items: at most one row per item, columns of `ITEM_SCHEMA`; an item without a row has neither
            a name nor photos, except those of its reviews.
        rejects: one row per refusal, columns of `REJECT_SCHEMA`.
        source: path or name of the origin, for messages and reports.
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
