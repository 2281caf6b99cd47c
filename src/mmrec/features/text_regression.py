"""What review texts say about ratings and topics: a ridge regression and principal components.

Both are fitted on sums over texts alone. The sums of a fold are those of all texts minus those of
the texts that the fold must not see, so the vectors are read twice, not once per fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.data.files import allocate, to_float32
from mmrec.data.schema import Interactions

__all__ = ["PRIOR_TEXTS", "RatedTexts", "TextRegression", "TextSums"]

PRIOR_TEXTS = 4.0
"""Texts' worth of the overall mean that the mean vector of an item is shrunk with."""
_BLOCK_CELLS = 1 << 20
"""Numbers of text vectors that are in memory at once."""


@dataclass(frozen=True)
class RatedTexts:
    """n rated reviews, their (n, d) text vectors, and the (n,) characters of each text."""

    data: Interactions
    vectors: np.ndarray
    length: np.ndarray

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Float32 vectors of `rows`, a block at a time, each with its place in `rows`."""
        size = max(1, _BLOCK_CELLS // self.vectors.shape[1])
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            yield block, to_float32(self.vectors[rows[block]])


@dataclass(frozen=True)
class TextSums:
    """Sums over texts x and their ratings y.

    Attributes:
        count, rating_sum: number of texts, and the sum of their ratings.
        vector: (d,) sum of x.
        gram: (d, d) sum of x x'.
        product: (d,) sum of x y.
        item_vector, item_count: (items + 1, d) sum of x and (items + 1,) number of texts by item.
    """

    count: int
    rating_sum: float
    vector: np.ndarray
    gram: np.ndarray
    product: np.ndarray
    item_vector: np.ndarray
    item_count: np.ndarray

    @classmethod
    def from_rows(cls, texts: RatedTexts, rows: np.ndarray) -> TextSums:
        """Add up some rows in one pass."""
        item, width = texts.data.item[rows], texts.vectors.shape[1]
        items = len(texts.data.items) + 1
        rating = texts.data.rating[rows].astype(np.float64)
        gram, product = np.zeros((width, width)), np.zeros(width)
        item_vector = allocate((items, width), np.float64)
        item_vector[:] = 0
        for block, x in texts.blocks(rows):  # x: (b, d)
            gram += x.T @ x
            product += rating[block] @ x
            codes, code = np.unique(item[block], return_inverse=True)
            reviews = len(code)
            one_per_review = (np.ones(reviews, dtype=np.float32), code, np.arange(reviews + 1))
            by_item = csr_matrix(one_per_review, shape=(reviews, len(codes))).T
            item_vector[codes] += by_item @ x
        count = np.bincount(item, minlength=items)
        vector, rating_sum = item_vector.sum(0), float(rating.sum())
        return cls(len(rows), rating_sum, vector, gram, product, item_vector, count)

    def without(self, texts: RatedTexts, rows: np.ndarray) -> TextSums:
        """The sums over all texts of these except `rows`."""
        removed = TextSums.from_rows(texts, rows)
        return TextSums(
            self.count - removed.count,
            self.rating_sum - removed.rating_sum,
            self.vector - removed.vector,
            self.gram - removed.gram,
            self.product - removed.product,
            # In place: this is the one large array.
            np.subtract(self.item_vector, removed.item_vector, out=removed.item_vector),
            self.item_count - removed.item_count,
        )


@dataclass(frozen=True)
class TextRegression:
    """A ridge regression of ratings on text vectors, and the topics of items.

    Attributes:
        mean_rating: mean of the ratings.
        mean_vector: (d,) mean of the text vectors.
        weights: (d,) of the regression; its intercept is `mean_rating` at `mean_vector`.
        topic_axes: (d, t) of the topics, scaled so that an item's have length 1 on average.
    """

    mean_rating: float
    mean_vector: np.ndarray
    weights: np.ndarray
    topic_axes: np.ndarray

    @classmethod
    def fit(
        cls, sums: TextSums, penalty: float = 3.0, topics: int = 64
    ) -> tuple[TextRegression, np.ndarray]:
        """Fit both parts.

        The weights w solve the centred normal equations (X'X - n m m' + penalty I) w = X'y - n m
        mean(y), where m is the mean vector. Topics are principal components of the items' mean
        vectors, which are centred and shrunk by their number of texts.

        Returns:
            The regression, with at most `topics` topics; (items + 1, t) topics of every item.
        """
        count = max(sums.count, 1)
        mean_rating, mean_vector = sums.rating_sum / count, sums.vector / count
        # n times the covariances of the texts with each other (d, d), and with the ratings (d,).
        covariance = sums.gram - sums.count * np.outer(mean_vector, mean_vector)
        product = sums.product - sums.count * mean_rating * mean_vector
        ridge = penalty * np.eye(len(mean_vector))
        weights = np.linalg.solve(covariance + ridge, product)
        # (items + 1, d): (sum of x - count m) / (count + PRIOR_TEXTS), in place since it is large.
        item_mean = np.outer(sums.item_count, -mean_vector)
        item_mean += sums.item_vector
        item_mean /= (sums.item_count + PRIOR_TEXTS)[:, None]
        _, axes = np.linalg.eigh(item_mean.T @ item_mean)  # ascending by eigenvalue
        axes = axes[:, : -topics - 1 : -1]  # (d, t), the largest first
        item_topics = item_mean @ axes  # (items + 1, t)
        length = 1.0
        if (has_text := sums.item_count > 0).any():
            squared_length = np.square(item_topics[has_text]).sum(1)
            length = max(np.sqrt(squared_length.mean()), 1e-6)  # root mean square
        return cls(mean_rating, mean_vector, weights, axes / length), item_topics / length

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) predicted ratings of (n, d) texts, minus the mean rating."""
        weights = self.weights.astype(vectors.dtype)
        return np.asarray(vectors @ weights - self.mean_vector @ self.weights)
