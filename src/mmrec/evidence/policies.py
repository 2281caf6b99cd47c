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

Test rows see every evidence review; under `past`, every earlier one. Averages over the reviews of one
entity use its views. Effects, which are estimated from all users and items at once, use
`Evidence.visible_rows`. Constants that all rows share (the mean, priors, penalties) are estimated on
all train rows, the row itself among them.

Rows that see the same reviews share a *view*, so slow work is done once per view. A view sees a
stretch of the evidence reviews of its entity, in a fixed order, without the reviews of the *group*
of its rows. Under `fold` the stretch ends before the held-out fold, and the group of a row is its
fold; under `leave_one_out` each evidence row is a group; under `past` the stretch is what was written
earlier, and there are no groups. So the sum of a view is that of its stretch minus that of its group.
A review is excluded from one view at most: the sums of all views take time linear in the number of
reviews, even where one item has most of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.data import files
from mmrec.data.schema import NO_TIME, Interactions, Split
from mmrec.errors import DataError

Policy = Literal["fold", "leave_one_out", "all", "past"]
NO_GROUP = -1  # of rows that are in no group (and in no fold), and of "no view"
VALIDATION_FOLD = 0  # train rows are in folds 1, 2, ..., others in `NO_GROUP`
_BLOCK_CELLS = 1 << 19  # numbers that are summed at once; they stay in a core's cache


