"""The items that a linear part puts first, by an index of nearest neighbours."""

from __future__ import annotations

import importlib.util

import numpy as np

__all__ = ["Index", "can_index"]

_CELLS_PER_ROOT, _TRAINED_PER_CELL = 4, 40
_PROBED, _LEAST = 1 / 16, 32


def can_index() -> bool:
    """Whether the library of the index is installed."""
    return importlib.util.find_spec("faiss") is not None


class Index:
    """Finds rows with a large inner product; some are missed (faiss, inverted file).

    A product is the nearer the larger it is once every row is brought to the same length by one more
    coordinate (Bachrach et al., 2014); cells by distance lose far fewer rows than cells by product.

    Args:
        vectors: (m, d) float32.
        seed: of the choice of rows that cells are learned from.
    """

    def __init__(self, vectors: np.ndarray, seed: int = 0) -> None:
        import faiss

        size = np.square(vectors).sum(1)
        self._length = float(size.max()) ** 0.5
        rows = np.column_stack([vectors, np.sqrt(size.max() - size)]).astype(np.float32)
        cells = max(1, min(int(_CELLS_PER_ROOT * len(rows) ** 0.5), len(rows) // _TRAINED_PER_CELL))
        width = rows.shape[1]
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, cells, faiss.METRIC_L2)
        self._index.cp.seed = seed + 1
        rng = np.random.default_rng(seed)
        self._index.train(rows[rng.permutation(len(rows))[: _TRAINED_PER_CELL * cells]])
        self._index.add(rows)
        self._index.nprobe = max(_LEAST, int(cells * _PROBED))

    def best(self, query: np.ndarray, most: int) -> np.ndarray:
        """Up to `most` rows, by their (d,) product with a query."""
        # As long as the rows, so that the nearest cells are those in its direction.
        query = query * (self._length / max(float(np.linalg.norm(query)), 1e-9))
        _, found = self._index.search(np.append(query, 0.0).astype(np.float32)[None], most)
        return found[0][found[0] >= 0]
