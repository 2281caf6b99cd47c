"""Filtering, and dealing reviews into train, valid and test."""

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

    Attributes:
        train, valid, test: rows that are learned from, chosen by, and judged by.
        filtered_rows: rows that the filter dropped, whose reviews may speak for others all the same.
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
        """What is known when valid is still to be judged: train and spare, sorted."""
        return np.sort(np.concatenate([self.train, self.filtered_rows]))


def filter_reviews(table: pl.DataFrame, min_reviews: int = 2) -> pl.DataFrame:
    """Drop users and items with fewer than `min_reviews` reviews, repeatedly until none is left.

    Other columns are kept as they are.

    Raises:
        DataError: nothing survives.
    """
    kept = table
    while True:
        enough = (pl.len().over("user") >= min_reviews) & (pl.len().over("item") >= min_reviews)
        smaller = kept.filter(enough)
        if smaller.height == kept.height:
            break
        kept = smaller
    if kept.is_empty():
        raise DataError(
            f"no review is left after dropping users and items with fewer than {min_reviews} reviews "
            f"(of {table.height:,}); bring more data or lower --min-reviews"
        )
    return kept


def split_reviews(
    data: Interactions,
    config: SplitConfig,
    rng: np.random.Generator,
    passed_filter: np.ndarray | None = None,
) -> Split:
    """Deal rows into train, valid and test; rows that are not `passed_filter` (n, bool) are spare.

    `random`: every user and item of test stays in train (paper, section 4), and so for valid. One row per
    user and item, drawn at random, is held back in train; where those leave too few, test is smaller.
    `time`: test is strictly later than valid, and valid than train; newcomers may appear.

    Raises:
        DataError: a time split of reviews without time, or a part that stays empty.
    """
    each = np.arange(len(data))
    rows = each if passed_filter is None else each[passed_filter]
    if config.split_by == "time":
        rest, test = _cut_by_time(data, rows, config.test_share)
        train, valid = _cut_by_time(data, rest, config.valid_share)
    else:
        rest, test = _cut_at_random(data, rows, config.test_share, rng)
        train, valid = _cut_at_random(data, rest, config.valid_share, rng)
    for name, part, share in (
        ("test", test, config.test_share),
        ("valid", valid, config.valid_share),
    ):
        if share and not len(part):
            raise DataError(
                f"no review can go to {name}: {len(rows):,} reviews are too few for a split"
            )
    spare = np.setdiff1d(each, rows, assume_unique=True)
    if config.split_by == "time":  # what was written later may not speak for anything earlier
        spare = spare[(data.time[spare] != NO_TIME) & (data.time[spare] <= data.time[train].max())]
    return Split(train, valid, test, spare)


def _cut_at_random(
    data: Interactions, rows: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(rows)
    free = np.ones(len(order), dtype=bool)
    for entity in (data.user, data.item):
        free[np.unique(entity[order], return_index=True)[1]] = False
    cut = order[free][: round(share * len(rows))]
    return np.setdiff1d(rows, cut, assume_unique=True), np.sort(cut)


def _cut_by_time(
    data: Interactions, rows: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    time = data.time[rows]
    unknown = int((time == NO_TIME).sum())
    if unknown:
        raise DataError(
            f"{unknown:,} of {len(rows):,} reviews have no time; use a random split instead"
        )
    later = time > np.quantile(time, 1 - share, method="lower")
    return rows[~later], rows[later]
