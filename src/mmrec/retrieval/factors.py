"""Factors of items from visits, and of users from what they visited."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

_FACTORS, _PENALTY, _CONFIDENCE = 32, 10.0, 10.0


def fit_item_factors(visits: csr_matrix, seed: int) -> np.ndarray:
    """(m, f) factors of items by weighted alternating least squares (Hu, Koren & Volinsky, 2008)."""
    from implicit.als import AlternatingLeastSquares  # slow to import, and not for serving

    model = AlternatingLeastSquares(
        factors=min(_FACTORS, min(visits.shape)),
        regularization=_PENALTY,
        alpha=_CONFIDENCE,
        iterations=15,
        random_state=seed,
        num_threads=1,
    )
    with threadpool_limits(1, "blas"):  # its threads would wait for those of the model
        model.fit(visits, show_progress=False)
    return np.array(model.item_factors, dtype=np.float32)


def fold_in(visits: csr_matrix, item_factors: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """(b, f) factors of users from their (b, m) visits, as if all items' factors Y were given.

    The step of the alternation: with the rows V of Y that were visited and confidence c,
    x = (Y'Y + (c - 1) V'V + penalty I)^-1 c V'1; `gram` is Y'Y.
    """
    size = item_factors.shape[1]
    weight = gram + _PENALTY * np.eye(size, dtype=np.float32)
    users = np.zeros((visits.shape[0], size), dtype=np.float32)
    for user in np.flatnonzero(np.diff(visits.indptr)):
        visited = item_factors[visits.indices[visits.indptr[user] : visits.indptr[user + 1]]]
        system = weight + (_CONFIDENCE - 1) * visited.T @ visited
        users[user] = np.linalg.solve(system, _CONFIDENCE * visited.sum(0))
    return users
