"""Peers that make lists from visits alone, for ours to be compared with.

Each is tuned by recall@20 of liked validation visits, on the visits before validation; its lists
for test are made of all evidence.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, diags_array
from threadpoolctl import threadpool_limits

from mmrec.console import track
from mmrec.evaluation.list_metrics import LIST_LENGTH, ListResults, ListTask, list_metrics

_BLOCK_CELLS = 1 << 24  # scores in memory at once
_MAX_PAIRS = 1 << 29  # of visits by one user, added up for each setting in some 10 seconds
_MAX_PAIR_CELLS = 1 << 27  # of pairs of items that somebody visited: some 5 GB
PeerScorer = Callable[[np.ndarray], np.ndarray]
"""(u,) user codes -> (u, items) scores; a new array, which may be changed."""


def popularity(visits: csr_matrix) -> PeerScorer:
    """The number of visitors."""
    visitors = np.asarray(visits.sum(0)).ravel()
    return lambda users: np.tile(visitors, (len(users), 1))


def item_knn(visits: csr_matrix, alpha: float, shrinkage: float) -> PeerScorer:
    """Sum of asymmetric cosines with the items visited (Aiolli, 2013).

    The cosine of items with a and b visitors, c of them common, is c / (a^alpha b^(1 - alpha) +
    shrinkage).
    """
    visitors = np.asarray(visits.sum(0), dtype=np.float64).ravel()
    cosine = _without_diagonal(visits.T @ visits)
    visited = np.repeat(np.arange(len(visitors)), np.diff(cosine.indptr))
    norm = visitors[visited] ** alpha * visitors[cosine.indices] ** (1 - alpha)
    cosine.data /= (norm + shrinkage).astype(np.float32)
    return lambda users: (visits[users] @ cosine).toarray()


def rp3beta(visits: csr_matrix, alpha: float, beta: float) -> PeerScorer:
    """Walks from an item to a visitor to an item, less to popular ones (Paudel et al., 2017).

    The probabilities of both steps are raised to `alpha`; sums are divided by visitors^beta.
    """
    visitors = np.maximum(np.asarray(visits.sum(0)).ravel(), 1)
    history = np.maximum(np.asarray(visits.sum(1)).ravel(), 1)
    to_user = diags_array(visitors**-alpha) @ visits.T
    to_item = diags_array(history**-alpha) @ visits @ diags_array(visitors**-beta)
    walks = _without_diagonal((to_user @ to_item).astype(np.float32))
    return lambda users: (visits[users] @ walks).toarray()


def ease(visits: csr_matrix, penalty: float) -> PeerScorer:
    """Ridge regression of every item on all others (Steck, 2019)."""
    together = (visits.T @ visits).toarray()
    inverse = np.linalg.inv(together + penalty * np.eye(len(together)))
    weights = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return lambda users: visits[users] @ weights


def als(visits: csr_matrix, factors: int, regularization: float, seed: int) -> PeerScorer:
    """Factors of visits as implicit feedback (Hu et al., 2008)."""
    from implicit.als import AlternatingLeastSquares

    settings = {"factors": factors, "regularization": regularization, "alpha": 10}
    with threadpool_limits(1, "blas"):  # the library has threads of its own
        model = AlternatingLeastSquares(**settings, iterations=20, use_gpu=False, random_state=seed)
        model.fit(visits, show_progress=False)
    return lambda users: model.user_factors[users] @ model.item_factors.T


def bpr(visits: csr_matrix, factors: int, iterations: int, seed: int) -> PeerScorer:
    """Factors that rank visited items above others (Rendle et al., 2009)."""
    from implicit.bpr import BayesianPersonalizedRanking

    # One thread, since several change the same factors in an order that differs in every run.
    settings = {"factors": factors, "iterations": iterations, "num_threads": 1}
    model = BayesianPersonalizedRanking(**settings, use_gpu=False, random_state=seed)
    model.fit(visits, show_progress=False)
    return lambda users: model.user_factors[users] @ model.item_factors.T


def _without_diagonal(matrix: csr_matrix) -> csr_matrix:
    matrix = csr_matrix(matrix)
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    return matrix


def top_items(
    scorer: PeerScorer, visits: csr_matrix, users: np.ndarray, n: int = LIST_LENGTH
) -> np.ndarray:
    """(u, n) codes of the best items that each user has not visited, padded with -1."""
    items = visits.shape[1]
    top = np.full((len(users), n), -1)
    size = max(1, _BLOCK_CELLS // items)
    count = min(n, items)
    for start in range(0, len(users), size):
        chunk = users[start : start + size]
        scores = scorer(chunk)
        scores[visits[chunk].nonzero()] = -np.inf
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        best.sort(axis=1)  # of equal scores the lower code is first
        best_scores = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")
        listed = np.where(best_scores > -np.inf, best, -1)
        top[start : start + size, :count] = np.take_along_axis(listed, order, axis=1)
    return top


class ListPeer(NamedTuple):
    """A peer, and the settings that are tried."""

    fit: Callable[..., PeerScorer]
    grid: Mapping[str, Sequence[float]]
    quick_items: float = np.inf  # up to so many items `fit` takes it without being asked
    max_items: float = np.inf
    random: bool = False  # whether it takes a seed
    by_pairs: bool = False  # whether it counts the pairs of items that users have visited

    def is_too_slow(self, visits: csr_matrix) -> bool:
        """Whether it would take too long, or too much memory, on (users, items) visits."""
        pairs = float(np.square(np.diff(visits.indptr), dtype=float).sum())
        cells = min(pairs, float(visits.shape[1]) ** 2)  # at most
        has_too_many = pairs > _MAX_PAIRS or cells > _MAX_PAIR_CELLS
        return visits.shape[1] > self.max_items or (self.by_pairs and has_too_many)


LIST_PEERS = {
    "popularity": ListPeer(popularity, {}),
    "item-kNN": ListPeer(
        item_knn, {"alpha": (0.3, 0.5, 0.7, 0.9), "shrinkage": (0, 5, 20, 80)}, by_pairs=True
    ),
    "RP3beta": ListPeer(
        rp3beta, {"alpha": (0.3, 0.5, 0.7, 1), "beta": (0, 0.2, 0.4, 0.6)}, by_pairs=True
    ),
    # Its square matrix is inverted for each setting.
    "EASE": ListPeer(ease, {"penalty": (20, 50, 150, 500, 1500)}, 3000, 10_000),
    "ALS": ListPeer(als, {"factors": (16, 32, 64), "regularization": (1, 10, 50)}, 0, random=True),
    "BPR": ListPeer(bpr, {"factors": (32, 64), "iterations": (100, 300)}, 0, random=True),
}


def make_peer_lists(
    valid: ListTask, test: ListTask, seed: int, *, slow: bool, max_users: int = 5000
) -> ListResults:
    """Lists of every peer for `test`, tuned on at most `max_users` of `valid`; `slow` ones too."""
    visits, items = test.visits, test.visits.shape[1]
    valid = valid.sample(max_users, np.random.default_rng(seed))
    result = ListResults(test, {}, {})
    peers = {}
    for name, peer in LIST_PEERS.items():
        is_wanted = slow or items <= peer.quick_items
        if is_wanted and peer.is_too_slow(visits):
            size = f"{visits.nnz:,} visits of {items:,} items"
            result.remarks.append(f"{name}: left out, too slow for {size}")
        elif is_wanted:
            peers[name] = peer
    with track("lists of peers", len(peers)) as advance:
        for name, peer in peers.items():
            fit = partial(peer.fit, seed=seed) if peer.random else peer.fit
            try:
                settings = _tune(fit, peer.grid, valid)
            except ImportError as error:
                hint = "`pip install 'mmrec[peers]'` brings its library"
                result.remarks.append(f"{name}: left out ({error}); {hint}")
            else:
                scorer = fit(test.visits, **settings)
                result.top[name] = top_items(scorer, test.visits, test.users)
                result.settings[name] = settings
            advance(1)
    return result


def _tune(
    fit: Callable[..., PeerScorer], grid: Mapping[str, Sequence[float]], valid: ListTask
) -> dict[str, float]:
    """The settings of the grid with the highest recall, the first of equal ones."""
    candidates, recalls = [], list[float]()
    for values in product(*grid.values()):
        candidates.append(dict(zip(grid, values, strict=True)))
        scorer = fit(valid.visits, **candidates[-1])
        recalls.append(list_metrics(top_items(scorer, valid.visits, valid.users), valid).recall)
    return candidates[int(np.argmax(recalls))]
