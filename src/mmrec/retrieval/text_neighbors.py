"""Which users and items are spoken of in words near to others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mmrec.encoder.text_encoder import Encoder
from mmrec.features.tables import EntityFeatures

__all__ = ["ItemLabels", "TextSpace", "diversify", "query_similarity"]

_ROWS_AT_ONCE = 8192


class TextSpace:
    """Directions of what is said of each of m users or items, less what is said of all.

    What is said of all tells nobody apart; it is measured once, and a live review moves its own row alone.

    Args:
        side: their features.
        size: m.
        block: the vectors to take, where there are such; else the gist, the summary or the mean review.
    """

    def __init__(self, side: EntityFeatures, size: int, block: str = "gist") -> None:
        names = (block, "gist", "summary", "reviews")
        self._name = next(name for name in names if name in side.vectors)
        self._vectors = side.vectors[self._name]
        self._length = np.zeros(size, dtype=np.float32)
        total = sum(self._rows(part).sum(0, dtype=np.float64) for part in _parts(size))
        self._mean = np.asarray(total / max(size, 1), dtype=np.float32)
        for part in _parts(size):
            self._length[part] = self._lengths(self._rows(part))

    def _lengths(self, rows: np.ndarray) -> np.ndarray:
        """(n,) of the directions; 0 where nothing was said."""
        return np.linalg.norm(rows - self._mean, axis=1) * rows.any(1)

    def _rows(self, at: slice | np.ndarray) -> np.ndarray:
        return self._vectors[at].astype(np.float32)

    def update(self, side: EntityFeatures, row: int) -> None:
        """Take in a row that has changed, or one more behind the last."""
        self._vectors = side.vectors[self._name]
        size = len(self._length)
        new = np.arange(size, row + 1) if row >= size else np.array([row])
        self._length = np.append(self._length, np.zeros(max(row + 1 - size, 0), dtype=np.float32))
        self._length[new] = self._lengths(self._rows(new))

    def directions(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) directions of some, of length one; zero where nothing was said."""
        length = self._length[rows, None]
        return (self._rows(rows) - self._mean) * (length > 0) / np.maximum(length, 1e-6)

    def cosines(self, direction: np.ndarray) -> np.ndarray:
        """(m,) products of all directions with a (d,) one."""
        size = len(self._length)
        # float16 as it lies there: a copy in float32 would take five times as long.
        product = torch.from_numpy(self._vectors)[:size] @ torch.from_numpy(
            direction.astype(np.float16)
        )
        less = product.numpy().astype(np.float32) - self._mean @ direction
        return np.asarray(less * (self._length > 0) / np.maximum(self._length, 1e-6))

    def similarities(self, vectors: np.ndarray) -> np.ndarray:
        """(m, w) how near all are to each of (w, d) words."""
        return np.stack(
            [self.cosines(one - self._mean) for one in vectors.astype(np.float32)], axis=1
        )

    def neighbors(self, row: int, limit: int) -> list[tuple[int, float]]:
        """Rows nearest to one, nearest first, and the cosine; none where nothing was said of it."""
        if not self._length[row]:
            return []
        near = self.cosines(self.directions(np.array([row]))[0])
        near[row] = -np.inf
        best = np.argsort(-near, kind="stable")[: min(limit, len(near) - 1)]
        return [
            (int(at), min(float(near[at]), 1.0)) for at in best
        ]  # float16 may pass it by a little


class ItemLabels:
    """Labels of m items, as codes.

    Args:
        names: (l) labels in words.
        codes: (m, k) of each item's; l where it has fewer.
    """

    def __init__(self, names: Sequence[str], codes: np.ndarray) -> None:
        self.names, self.codes = names, codes

    def similarities(self, vectors: np.ndarray, encoder: Encoder) -> np.ndarray:
        """(m, w) how near the nearest of an item's labels is to each of (w, d) words."""
        close = encoder.encode(self.names).astype(np.float32) @ vectors.T
        padded = np.vstack([close, np.full((1, len(vectors)), -np.inf, dtype=np.float32)])
        near = padded[self.codes].max(1)
        return np.where(np.isfinite(near), near, close.min(0))


def query_similarity(
    queries: Sequence[str], space: TextSpace, labels: ItemLabels, encoder: Encoder
) -> np.ndarray:
    """How near each of m items is to all wishes together.

    Each wish is compared with what is liked about the item, and with the nearest of the item's labels; both
    count alike, in deviations from the mean over all items.

    Args:
        queries: (w) wishes.
        space: of the items.
        labels: each item's categories and price.
        encoder: puts words into the space of `space`.

    Returns:
        (m,) higher is nearer.
    """
    vectors = encoder.encode(queries).astype(np.float32)
    scores = [space.similarities(vectors)]
    if len(labels.names):
        scores.append(labels.similarities(vectors, encoder))
    return sum((score - score.mean(0)) / np.maximum(score.std(0), 1e-6) for score in scores).sum(
        axis=1
    )


def diversify(
    probability: np.ndarray, space: TextSpace, items: np.ndarray, limit: int, diversity: float
) -> np.ndarray:
    """Places in `items` of some, each chosen by its probability and by being unlike those before.

    Maximal marginal relevance (Carbonell & Goldstein, 1998).

    Args:
        probability: (m,) of liking; highest first.
        space: of all items.
        items: (m,) their codes.
        limit: number of items to choose.
        diversity: 0, by probability alone, to 1, by being unlike alone.
    """
    if not diversity or not len(items):
        return np.arange(len(items))[:limit]
    vectors = space.directions(items)
    gain, nearest = (1 - diversity) * probability, np.zeros(len(items))
    chosen: list[int] = []
    while len(chosen) < min(limit, len(items)):
        value = gain - diversity * nearest
        value[chosen] = -np.inf
        chosen.append(int(np.argmax(value)))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    return np.array(chosen)


def _parts(size: int) -> list[slice]:
    return [slice(at, min(at + _ROWS_AT_ONCE, size)) for at in range(0, size, _ROWS_AT_ONCE)]
