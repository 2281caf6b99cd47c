"""Views: rows that see the same reviews share a view, so slow work is done once per view.

Under every policy, a view sees a stretch of its entity's evidence reviews (an entity is a user or
an item), taken in a fixed order, without the reviews of one group:

- `fold`: the stretch leaves out the held-out fold, and the group is the rows' own fold;
- `leave_one_out`: the stretch is all reviews, and the group is the row itself;
- `past`: the stretch is what was written earlier, and no group is left out.

So the sum over a view is the sum over its stretch minus the sum over its excluded group. A review
is excluded from one view at most, so the sums of all views take time linear in the number of
reviews, even where one item has most of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.data import arrays
from mmrec.data.schema import NO_TIME

__all__ = ["NO_GROUP", "EvidenceViews"]

NO_GROUP = -1
"""The label of rows that belong to no fold or group, and of "no view"."""
_BLOCK_CELLS = 1 << 19
"""Numbers that are summed at once, so that they stay in a core's cache."""


@dataclass(frozen=True)
class EvidenceViews:
    """The views on the reviews of users, or of items.

    Attributes:
        view: (n,) int64 view of every row.
        entity: (v,) int64 entity of every view, ascending but for `from_lists`.
        fold: (v,) int64 the fold (or group) of the rows that use a view; `NO_GROUP` for rows of
            none.
        order: (m,) int64 evidence rows, the rows of one entity next to each other.
        start, stop: (v,) int64 each view's stretch, `order[start:stop]`; views of an entity share
            `start`.
        excluded_from: (m,) int64 the view that must not see this row of `order`, or `NO_GROUP`.
    """

    view: np.ndarray
    entity: np.ndarray
    fold: np.ndarray
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    excluded_from: np.ndarray

    def __len__(self) -> int:
        return len(self.entity)

    def members(self, view: int) -> np.ndarray:
        """Row numbers of the reviews that `view` sees."""
        stretch = slice(self.start[view], self.stop[view])
        return self.order[stretch][self.excluded_from[stretch] != view]

    def review_sets(self) -> Iterator[np.ndarray]:
        """`members` of every view in turn."""
        return (self.members(view) for view in range(len(self)))

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum values over the reviews of every view.

        Args:
            values: (n, d), one row per review of the table; only evidence rows are read.

        Returns:
            (v, d) of the type of `values`, at least float32; added up in float64.

        Raises:
            DataError: the array is larger than memory allows, and the disk has no room for it.
        """
        out = arrays.allocate(
            (len(self), values.shape[1]), np.promote_types(values.dtype, np.float32)
        )
        for views, columns, total in self._block_sums(values):
            out[views, columns] = total
        return out

    def mean(self, values: np.ndarray, count: np.ndarray) -> np.ndarray:
        """(v, d) float16 means: the sums of (n, d) values over (v,) counts; a count of 0 gives
        zeros."""
        out = arrays.allocate((len(self), values.shape[1]), np.float16)
        for views, columns, total in self._block_sums(values):
            out[views, columns] = arrays.to_float16(total / np.maximum(count[views], 1)[:, None])
        return out

    def _block_sums(self, values: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Float64 sums of (n, d) values for some views and columns at a time."""
        width = values.shape[1]
        for views in self._blocks(width):
            start, stop = self.start[views], self.stop[views]
            low, high = start.min(), stop.max()
            rows = self.order[low:high]  # (r,)
            # Pieces: the reviews between two neighbouring ends of stretches; a stretch is a run of pieces.
            ends, piece = np.unique(np.concatenate([start, stop]), return_inverse=True)
            first, last = np.split(piece, 2)
            in_piece = (np.ones(len(rows)), np.arange(len(rows)), ends - low)
            pieces = csr_matrix(in_piece, shape=(len(ends) - 1, len(rows)))
            excluded = self._excluded(views, low, high)
            # An entity may have more reviews than fit into a block: then a few columns at a time.
            step = max(1, _BLOCK_CELLS // (len(rows) + len(start)))
            for column in range(0, width, step):
                columns = slice(column, column + step)
                block = arrays.to_float32(values[rows, columns]).astype(np.float64)  # (r, step)
                before = np.zeros((len(ends), block.shape[1]))  # sums of all pieces before each end
                np.cumsum(pieces @ block, axis=0, out=before[1:])
                yield views, columns, before[last] - before[first] - excluded @ block

    def _blocks(self, width: int) -> Iterator[slice]:
        """Stretches of neighbouring views that see few reviews; all views of an entity are in one
        block."""
        first = np.flatnonzero(np.diff(self.start, prepend=-1))  # first view of every entity
        block = (self.start[first] + first) * width // _BLOCK_CELLS
        begin = first[np.flatnonzero(np.diff(block, prepend=-1))]
        return map(slice, begin, np.append(begin[1:], len(self)))

    def _excluded(self, views: slice, low: int, high: int) -> csr_matrix:
        """(k, r) 0/1: which of the reviews `order[low:high]` each of k views must not see."""
        excluded_from = self.excluded_from[low:high]
        review = np.flatnonzero(excluded_from != NO_GROUP)
        cells = (excluded_from[review] - views.start, review)
        return csr_matrix(
            (np.ones(len(review)), cells), shape=(views.stop - views.start, high - low)
        )

    @classmethod
    def excluding(
        cls,
        entity: np.ndarray,
        evidence_rows: np.ndarray,
        group: np.ndarray,
        held_out_fold: int = NO_GROUP,
    ) -> EvidenceViews:
        """Views in which a row sees its entity's evidence reviews except those of its own group.

        Args:
            entity: (n,) entity of every row.
            evidence_rows: (m,) rows whose reviews may be seen at all.
            group: (n,) group of every row; rows of `NO_GROUP` see all, and are seen by all.
            held_out_fold: a group that only rows of `NO_GROUP` see.
        """
        held_out = (group[evidence_rows] == held_out_fold) & (held_out_fold != NO_GROUP)
        # By entity; within an entity the held-out reviews come last, so that a stretch can end before them.
        by_entity = np.lexsort((held_out, entity[evidence_rows]))
        order, held_out = evidence_rows[by_entity], held_out[by_entity]
        # One view for each pair (entity, group) of some row; the pairs are coded as single numbers.
        labels = int(group.max(initial=NO_GROUP)) + 2
        pairs, view = np.unique(entity * labels + (group + 1), return_inverse=True)
        view_entity, view_group = pairs // labels, pairs % labels - 1
        start = np.searchsorted(entity[order], view_entity, side="left")
        stop = np.searchsorted(entity[order], view_entity, side="right")
        held_out_before = np.append(0, np.cumsum(held_out))  # (m + 1,)
        held_out_count = held_out_before[stop] - held_out_before[start]
        stop = np.where(view_group == NO_GROUP, stop, stop - held_out_count)
        # A review is excluded from the view that its own row uses: the rows of this view are its group.
        seen_by_all = held_out | (group[order] == NO_GROUP)
        excluded_from = np.where(seen_by_all, NO_GROUP, view[order])
        return cls(view, view_entity, view_group, order, start, stop, excluded_from)

    @classmethod
    def all_reviews(
        cls, entity: np.ndarray, evidence_rows: np.ndarray | None = None
    ) -> EvidenceViews:
        """One view per entity, in order of code, that sees all of its evidence reviews (all rows
        by default)."""
        rows = np.arange(len(entity)) if evidence_rows is None else evidence_rows
        return cls.excluding(entity, rows, np.full(len(entity), NO_GROUP))

    @classmethod
    def from_lists(
        cls, entity: np.ndarray, lists: Sequence[np.ndarray], fold: np.ndarray | None = None
    ) -> EvidenceViews:
        """Views that see exactly the reviews listed for them.

        Args:
            entity: (v,) entity of every view.
            lists: (v) row numbers.
            fold: (v,) fold of every view; by default `NO_GROUP` everywhere.
        """
        sizes = np.array([len(rows) for rows in lists], dtype=np.int64)
        stop = np.cumsum(sizes)
        order = np.concatenate([*lists, np.zeros(0, dtype=np.int64)])
        fold = np.full(len(entity), NO_GROUP) if fold is None else fold
        no_exclusion = np.full(len(order), NO_GROUP)
        return cls(np.arange(len(entity)), entity, fold, order, stop - sizes, stop, no_exclusion)

    @classmethod
    def earlier_reviews(
        cls, entity: np.ndarray, evidence_rows: np.ndarray, time: np.ndarray
    ) -> EvidenceViews:
        """Views in which a row sees its entity's evidence reviews of a strictly earlier time.

        Args:
            entity, time: (n,) entity and time of every row; a row without a time sees nothing.
            evidence_rows: (m,) rows whose reviews may be seen.
        """
        order = evidence_rows[np.lexsort((time[evidence_rows], entity[evidence_rows]))]
        # (entity, rank of the time) coded as one number, which sorts as the pair does. `NO_TIME` has the
        # highest rank, so such reviews are never earlier; such rows ask for what was before rank 0.
        rank = np.unique(time, return_inverse=True)[1]
        ranks = len(time) + 1
        asked_rank = np.where(time == NO_TIME, 0, rank)
        row_stop = np.searchsorted(entity[order] * ranks + rank[order], entity * ranks + asked_rank)
        # One view for each pair (entity, end of the stretch).
        ends = len(order) + 1
        pairs, view = np.unique(entity * ends + row_stop, return_inverse=True)
        view_entity, stop = pairs // ends, pairs % ends
        start = np.searchsorted(entity[order], view_entity)
        no_fold, no_exclusion = np.full(len(pairs), NO_GROUP), np.full(len(order), NO_GROUP)
        return cls(view, view_entity, no_fold, order, start, stop, no_exclusion)
