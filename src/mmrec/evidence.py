"""Which reviews may speak for a row: the one place where that is decided.

A row's features on one side (its user's, or its item's) are made from that entity's *known* reviews
(train, valid, and spare ones: those that the filter dropped), less what the policy takes away:

- `fold`: train rows are dealt into folds; a train row hears the other folds of train. Nobody but test hears
  valid, which itself hears all of train: whoever chooses by valid must not have heard its answers.
- `leave_one_out`: a row hears every known review but its own (the paper, section 4). It leaks: within one
  entity the average is lower exactly on the positive rows.
- `all`: a row hears itself too (what a careless pipeline does).
- `past`: a row hears strictly earlier reviews only, of valid too.

Rows that are not known (test) hear every known review; under `past`, every earlier one.
Rows that hear the same reviews share a *view*, so whatever is slow is done once per view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.errors import DataError
from mmrec.reviews.split import Split
from mmrec.reviews.table import NO_TIME, Interactions

__all__ = ["VALID", "Evidence", "Policy", "Side", "deal_folds"]

Policy = Literal["fold", "leave_one_out", "all", "past"]
VALID = 0
"""The fold of valid; train takes 1, 2, ... and rows outside of both are -1."""
_NOTHING = -1
_COLUMNS_AT_ONCE = 128


def deal_folds(data: Interactions, split: Split, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal rows into folds: valid is fold 0, train rows take 1..folds in turn within each user.

    Returns:
        (n,) int64 fold of every row, -1 for rows of neither.
    """
    fold = np.full(len(data), _NOTHING, dtype=np.int64)
    fold[split.valid] = VALID
    order = rng.permutation(split.train)
    order = order[np.argsort(data.user[order], kind="stable")]
    start = rng.integers(folds, size=len(data.users))[data.user[order]]
    rank = np.arange(len(order)) - np.searchsorted(data.user[order], data.user[order])
    fold[order] = VALID + 1 + (start + rank) % folds
    return fold


