"""Users and items that are described in similar words."""

import numpy as np
import torch

from mmrec.features.tables import EntityFeatures


class TextSpace:
    """Directions of the texts about m users or items, in deviations from the mean text.

    The (d,) `mean` is computed once; a live review moves only its own row. Texts are vectors of
    the `block`, or else of the gist, the summary or the mean review.
    """

    def __init__(self, features: EntityFeatures, size: int, block: str = "gist") -> None:
        preferred = (block, "gist", "summary", "reviews")
        self._name = next(name for name in preferred if name in features.vectors)
        # (views, d) float16, zero where there is no text; turned to float32 in chunks only.
        self._vectors = features.vectors[self._name]
        total = self._vectors[:size].sum(0, dtype=np.float64)
        self.mean = (total / max(size, 1)).astype(np.float32)
        # (size,) 1 / length of each vector; 0 where there is no text.
        self._scale = np.zeros(size, dtype=np.float32)
        for rows in np.array_split(np.arange(size), 1 + size // 8192):
            self._measure(rows)

    def _measure(self, rows: np.ndarray) -> None:
        vectors = self._vectors[rows].astype(np.float32)
        length = np.linalg.norm(vectors - self.mean, axis=1)
        has_text = (length > 0) & vectors.any(1)
        self._scale[rows] = has_text / np.maximum(length, 1e-6)

    def update(self, features: EntityFeatures, rows: np.ndarray) -> None:
        """Use changed vectors of (n,) rows, which may stand behind the last."""
        self._vectors = features.vectors[self._name]
        size, last = len(self._scale), int(rows.max(initial=-1))
        self._scale = np.pad(self._scale, (0, max(last + 1 - size, 0)))
        self._measure(np.union1d(rows, np.arange(size, last + 1)))

    def directions(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) unit vectors of some rows; zero where there is no text."""
        return (self._vectors[rows].astype(np.float32) - self.mean) * self._scale[rows, None]

    def similarity(self, deviation: np.ndarray) -> np.ndarray:
        """(m,) products of all directions with a (d,) deviation from the mean text."""
        # In float16 as stored: a copy in float32 would take five times as long.
        vectors = torch.from_numpy(self._vectors)[: len(self._scale)]
        product = vectors @ torch.from_numpy(deviation.astype(np.float16))
        return (product.numpy().astype(np.float32) - self.mean @ deviation) * self._scale

    def neighbors(self, row: int, limit: int) -> list[tuple[int, float]]:
        """Rows nearest to a row, nearest first, and their cosines; none where it has no text."""
        if not self._scale[row]:
            return []
        cosines = self.similarity(self.directions(np.array([row]))[0])
        cosines[row] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[: min(limit, len(cosines) - 1)]
        # Rounding to float16 may put a cosine slightly above one.
        highest = np.minimum(cosines[nearest], 1.0)
        return list(zip(nearest.tolist(), highest.tolist(), strict=True))


def diversify(
    score: np.ndarray, directions: np.ndarray, limit: int, diversity: float
) -> np.ndarray:
    """Positions of up to `limit` items, each chosen by its score and by being unlike others.

    Maximal marginal relevance (Carbonell & Goldstein, 1998) of items with (n,) scores, highest first,
    which are scaled to [0, 1], and (n, d) directions: at a `diversity` of 0 the score alone counts,
    at 1 only the difference from the items chosen before.
    """
    if not len(score):
        return np.zeros(0, dtype=np.int64)
    scaled = (score - score.min()) / max(float(np.ptp(score)), 1e-9)
    relevance, similarity = (1 - diversity) * scaled, np.zeros(len(score))
    chosen: list[int] = []
    while len(chosen) < min(limit, len(score)):
        value = relevance - diversity * similarity
        value[chosen] = -np.inf
        chosen.append(int(np.argmax(value)))
        similarity = np.maximum(similarity, directions @ directions[chosen[-1]])
    return np.array(chosen, dtype=np.int64)
