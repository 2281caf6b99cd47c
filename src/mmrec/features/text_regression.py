"""How texts are read for effects: what a text makes one expect of its rating, and what topics there are.

A lens is learned from sums over texts alone. They are made in one pass with memory for few texts; those of a
fold are the sums of all less the sums of what the fold does not hear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.data import arrays
from mmrec.data.schema import Interactions

__all__ = ["PRIOR_TEXTS", "RatedTexts", "TextRegression", "TextSums"]

PRIOR_TEXTS = 4.0
"""Texts' worth of the mean of all that what is said of an item is drawn to."""
_TONE_PENALTY = 3.0
_TOPICS = 64
_CELLS = 1 << 20
"""Numbers of texts that are in memory at once."""


@dataclass(frozen=True)
class RatedTexts:
    """What effects are made of.

    Attributes:
        data: who rated what; n reviews.
        vectors: (n, d) of the texts.
        length: (n,) characters of the texts.
    """

    data: Interactions
    vectors: np.ndarray
    length: np.ndarray

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Float32 vectors of some rows, some at a time, each with its place among them."""
        size = max(1, _CELLS // self.vectors.shape[1])
        for at in range(0, len(rows), size):
            yield slice(at, at + size), arrays.to_float32(self.vectors[rows[at : at + size]])


@dataclass(frozen=True)
class TextSums:
    """What some texts and their ratings add up to.

    Attributes:
        count, rating_sum: number of texts, and the sum of their ratings.
        vector: (d,) sum of vectors x.
        gram: (d, d) of x x'.
        product: (d,) of x times the rating.
        item_vector, item_count: (items + 1, d) sum of vectors, and (items + 1,) number of texts, by item.
    """

    count: int
    rating_sum: float
    vector: np.ndarray
    gram: np.ndarray
    product: np.ndarray
    item_vector: np.ndarray
    item_count: np.ndarray

    @classmethod
    def from_rows(cls, reviewed: RatedTexts, rows: np.ndarray) -> TextSums:
        """Go through some rows once."""
        data, width = reviewed.data, reviewed.vectors.shape[1]
        size = len(data.items) + 1
        rating = data.rating[rows].astype(np.float64)
        gram, product = np.zeros((width, width)), np.zeros(width)
        items = arrays.allocate((size, width), np.float64)
        items[:] = 0
        for part, texts in reviewed.blocks(rows):
            gram += texts.T @ texts
            product += rating[part] @ texts
            codes, at = np.unique(data.item[rows[part]], return_inverse=True)
            ones, each = np.ones(len(at), dtype=np.float32), np.arange(len(at) + 1)
            items[codes] += csr_matrix((ones, at, each), shape=(len(at), len(codes))).T @ texts
        voices = np.bincount(data.item[rows], minlength=size)
        return cls(len(rows), float(rating.sum()), items.sum(0), gram, product, items, voices)

    def without(self, reviewed: RatedTexts, rows: np.ndarray) -> TextSums:
        """Those of all the other texts."""
        part = TextSums.from_rows(reviewed, rows)
        return TextSums(
            self.count - part.count,
            self.rating_sum - part.rating_sum,
            self.vector - part.vector,
            self.gram - part.gram,
            self.product - part.product,
            np.subtract(self.item_vector, part.item_vector, out=part.item_vector),
            self.item_count - part.item_count,
        )


@dataclass(frozen=True)
class TextRegression:
    """How a text is read, as learned from the reviews that effects were fitted on.

    Attributes:
        mean_rating: of the ratings.
        mean_vector: (d,) mean vector of the texts.
        weights: (d,) weights of what a text makes one expect of its rating, above the mean.
        topic_axes: (d, t) of the topics that tastes are about.
    """

    mean_rating: float
    mean_vector: np.ndarray
    weights: np.ndarray
    topic_axes: np.ndarray

    @classmethod
    def fit(cls, sums: TextSums) -> tuple[TextRegression, np.ndarray]:
        """Learn the tone, a ridge regression of ratings, and the topics from what texts add up to.

        Topics are main components of what is said of each item, shrunk by count; on average of length one.

        Returns:
            The lens; (items + 1, t) topics of every item.
        """
        count = max(sums.count, 1)
        mean, centre = sums.rating_sum / count, sums.vector / count
        gram = (
            sums.gram - sums.count * np.outer(centre, centre) + _TONE_PENALTY * np.eye(len(centre))
        )
        tone = np.linalg.solve(gram, sums.product - sums.count * mean * centre)
        said = np.outer(sums.item_count, -centre)
        said += sums.item_vector
        said /= (sums.item_count + PRIOR_TEXTS)[:, None]
        _, axes = np.linalg.eigh(said.T @ said)
        axes = axes[:, : -_TOPICS - 1 : -1]
        topics = said @ axes
        spoken = sums.item_count > 0
        length = (
            max(np.sqrt(np.square(topics[spoken]).sum(1).mean()), 1e-6) if spoken.any() else 1.0
        )
        return cls(mean, centre, tone, axes / length), topics / length

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) what (n, d) texts make one expect of their ratings, above the mean."""
        tone = self.weights.astype(vectors.dtype)
        return np.asarray(vectors @ tone - self.mean_vector @ self.weights)