@dataclass(frozen=True)
class Side:
    """The views of one side.

    Attributes:
        view: (n,) int64 view of every row.
        entity: (v,) int64 entity of every view.
        order: (m,) int64 known rows, grouped by entity; under `past` by time within the entity.
        start, stop: (v,) int64 the view's reviews are among `order[start:stop]`.
        group: (m,) int64 group of each row of `order`.
        silent: (v,) int64 the group that does not speak in this view; -1 where all of them do.
        fold: (v,) int64 the fold that the rows of a view are in; -1 for rows of none.
    """

    view: np.ndarray
    entity: np.ndarray
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    group: np.ndarray
    silent: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.entity)

    def members(self, view: int) -> np.ndarray:
        """Row numbers of the reviews that speak in `view`."""
        part = slice(self.start[view], self.stop[view])
        speaks = self.group[part] != self.silent[view]
        return self.order[part][speaks]

    def sets(self) -> Iterator[np.ndarray]:
        """`members` of every view in turn."""
        return (self.members(view) for view in range(len(self)))

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum values over every view's reviews, in time linear in the number of reviews.

        Args:
            values: (n, d), one row per review of the table; rows that are not known are not read.

        Returns:
            (v, d) of the type of `values`; sums are exact to rounding of float64.
        """
        out = np.empty((len(self), values.shape[1]), dtype=values.dtype)
        hears_all = self.silent == _NOTHING
        cells = (np.ones(len(self.order)), (self.group, np.arange(len(self.order))))
        by_group = csr_matrix(cells, shape=(int(self.group.max(initial=0)) + 1, len(self.order)))
        for at in range(0, values.shape[1], _COLUMNS_AT_ONCE):
            columns = slice(at, at + _COLUMNS_AT_ONCE)
            part = values[self.order, columns].astype(np.float64)
            running = np.zeros((len(part) + 1, part.shape[1]))
            np.cumsum(part, axis=0, out=running[1:])
            total = running[self.stop] - running[self.start]
            total[~hears_all] -= (by_group @ part)[self.silent[~hears_all]]
            out[:, columns] = total
        return out

    @classmethod
    def excluding(
        cls, entity: np.ndarray, known: np.ndarray, silent: np.ndarray, reserved: int = _NOTHING
    ) -> Side:
        """Views in which a row hears its entity's known reviews but for one group of them.

        Args:
            entity: (n,) entity of every row.
            known: (m,) rows that may speak.
            silent: (n,) label of the group that a row neither belongs to nor hears; -1: hears all.
            reserved: label of a group that nobody hears but rows of label -1.
        """
        order = known[np.lexsort((silent[known] == reserved, entity[known]))]
        kept = silent[order] == reserved if reserved != _NOTHING else np.zeros(len(order), dtype=bool)
        labels = int(silent.max(initial=0)) + 2
        key = entity * labels + silent + 1
        views, view = np.unique(key, return_inverse=True)
        groups, group = np.unique(key[order], return_inverse=True)
        owner, label = views // labels, views % labels - 1
        start, end = (np.searchsorted(entity[order], owner, side=side) for side in ("left", "right"))
        held_back = np.concatenate([[0], np.cumsum(kept)])
        stop = np.where(label == _NOTHING, end, end - (held_back[end] - held_back[start]))
        at = np.minimum(np.searchsorted(groups, views), max(len(groups) - 1, 0))
        speaks = (label != _NOTHING) & (label != reserved) & (groups[at] == views if len(groups) else False)
        return cls(view, owner, order, start, stop, group, np.where(speaks, at, _NOTHING), label)

    @classmethod
    def whole(cls, entity: np.ndarray) -> Side:
        """One view per entity, which hears all of its reviews."""
        return cls.excluding(entity, np.arange(len(entity)), np.full(len(entity), _NOTHING))

    @classmethod
    def listed(cls, entity: np.ndarray, sets: Sequence[np.ndarray], fold: np.ndarray | None = None) -> Side:
        """Views of which each hears just the reviews listed for it.

        Args:
            entity: (v,) entity of every view.
            sets: (v) row numbers.
            fold: (v,) fold of every view; -1 everywhere by default.
        """
        sizes = np.array([len(rows) for rows in sets], dtype=np.int64)
        stop = np.cumsum(sizes)
        order = np.concatenate([*sets, np.zeros(0, dtype=np.int64)])
        each = np.arange(len(entity))
        nothing = np.full(len(entity), _NOTHING)
        group = np.zeros(len(order), dtype=np.int64)
        folds = nothing if fold is None else fold
        return cls(each, entity, order, stop - sizes, stop, group, nothing, folds)

    @classmethod
    def earlier(cls, entity: np.ndarray, known: np.ndarray, time: np.ndarray) -> Side:
        """Views in which a row hears its entity's known reviews of a strictly earlier time.

        Args:
            entity, time: (n,) entity and time of every row; a row without time hears nothing.
            known: (m,) rows that may speak.
        """
        order = known[np.lexsort((time[known], entity[known]))]
        ranked = np.unique(time, return_inverse=True)[1]
        moments = len(time) + 1
        key = entity * moments + np.where(time == NO_TIME, 0, ranked)
        keys = entity[order] * moments + ranked[order]
        first = np.searchsorted(entity[order], entity)
        ends, view = np.unique(
            np.stack([entity, first, np.searchsorted(keys, key)]), axis=1, return_inverse=True
        )
        owner, start, stop = ends
        nothing = np.full(len(owner), _NOTHING)
        return cls(view, owner, order, start, stop, np.arange(len(order)), nothing, nothing)


@dataclass(frozen=True)
class Evidence:
    """Who speaks for every row of a table, on the user's side and on the item's."""

    policy: Policy
    fold: np.ndarray
    known: np.ndarray
    user: Side
    item: Side

    @classmethod
    def derive(
        cls, data: Interactions, split: Split, policy: Policy, folds: int, rng: np.random.Generator
    ) -> Evidence:
        """Apply a policy to a split (DESIGN 3.1).

        Raises:
            DataError: `past` without a single time.
        """
        known = split.known
        fold = deal_folds(data, split, folds, rng)
        if policy == "past":
            if (data.time == NO_TIME).all():
                raise DataError("the policy `past` needs reviews with times, and none has one")
            sides = [Side.earlier(entity, known, data.time) for entity in (data.user, data.item)]
        else:
            silent = np.full(len(data), _NOTHING, dtype=np.int64)
            reserved = _NOTHING
            if policy == "fold":
                silent, reserved = fold, VALID
            elif policy == "leave_one_out":
                silent[known] = np.arange(len(known))
            sides = [Side.excluding(entity, known, silent, reserved) for entity in (data.user, data.item)]
        return cls(policy, fold, known, *sides)

    def heard(self, fold: int) -> np.ndarray:
        """The rows, of any user and item, that rows of a fold may hear; all known ones unless under `fold`.

        Args:
            fold: of train, of valid, or -1 for rows of none.
        """
        if fold == _NOTHING or self.policy != "fold":
            return self.known
        return self.known[(self.fold[self.known] != fold) & (self.fold[self.known] != VALID)]
