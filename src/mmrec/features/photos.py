"""Vectors of photos, and their means over the evidence of users and items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.data import arrays
from mmrec.evidence.views import EvidenceViews

__all__ = ["PhotoVectors"]


@dataclass(frozen=True)
class PhotoVectors:
    """Vectors of what k photos show, and which reviews and items show them.

    Attributes:
        vectors: (k, d) float16.
        review_counts: (n, k) how often each review shows each photo.
        item_counts: (m, k) how often each item does so itself.
    """

    vectors: np.ndarray
    review_counts: csr_matrix
    item_counts: csr_matrix

    @classmethod
    def build(
        cls,
        reviews: Sequence[Sequence[str]],
        items: Sequence[Sequence[str]],
        vectors: Mapping[str, np.ndarray],
        width: int,
    ) -> PhotoVectors:
        """Build from the photos' names; names without a vector are left out.

        Args:
            reviews: (n) names of each review's photos.
            items: (m) names of each item's own photos.
            vectors: (d,) of each name.
            width: d.
        """
        columns = {name: column for column, name in enumerate(vectors)}
        stacked = np.zeros((0, width), dtype=np.float16)
        if vectors:
            stacked = np.stack(list(vectors.values()))
        return cls(stacked, _count_photos(reviews, columns), _count_photos(items, columns))

    def view_means(
        self, views: EvidenceViews, columns_at_once: int = 128
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the photos of each view of items: those of its reviews and the item's own.

        Args:
            views: v views of items.
            columns_at_once: columns that are in memory as a dense sum over reviews.

        Returns:
            (v, d) float16 means of vectors; (v,) numbers of photos.
        """
        photos, width = self.vectors.shape
        counts = self._sum(views, np.ones((photos, 1), dtype=np.float32))[:, 0]
        means = arrays.allocate((len(views), width), np.float16)
        for start in range(0, width, columns_at_once):
            columns = slice(start, start + columns_at_once)
            sums = self._sum(views, self.vectors[:, columns].astype(np.float32))
            means[:, columns] = sums / np.maximum(counts, 1)[:, None]
        return means, counts

    def _sum(self, views: EvidenceViews, values: np.ndarray) -> np.ndarray:
        """Sums (v, c) of values (k, c) over the photos of each view."""
        sums: np.ndarray = (self.item_counts @ values)[views.entity]
        if self.review_counts.nnz:
            sums = sums + views.sum(self.review_counts @ values)
        return sums


def _count_photos(groups: Sequence[Sequence[str]], columns: Mapping[str, int]) -> csr_matrix:
    """How often each group (row) names each photo (column)."""
    cells = [
        (row, columns[name])
        for row, group in enumerate(groups)
        for name in group
        if name in columns
    ]
    indices = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones(indices.shape[1], dtype=np.float32)
    # Entries at the same place are added up.
    return csr_matrix((ones, indices), shape=(len(groups), len(columns)))
