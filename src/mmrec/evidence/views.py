"""Views: rows that hear the same reviews share one, so that whatever is slow is done once per view.

Sums over views are made of stretches of neighbouring reviews, some at a time, in time linear in the number of
reviews and with memory for few of them: a user's view of ten reviews without one is their sum less that one.
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
"""The label of what belongs to no group or fold."""
_CELLS = 1 << 19
"""Values that are summed at once, so that they stay in the cache of a core."""


@dataclass(frozen=True)
class EvidenceViews:
    """The views of one side.

    Attributes:
        view: (n,) int64 view of every row.
        entity: (v,) int64 entity of every view.
        order: (m,) int64 known rows, grouped by entity; under `past` by time within the entity.
        start, stop: (v,) int64 the view's reviews are among `order[start:stop]`.
        group: (m,) int64 group of each row of `order`.
        excluded_group: (v,) int64 the group that does not speak in this view; -1 where all of them do.
        fold: (v,) int64 the fold that the rows of a view are in; -1 for rows of none.
    """

    view: np.ndarray
    entity: np.ndarray
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    group: np.ndarray
    excluded_group: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.entity)

    def members(self, view: int) -> np.ndarray:
        """Row numbers of the reviews that speak in `view`."""
        part = slice(self.start[view], self.stop[view])
        speaks = self.group[part] != self.excluded_group[view]
        return self.order[part][speaks]

    def review_sets(self) -> Iterator[np.ndarray]:
        """`members` of every view in turn."""
        return (self.members(view) for view in range(len(self)))

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum values over every view's reviews, in time linear in the number of reviews.

        Args:
            values: (n, d), one row per review of the table; rows that are not known are not read.

        Returns:
            (v, d) of the type of `values`, at least float32; sums are exact to rounding of float64.

        Raises:
            DataError: the disk has no room for what memory has not.
        """
        out = arrays.allocate(
            (len(self), values.shape[1]), np.promote_types(values.dtype, np.float32)
        )
        for views, columns, total in self._blocks(values):
            out[views, columns] = total
        return out

    def mean(self, values: np.ndarray, count: np.ndarray) -> np.ndarray:
        """(v, d) float16 sums, as of `sum`, over (v,) counts; nothing counts as one."""
        out = arrays.allocate((len(self), values.shape[1]), np.float16)
        for views, columns, total in self._blocks(values):
            out[views, columns] = arrays.to_float16(total / np.maximum(count[views], 1)[:, None])
        return out

    def _blocks(self, values: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Float64 sums of neighbouring views, some at a time: views of one entity hear the same stretch."""
        width = values.shape[1]
        first = np.flatnonzero(np.diff(self.start, prepend=NO_GROUP))
        block = (self.start[first] + first) * width // _CELLS
        cuts = first[np.flatnonzero(np.diff(block, prepend=NO_GROUP))].tolist()
        for views in map(slice, cuts, [*cuts[1:], len(self)]):
            total = _Stretch.of(self, views)
            # One entity may have more reviews than a block; then its columns are taken in turn.
            size = max(1, _CELLS // (len(total.rows) + views.stop - views.start))
            for at in range(0, width, size):
                columns = slice(at, at + size)
                yield (
                    views,
                    columns,
                    total(arrays.to_float32(values[total.rows, columns]).astype(np.float64)),
                )

    @classmethod
    def excluding(
        cls,
        entity: np.ndarray,
        evidence_rows: np.ndarray,
        silent: np.ndarray,
        held_out_fold: int = NO_GROUP,
    ) -> EvidenceViews:
        """Views in which a row hears its entity's known reviews but for one group of them.

        Args:
            entity: (n,) entity of every row.
            evidence_rows: (m,) rows that may speak.
            silent: (n,) label of the group that a row neither belongs to nor hears; -1: hears all.
            held_out_fold: label of a group that nobody hears but rows of label -1.
        """
        order = evidence_rows[
            np.lexsort((silent[evidence_rows] == held_out_fold, entity[evidence_rows]))
        ]
        kept = (
            silent[order] == held_out_fold
            if held_out_fold != NO_GROUP
            else np.zeros(len(order), dtype=bool)
        )
        labels = int(silent.max(initial=0)) + 2
        key = entity * labels + silent + 1
        views, view = np.unique(key, return_inverse=True)
        groups, group = np.unique(key[order], return_inverse=True)
        owner, label = views // labels, views % labels - 1
        start, end = (
            np.searchsorted(entity[order], owner, side=side) for side in ("left", "right")
        )
        held_back = np.concatenate([[0], np.cumsum(kept)])
        stop = np.where(label == NO_GROUP, end, end - (held_back[end] - held_back[start]))
        at = np.minimum(np.searchsorted(groups, views), max(len(groups) - 1, 0))
        speaks = (
            (label != NO_GROUP)
            & (label != held_out_fold)
            & (groups[at] == views if len(groups) else False)
        )
        return cls(view, owner, order, start, stop, group, np.where(speaks, at, NO_GROUP), label)

    @classmethod
    def all_reviews(cls, entity: np.ndarray) -> EvidenceViews:
        """One view per entity, which hears all of its reviews."""
        return cls.excluding(entity, np.arange(len(entity)), np.full(len(entity), NO_GROUP))

    @classmethod
    def from_lists(
        cls, entity: np.ndarray, sets: Sequence[np.ndarray], fold: np.ndarray | None = None
    ) -> EvidenceViews:
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
        nothing = np.full(len(entity), NO_GROUP)
        group = np.zeros(len(order), dtype=np.int64)
        folds = nothing if fold is None else fold
        return cls(each, entity, order, stop - sizes, stop, group, nothing, folds)

    @classmethod
    def earlier_reviews(
        cls, entity: np.ndarray, evidence_rows: np.ndarray, time: np.ndarray
    ) -> EvidenceViews:
        """Views in which a row hears its entity's known reviews of a strictly earlier time.

        Args:
            entity, time: (n,) entity and time of every row; a row without time hears nothing.
            evidence_rows: (m,) rows that may speak.
        """
        order = evidence_rows[np.lexsort((time[evidence_rows], entity[evidence_rows]))]
        ranked = np.unique(time, return_inverse=True)[1]
        moments = len(time) + 1
        key = entity * moments + np.where(time == NO_TIME, 0, ranked)
        keys = entity[order] * moments + ranked[order]
        first = np.searchsorted(entity[order], entity)
        ends, view = np.unique(
            np.stack([entity, first, np.searchsorted(keys, key)]), axis=1, return_inverse=True
        )
        owner, start, stop = ends
        nothing = np.full(len(owner), NO_GROUP)
        return cls(view, owner, order, start, stop, np.arange(len(order)), nothing, nothing)


@dataclass(frozen=True)
class _Stretch:
    """What turns a stretch of reviews into the sums of the views that hear it.

    Attributes:
        rows: (r,) the reviews.
        pieces: (p, r) sums of the pieces that views begin and end with.
        start, stop: (k,) pieces of each view.
        groups: (r, g) the group of each review.
        quiet: (q,) views in which a group is silent.
        silent: (q,) that group.
    """

    rows: np.ndarray
    pieces: csr_matrix
    start: np.ndarray
    stop: np.ndarray
    groups: csr_matrix
    quiet: np.ndarray
    silent: np.ndarray

    @classmethod
    def of(cls, side: EvidenceViews, views: slice) -> _Stretch:
        """What some neighbouring views hear."""
        start, stop, silent = side.start[views], side.stop[views], side.excluded_group[views]
        edges, ends = np.unique(np.concatenate([start, stop]), return_inverse=True)
        part = slice(edges[0], edges[-1])
        rows, group = side.order[part], side.group[part]
        ones, each = np.ones(len(rows)), np.arange(len(rows) + 1)
        lowest, highest = group.min(initial=len(side.group)), group.max(initial=0)
        quiet = np.flatnonzero(silent != NO_GROUP)
        return cls(
            rows,
            csr_matrix((ones, each[:-1], edges - edges[0]), shape=(len(edges) - 1, len(rows))),
            ends[: len(start)],
            ends[len(start) :],
            csr_matrix(
                (ones, group - lowest, each), shape=(len(rows), max(highest - lowest, 0) + 1)
            ),
            quiet,
            silent[quiet] - lowest,
        )

    def __call__(self, part: np.ndarray) -> np.ndarray:
        """(k, d) sums of (r, d) values."""
        running = np.zeros((self.pieces.shape[0] + 1, part.shape[1]))
        np.cumsum(self.pieces @ part, axis=0, out=running[1:])
        total: np.ndarray = running[self.stop] - running[self.start]
        if len(self.quiet):
            total[self.quiet] -= (self.groups.T @ part)[self.silent]
        return total
