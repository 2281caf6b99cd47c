"""Users and items that are described in similar words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmrec.encoder.text_encoder import Encoder
from mmrec.features.tables import EntityFeatures

__all__ = ["ItemLabels", "TextSpace", "diversify", "query_similarity"]


class TextSpace:
    """Directions of the texts about m users or items, in deviations from the mean text.

    What all texts have in common tells nothing apart. The mean is computed once; a live review moves
    its own row alone.

    Args:
        features: of all users, or of all items.
        size: m.
        block: vectors to use; the gist, summary or mean review where there are no such vectors.
    """

    def __init__(self, features: EntityFeatures, size: int, block: str = "gist") -> None:
        preferred = (block, "gist", "summary", "reviews")
        self._name = next(name for name in preferred if name in features.vectors)
        # (views, d) float16, zero where there is no text; turned to float32 in chunks only.
        self._vectors = features.vectors[self._name]
        chunks = [slice(start, min(start + 8192, size)) for start in range(0, size, 8192)]
        total = sum(self._rows(chunk).sum(0, dtype=np.float64) for chunk in chunks)
        self._mean = np.asarray(total / max(size, 1), dtype=np.float32)
        lengths = map(self._lengths, chunks)
        self._length = np.concatenate([np.zeros(0, dtype=np.float32), *lengths])

    def _rows(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._vectors[rows].astype(np.float32)

    def _lengths(self, rows: slice | np.ndarray) -> np.ndarray:
        """(n,) lengths of the deviations from the mean; 0 where there is no text."""
        vectors = self._rows(rows)
        return np.linalg.norm(vectors - self._mean, axis=1) * vectors.any(1)

    def update(self, features: EntityFeatures, row: int) -> None:
        """Use changed vectors of a row, or of one or more behind the last."""
        self._vectors = features.vectors[self._name]
        changed = np.arange(min(row, len(self._length)), row + 1)
        if row >= len(self._length):
            self._length = np.append(self._length, np.zeros(len(changed), dtype=np.float32))
        self._length[changed] = self._lengths(changed)

    def directions(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) unit vectors of some rows; zero where there is no text."""
        length = self._length[rows, None]
        return (self._rows(rows) - self._mean) * (length > 0) / np.maximum(length, 1e-6)

    def cosines(self, direction: np.ndarray) -> np.ndarray:
        """(m,) products of all directions with a (d,) vector."""
        size = len(self._length)
        # In float16 as stored: a copy in float32 would take five times as long.
        stored_direction = torch.from_numpy(direction.astype(np.float16))
        product = torch.from_numpy(self._vectors)[:size] @ stored_direction
        deviation = product.numpy().astype(np.float32) - self._mean @ direction
        return np.asarray(deviation * (self._length > 0) / np.maximum(self._length, 1e-6))

    def similarities(self, vectors: np.ndarray) -> np.ndarray:
        """(m, q) similarity of all rows to (q, d) encoded texts."""
        deviations = vectors.astype(np.float32) - self._mean
        return np.stack([self.cosines(deviation) for deviation in deviations], axis=1)

    def neighbors(self, row: int, limit: int) -> list[tuple[int, float]]:
        """Rows nearest to a row, nearest first, and their cosines; none where it has no text."""
        if not self._length[row]:
            return []
        cosines = self.cosines(self.directions(np.array([row]))[0])
        cosines[row] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[: min(limit, len(cosines) - 1)]
        # Rounding to float16 may put a cosine slightly above one.
        return list(zip(nearest.tolist(), np.minimum(cosines[nearest], 1.0).tolist(), strict=True))


@dataclass(frozen=True)
class ItemLabels:
    """(l) labels in words, and the (m, k) codes of the labels of m items, padded with l."""

    names: Sequence[str]
    codes: np.ndarray

    def similarities(self, vectors: np.ndarray, encoder: Encoder) -> np.ndarray:
        """(m, q) similarity of the nearest label of each item to (q, d) encoded texts."""
        cosines = encoder.encode(self.names).astype(np.float32) @ vectors.T  # (l, q)
        no_label = np.full((1, len(vectors)), -np.inf, dtype=np.float32)
        nearest = np.vstack([cosines, no_label])[self.codes].max(1)
        return np.where(np.isfinite(nearest), nearest, cosines.min(0))


def query_similarity(
    phrases: Sequence[str], space: TextSpace, labels: ItemLabels, encoder: Encoder
) -> np.ndarray:
    """Similarity of each of m items to all phrases of a query together.

    Each phrase is compared with what is liked about the item, and with the nearest of the item's labels.
    Both count equally, in standard deviations from the mean over all items.

    Returns:
        (m,) higher is more similar.
    """
    vectors = encoder.encode(phrases).astype(np.float32)
    scores = [space.similarities(vectors)]
    if len(labels.names):
        scores.append(labels.similarities(vectors, encoder))
    standardised = [(score - score.mean(0)) / np.maximum(score.std(0), 1e-6) for score in scores]
    return sum(standardised).sum(axis=1)


def diversify(
    probability: np.ndarray, space: TextSpace, items: np.ndarray, limit: int, diversity: float
) -> np.ndarray:
    """Positions in `items`, each chosen by its probability and by differing from those before.

    Maximal marginal relevance (Carbonell & Goldstein, 1998).

    Args:
        probability: (m,) of a like, highest first.
        space: of all items.
        items: (m,) codes.
        limit: number of items to choose.
        diversity: from 0, by probability alone, to 1, by difference alone.
    """
    if not diversity or not len(items):
        return np.arange(len(items))[:limit]
    vectors = space.directions(items)
    relevance, similarity = (1 - diversity) * probability, np.zeros(len(items))
    chosen: list[int] = []
    while len(chosen) < min(limit, len(items)):
        value = relevance - diversity * similarity
        value[chosen] = -np.inf
        chosen.append(int(np.argmax(value)))
        similarity = np.maximum(similarity, vectors @ vectors[chosen[-1]])
    return np.array(chosen)
