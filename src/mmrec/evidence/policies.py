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

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmrec.data.schema import NO_TIME, Interactions
from mmrec.data.split import Split
from mmrec.errors import DataError
from mmrec.evidence.views import NO_GROUP, EvidenceViews

__all__ = ["VALIDATION_FOLD", "Evidence", "EvidenceViews", "Policy", "assign_folds"]

Policy = Literal["fold", "leave_one_out", "all", "past"]
VALIDATION_FOLD = 0
"""The fold of valid; train takes 1, 2, ... and rows outside of both are -1."""


def assign_folds(
    data: Interactions, split: Split, folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Deal rows into folds: valid is fold 0, train rows take 1..folds in turn within each user.

    Returns:
        (n,) int64 fold of every row, -1 for rows of neither.
    """
    fold = np.full(len(data), NO_GROUP, dtype=np.int64)
    fold[split.valid] = VALIDATION_FOLD
    order = rng.permutation(split.train)
    order = order[np.argsort(data.user[order], kind="stable")]
    start = rng.integers(folds, size=len(data.users))[data.user[order]]
    rank = np.arange(len(order)) - np.searchsorted(data.user[order], data.user[order])
    fold[order] = VALIDATION_FOLD + 1 + (start + rank) % folds
    return fold


@dataclass(frozen=True)
class Evidence:
    """Who speaks for every row of a table, on the user's side and on the item's."""

    policy: Policy
    fold: np.ndarray
    evidence_rows: np.ndarray
    user: EvidenceViews
    item: EvidenceViews

    @classmethod
    def derive(
        cls, data: Interactions, split: Split, policy: Policy, folds: int, rng: np.random.Generator
    ) -> Evidence:
        """Apply a policy to a split (DESIGN 3.1).

        Raises:
            DataError: `past` without a single time.
        """
        known = split.evidence_rows
        fold = assign_folds(data, split, folds, rng)
        if policy == "past":
            if (data.time == NO_TIME).all():
                raise DataError("the policy `past` needs reviews with times, and none has one")
            sides = [
                EvidenceViews.earlier_reviews(entity, known, data.time)
                for entity in (data.user, data.item)
            ]
        else:
            silent = np.full(len(data), NO_GROUP, dtype=np.int64)
            reserved = NO_GROUP
            if policy == "fold":
                silent, reserved = fold, VALIDATION_FOLD
            elif policy == "leave_one_out":
                silent[known] = np.arange(len(known))
            sides = [
                EvidenceViews.excluding(entity, known, silent, reserved)
                for entity in (data.user, data.item)
            ]
        return cls(policy, fold, known, *sides)

    def visible_rows(self, fold: int) -> np.ndarray:
        """The rows, of any user and item, that rows of a fold may hear; all known ones unless under `fold`.

        Args:
            fold: of train, of valid, or -1 for rows of none.
        """
        if fold == NO_GROUP or self.policy != "fold":
            return self.evidence_rows
        return self.evidence_rows[
            (self.fold[self.evidence_rows] != fold)
            & (self.fold[self.evidence_rows] != VALIDATION_FOLD)
        ]
