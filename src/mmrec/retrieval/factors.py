"""Factors of items: the directions in which visits vary most."""

import numpy as np
from scipy.sparse import csr_matrix, diags_array

RANKS = (56, 128)
"""Numbers of factors by which items are scored: few find what is popular among alike users, many
what is special."""
_ROUNDS = 8
_USER_POWER, _ITEM_POWER = 0.3, 0.5  # by which the frequent count less


def fit_item_factors(visits: csr_matrix, seed: int) -> np.ndarray:
    """(m, f) right singular vectors of (n, m) visits, those of the highest singular values.

    A visit of a user with n visits to an item with m of them counts n^-.3 m^-.5.
    """
    from sklearn.utils.extmath import randomized_svd  # slow to import

    # With as many factors as items, only visited items would have scores.
    size = max(1, min(RANKS[-1], min(visits.shape) // 2))
    if not visits.nnz:
        return np.zeros((visits.shape[1], size), dtype=np.float32)
    user_count = np.maximum(np.asarray(visits.sum(1)).ravel(), 1)
    item_count = np.maximum(np.asarray(visits.sum(0)).ravel(), 1)
    scaled = diags_array(user_count**-_USER_POWER) @ visits
    scaled = scaled @ diags_array(item_count**-_ITEM_POWER)
    vectors = randomized_svd(scaled, size, n_iter=_ROUNDS, random_state=seed)[2]
    return np.ascontiguousarray(vectors.T, dtype=np.float32)


def factor_scores(visits: csr_matrix, item_factors: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(ranks, b, m) scores of items for b users with (b, m) visits, of items with (m,) visits each.

    With the first factors V and the diagonal matrix D of visits, X D^-.5 V V' D^.5 for visits X: an
    ideal low-pass filter (GF-CF: Shen et al., "How powerful is graph convolution for
    recommendation?", 2021). A user needs no factors from training, so a new visit counts at once.
    """
    scale = np.maximum(count, 1) ** _ITEM_POWER
    users = (visits @ diags_array(1 / scale)) @ item_factors  # (b, f)
    filtered = [users[:, :rank] @ item_factors[:, :rank].T for rank in RANKS]
    return np.stack(filtered) * scale
