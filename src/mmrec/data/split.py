"""Filtering of rare users and items, and the split into train, valid and test."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from mmrec.config import SplitConfig
from mmrec.data.schema import NO_TIME, Interactions
from mmrec.errors import DataError

__all__ = ["Split", "filter_reviews", "split_reviews"]


@dataclass(frozen=True)
class Split:
    """Row numbers of disjoint parts, each sorted.

    Valid selects the epoch and the threshold. Reviews of `filtered_rows`, which the filter dropped,
    may still be evidence.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
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
    """Drop users and items with fewer than `min_reviews` reviews, repeatedly until none is left.

    Raises:
        DataError: nothing survives.
    """
    enough = (pl.len().over("user") >= min_reviews) & (pl.len().over("item") >= min_reviews)
    previous, remaining = table, table.filter(enough)
    while remaining.height < previous.height:  # each drop may make others necessary
        previous, remaining = remaining, remaining.filter(enough)
    if remaining.is_empty():
        raise DataError(
            f"no review is left after dropping users and items with fewer than {min_reviews} reviews "
            f"(of {table.height:,}); bring more data or lower --min-reviews"
        )
    return remaining


def split_reviews(
    data: Interactions,
    config: SplitConfig,
    rng: np.random.Generator,
    passed_filter: np.ndarray | None = None,
) -> Split:
    """Split the rows that passed the filter into train, valid and test.

    `random`: every user and item of test stays in train (paper, section 4), and so for valid. One row
    of each user and item, drawn at random, is held back in train; if too few rows are left, test is
    smaller. `time`: test is strictly later than valid, and valid than train; users and items without
    an earlier review may appear.

    Args:
        passed_filter: (n,) bool; all rows by default.

    Raises:
        DataError: a time split of reviews without time, or a part that stays empty.
    """
    all_rows = np.arange(len(data))
    rows = rest = all_rows if passed_filter is None else all_rows[passed_filter]
    by_time, parts = config.split_by == "time", []
    for name, share in (("test", config.test_share), ("valid", config.valid_share)):
        if by_time:
            rest, part = _cut_by_time(data, rest, share)
        else:
            rest, part = _cut_at_random(data, rest, share, rng)
        if share and not len(part):
            raise DataError(
                f"no review can go to {name}: {len(rows):,} reviews are too few for a split"
            )
        parts.append(part)
    test, valid = parts
    filtered = np.setdiff1d(all_rows, rows, assume_unique=True)
    if by_time:  # later reviews may not be evidence for earlier ones
        times = data.time[filtered]
        filtered = filtered[(times != NO_TIME) & (times <= data.time[rest].max())]
    return Split(train=rest, valid=valid, test=test, filtered_rows=filtered)


def _cut_at_random(
    data: Interactions, rows: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(rows)
    movable = np.ones(len(order), dtype=bool)
    for entity in (data.user, data.item):
        # the first row of each user and item, in random order, stays
        movable[np.unique(entity[order], return_index=True)[1]] = False
    cut = order[movable][: round(share * len(rows))]
    return np.setdiff1d(rows, cut, assume_unique=True), np.sort(cut)


def _cut_by_time(
    data: Interactions, rows: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    time = data.time[rows]
    if missing := int((time == NO_TIME).sum()):
        reason = f"{missing:,} of {len(rows):,} reviews have no time; use a random split instead"
        raise DataError(reason)
    later = time > np.quantile(time, 1 - share, method="lower")
    return rows[~later], rows[later]
