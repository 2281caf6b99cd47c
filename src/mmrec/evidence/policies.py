"""Which reviews are evidence for a row: the only module where this is decided.

A row's features on one side (its user's, or its item's) are made from the *evidence reviews* of
that entity: those of train and validation, and those that the filter for rare users and items
dropped. The policy then takes away what the row must not see:

- `fold`: train rows are assigned to folds, and a row sees the other folds of train. Validation
  reviews are evidence for test rows only, because they select the epoch and the threshold;
  validation rows see all of train.
- `leave_one_out`: a row sees every evidence review except its own (the paper, section 4). This
  leaks the label: within one entity, the mean of the others is lower exactly for the rows with a
  high rating.
- `all`: a row also sees itself (what a careless pipeline does; for comparison).
- `past`: a row sees strictly earlier reviews only, validation reviews among them.

Test rows see every evidence review; under `past`, every earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmrec.data.schema import NO_TIME, Interactions, Split
from mmrec.errors import DataError
from mmrec.evidence.views import NO_GROUP, EvidenceViews

__all__ = ["VALIDATION_FOLD", "Evidence", "Policy", "assign_folds"]

Policy = Literal["fold", "leave_one_out", "all", "past"]
VALIDATION_FOLD = 0
"""The fold of validation rows; train rows are in folds 1, 2, ..., all others in `NO_GROUP`."""


def assign_folds(
    data: Interactions, split: Split, folds: int, rng: np.random.Generator
) -> np.ndarray:
    """(n,) int64 fold of every row: validation rows to fold 0, the train rows of each user to
    1..folds in turn, and rows of neither part to `NO_GROUP`.
    """
    fold = np.full(len(data), NO_GROUP, dtype=np.int64)
    fold[split.valid] = VALIDATION_FOLD
    order = rng.permutation(split.train)
    order = order[np.argsort(data.user[order], kind="stable")]
    user = data.user[order]
    # Users start at random folds, or those with one review would all be in the first.
    start = rng.integers(folds, size=len(data.users))[user]
    # Rank of a review among its user's: 0, 1, ...
    rank = np.arange(len(order)) - np.searchsorted(user, user)
    fold[order] = VALIDATION_FOLD + 1 + (start + rank) % folds
    return fold


@dataclass(frozen=True)
class Evidence:
    """Which reviews each of n rows may see, of its user and of its item.

    Attributes:
        policy: the policy that the views follow.
        fold: (n,) fold of every row, as from `assign_folds`.
        evidence_rows: (m,) rows whose reviews may be seen at all, ascending.
        user, item: the views of both sides.
    """

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
            DataError: `past` on reviews of which none has a time.
        """
        evidence_rows = split.evidence_rows
        fold = assign_folds(data, split, folds, rng)
        if policy == "past":
            if (data.time == NO_TIME).all():
                raise DataError("the policy `past` needs reviews with times, and none has one")
            user = EvidenceViews.earlier_reviews(data.user, evidence_rows, data.time)
            item = EvidenceViews.earlier_reviews(data.item, evidence_rows, data.time)
            return cls(policy, fold, evidence_rows, user, item)
        group = np.full(len(data), NO_GROUP, dtype=np.int64)
        held_out_fold = NO_GROUP
        if policy == "fold":
            group, held_out_fold = fold, VALIDATION_FOLD
        elif policy == "leave_one_out":
            group[evidence_rows] = np.arange(len(evidence_rows))  # every review is a group
        user = EvidenceViews.excluding(data.user, evidence_rows, group, held_out_fold)
        item = EvidenceViews.excluding(data.item, evidence_rows, group, held_out_fold)
        return cls(policy, fold, evidence_rows, user, item)

    def visible_rows(self, fold: int) -> np.ndarray:
        """Evidence rows, of any user and item, that the rows of a fold may see.

        All of them for test rows (`NO_GROUP`), and under another policy than `fold`.
        """
        if fold == NO_GROUP or self.policy != "fold":
            return self.evidence_rows
        folds = self.fold[self.evidence_rows]
        return self.evidence_rows[(folds != fold) & (folds != VALIDATION_FOLD)]