@dataclass(frozen=True)
class EvidenceViews:
    """The v views on the reviews of users, or of items; all arrays are int64."""

    view: np.ndarray  # (n,) view of every row
    entity: np.ndarray  # (v,) ascending but for `from_lists`
    # (v,) of the rows that use a view (under `fold` their fold), or `NO_GROUP`
    group: np.ndarray
    order: np.ndarray  # (m,) evidence rows, the rows of one entity next to each other
    start: np.ndarray  # (v,) of the stretch in `order`; the same for views of an entity
    stop: np.ndarray  # (v,)
    # (m,) view that may not see the row of `order`, or `NO_GROUP`
    excluded_from: np.ndarray

    def __len__(self) -> int:
        return len(self.entity)

    def members(self, view: int) -> np.ndarray:
        """Row numbers of the reviews that `view` sees."""
        stretch = slice(self.start[view], self.stop[view])
        return self.order[stretch][self.excluded_from[stretch] != view]

    def review_sets(self) -> Iterator[np.ndarray]:
        """`members` of every view."""
        return map(self.members, range(len(self)))

    def mean(self, values: np.ndarray, count: np.ndarray) -> np.ndarray:
        """(v, d) float16 means: sums of (n, d) values over (v,) counts; zero where none."""
        return self.sum(values, np.maximum(count, 1))

    def sum(self, values: np.ndarray, divisor: np.ndarray | None = None) -> np.ndarray:
        """(v, d) sums of (n, d) values over the reviews of every view, or (v,) of (n,) values; only
        evidence rows are read.

        They are added up in float64, and have the type of the values, but at least float32; with
        (v,) divisors they are float16. A DataError says that there is no room for them.
        """
        if values.ndim == 1:
            return self.sum(values[:, None], divisor)[:, 0]
        width = values.shape[1]
        dtype = np.promote_types(values.dtype, "float32") if divisor is None else np.float16
        result = files.allocate((len(self), width), dtype)
        # All views of an entity, which share `start`, are in one block.
        first = np.flatnonzero(np.diff(self.start, prepend=-1))
        block = (self.start[first] + first) * width // _BLOCK_CELLS
        begin = first[np.flatnonzero(np.diff(block, prepend=-1))]
        for views in map(slice, begin, np.append(begin[1:], len(self))):
            start, stop = self.start[views], self.stop[views]
            low, high = start.min(), stop.max()
            rows = self.order[low:high]  # (r,)
            # Pieces: reviews between neighbouring ends of stretches, each a run of pieces.
            ends, piece = np.unique(np.concatenate([start, stop]), return_inverse=True)
            first_piece, end_piece = np.split(piece, 2)
            ones, shape = np.ones(len(rows)), (len(ends) - 1, len(rows))
            in_piece = csr_matrix((ones, np.arange(len(rows)), ends - low), shape)
            # (k, r) 0/1: the reviews that each of the k views excludes.
            review = np.flatnonzero(self.excluded_from[low:high] != NO_GROUP)
            view = self.excluded_from[low:high][review] - views.start
            excluded = csr_matrix((ones[review], (view, review)), (len(start), len(rows)))
            # A few columns at a time, where an entity has more reviews than fit into a block.
            step = max(1, _BLOCK_CELLS // (len(rows) + len(start)))
            for column in range(0, width, step):
                columns = slice(column, column + step)
                x = files.to_float32(values[rows, columns]).astype(float)  # (r, step)
                # (ends, step) sums of the pieces before each end of a stretch.
                running = np.zeros((len(ends), x.shape[1]))
                np.cumsum(in_piece @ x, axis=0, out=running[1:])
                total = running[end_piece] - running[first_piece]  # (k, step)
                total -= excluded @ x
                if divisor is not None:
                    total = files.to_float16(total / divisor[views, None])
                result[views, columns] = total
        return result

    @classmethod
    def excluding(
        cls, entity: np.ndarray, evidence_rows: np.ndarray, group: np.ndarray, by_fold: bool = False
    ) -> EvidenceViews:
        """Views in which (n,) rows see their entity's (m,) evidence rows except those of their group.

        Rows of `NO_GROUP` see all, and are seen by all; where groups are folds, they alone see the
        validation fold, which is held out.
        """
        held_out = (group[evidence_rows] == VALIDATION_FOLD) & by_fold
        # By entity, and of an entity the held-out reviews last: a stretch can end before them.
        sort_key = entity[evidence_rows] * 2 + held_out
        by_entity = np.argsort(sort_key, kind="stable")
        order, sort_key, held_out = (x[by_entity] for x in (evidence_rows, sort_key, held_out))
        # One view for each pair (entity, group) of some row, coded as a single number.
        labels = int(group.max(initial=NO_GROUP)) + 2
        pairs, view = np.unique(entity * labels + (group + 1), return_inverse=True)
        view_entity, view_group = pairs // labels, pairs % labels - 1
        sees_held_out = view_group == NO_GROUP
        start = np.searchsorted(sort_key, view_entity * 2)
        stop = np.searchsorted(sort_key, view_entity * 2 + 1 + sees_held_out)
        # A review is excluded from the view of its own row, whose rows are its group.
        seen_by_all = held_out | (group[order] == NO_GROUP)
        excluded_from = np.where(seen_by_all, NO_GROUP, view[order])
        return cls(view, view_entity, view_group, order, start, stop, excluded_from)

    @classmethod
    def all_reviews(
        cls, entity: np.ndarray, evidence_rows: np.ndarray | None = None
    ) -> EvidenceViews:
        """One view per entity, in order of code, of all its evidence reviews (by default all)."""
        rows = np.arange(len(entity)) if evidence_rows is None else evidence_rows
        return cls.excluding(entity, rows, np.full(len(entity), NO_GROUP))

    @classmethod
    def from_lists(
        cls, entity: np.ndarray, lists: Sequence[np.ndarray], group: np.ndarray | None = None
    ) -> EvidenceViews:
        """Views of (v,) entities that see exactly the reviews (row numbers) listed for them."""
        sizes = np.array([*map(len, lists)], dtype=np.int64)
        stop = np.cumsum(sizes)
        order = np.concatenate([*lists, np.zeros(0, dtype=np.int64)])
        group = np.full(len(entity), NO_GROUP) if group is None else group
        no_exclusion = np.full(len(order), NO_GROUP)
        return cls(np.arange(len(entity)), entity, group, order, stop - sizes, stop, no_exclusion)

    @classmethod
    def earlier_reviews(
        cls, entity: np.ndarray, evidence_rows: np.ndarray, time: np.ndarray
    ) -> EvidenceViews:
        """Views in which (n,) rows see their entity's strictly earlier evidence; without a time, none."""
        order = evidence_rows[np.lexsort((time[evidence_rows], entity[evidence_rows]))]
        # Pairs (entity, rank of the time) are coded as numbers, which sort as pairs do.
        # `NO_TIME` has the highest rank: never earlier as a review; as a row, it asks for rank 0.
        rank = np.unique(time, return_inverse=True)[1]
        ranks = len(time) + 1
        asked_rank = np.where(time == NO_TIME, 0, rank)
        review_keys = entity[order] * ranks + rank[order]
        row_stop = np.searchsorted(review_keys, entity * ranks + asked_rank)
        # One view for each pair (entity, end of the stretch).
        ends = len(order) + 1
        pairs, view = np.unique(entity * ends + row_stop, return_inverse=True)
        view_entity, stop = pairs // ends, pairs % ends
        start = np.searchsorted(entity[order], view_entity)
        no_group = np.full(len(pairs), NO_GROUP)
        no_exclusion = np.full(len(order), NO_GROUP)
        return cls(view, view_entity, no_group, order, start, stop, no_exclusion)


def assign_folds(
    data: Interactions, split: Split, folds: int, rng: np.random.Generator
) -> np.ndarray:
    """(n,) int64 folds: of validation rows 0, of the train rows of each user 1..folds in turn, of
    other rows `NO_GROUP`."""
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
    """Which reviews each of n rows may see, of its user and of its item."""

    policy: Policy
    fold: np.ndarray  # (n,) as from `assign_folds`
    evidence_rows: np.ndarray  # (m,) rows whose reviews may be seen at all, ascending
    user: EvidenceViews
    item: EvidenceViews

    @classmethod
    def derive(
        cls, data: Interactions, split: Split, policy: Policy, folds: int, rng: np.random.Generator
    ) -> Evidence:
        """Apply a policy to a split; a DataError for `past` on reviews of which none has a time."""
        rows, fold = split.evidence_rows, assign_folds(data, split, folds, rng)
        if policy == "past":
            if (data.time == NO_TIME).all():
                raise DataError("the policy `past` needs reviews with times, and none has one")
            user = EvidenceViews.earlier_reviews(data.user, rows, data.time)
            item = EvidenceViews.earlier_reviews(data.item, rows, data.time)
            return cls(policy, fold, rows, user, item)
        by_fold = policy == "fold"
        group = fold if by_fold else np.full(len(data), NO_GROUP, dtype=np.int64)
        if policy == "leave_one_out":
            group[rows] = np.arange(len(rows))  # every review is a group
        user = EvidenceViews.excluding(data.user, rows, group, by_fold)
        item = EvidenceViews.excluding(data.item, rows, group, by_fold)
        return cls(policy, fold, rows, user, item)

    def visible_rows(self, fold: int) -> np.ndarray:
        """Evidence rows, of all users and items, that a fold may see: for `NO_GROUP` (test) all."""
        if fold == NO_GROUP or self.policy != "fold":
            return self.evidence_rows
        folds = self.fold[self.evidence_rows]
        return self.evidence_rows[(folds != fold) & (folds != VALIDATION_FOLD)]
