"""How far up in a user's list the items stand that the user turns out to like.

Equal scores stand in random order. The same state of `rng` gives every model the same users and lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

__all__ = ["ListMetrics", "ListTask", "full_lists", "sampled_lists"]

PairScorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n,) user codes and (n,) item codes -> (n,) scores, the higher the better."""

_List = tuple[
    int, np.ndarray, int
]  # user, candidates with the liked ones first, number of liked ones
_CHUNK = 1 << 18  # candidates that are scored at a time
_DISCOUNT = 1 / np.log2(np.arange(2, 12))  # of the first ten ranks


@dataclass(frozen=True)
class ListTask:
    """Codes (user, item) of (n, 2) known and (m, 2) test rows, (m,) bool liked test rows, number of items.

    A liked item is not looked for where its user has reviewed it in a known row too, nor where the user has
    reviewed all items, so that there is none to rank it among.
    """

    evidence: np.ndarray
    test: np.ndarray
    liked: np.ndarray
    item_count: int

    def by_user(self, pairs: np.ndarray, without: np.ndarray) -> dict[int, np.ndarray]:
        """Items of every user in (n, 2) `pairs`, each once, save those in the pairs `without`."""
        place = np.array([self.item_count, 1])
        user, item = np.divmod(np.setdiff1d(pairs @ place, without @ place), self.item_count)
        users, starts = np.unique(user, return_index=True)
        return dict(zip(users.tolist(), np.split(item, starts[1:]), strict=False))


@dataclass(frozen=True)
class ListMetrics:
    """NDCG@10 with binary relevance, share of lists with a liked item in the first ten, and 1 / rank of the
    first liked item: means over users (nan without any), and of `each` `user`, (users, 3) and (users,)."""

    ndcg: float
    hit_rate: float
    mrr: float
    users: int
    user_codes: np.ndarray
    per_user: np.ndarray


def sampled_lists(
    score: PairScorer, task: ListTask, rng: np.random.Generator, negatives: int = 99
) -> ListMetrics:
    """Rank each liked test item among random items that its user never reviewed (He et al., 2017, NCF).

    Models need not come in the order that full lists bring them in (Krichene & Rendle, 2020).
    """

    def lists() -> Iterator[_List]:
        reviewed = task.by_user(np.concatenate([task.evidence, task.test]), task.evidence[:0])
        for user, liked in task.by_user(task.test[task.liked], task.evidence).items():
            others = np.delete(np.arange(task.item_count), reviewed[user])
            for item in liked if len(others) else ():
                drawn = rng.choice(others, min(negatives, len(others)), replace=False)
                yield user, np.append(item, drawn), 1

    return _ranked(score, lists(), _CHUNK // (negatives + 1), rng)


def full_lists(
    score: PairScorer, task: ListTask, rng: np.random.Generator, max_users: int = 1000
) -> ListMetrics:
    """Rank all items that a user has not reviewed in known rows, for at most `max_users` random users."""

    def lists() -> Iterator[_List]:
        reviewed = task.by_user(
            np.concatenate([task.evidence, task.test[task.liked]]), task.evidence[:0]
        )
        wanted = task.by_user(task.test[task.liked], task.evidence)
        for user in rng.permutation(list(wanted))[:max_users].tolist():
            others = np.delete(np.arange(task.item_count), reviewed[user])
            if len(others):
                yield user, np.append(wanted[user], others), len(wanted[user])

    return _ranked(score, lists(), _CHUNK // task.item_count, rng)


def _ranked(
    score: PairScorer, lists: Iterator[_List], size: int, rng: np.random.Generator
) -> ListMetrics:
    """Score `size` lists at a time, and average."""
    owner: list[int] = []
    figures: list[tuple[float, float, float]] = []
    while batch := list(islice(lists, max(1, size))):
        users, items, likes = zip(*batch, strict=True)
        lengths = [len(candidates) for candidates in items]
        scores = np.split(
            score(np.repeat(users, lengths), np.concatenate(items)), np.cumsum(lengths)[:-1]
        )
        owner.extend(users)
        figures.extend(_figures(one, count, rng) for one, count in zip(scores, likes, strict=True))
    user, at, count = np.unique(
        np.array(owner, dtype=np.int64), return_inverse=True, return_counts=True
    )
    each = np.stack(
        [np.bincount(at, one) / count for one in np.reshape(figures, (-1, 3)).T], axis=1
    )
    ndcg, hit_rate, mrr = each.mean(axis=0).tolist() if len(user) else [float("nan")] * 3
    return ListMetrics(ndcg, hit_rate, mrr, len(user), user, each)


def _figures(score: np.ndarray, likes: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """NDCG@10, hit and reciprocal rank of one list, of which the first `likes` candidates are liked."""
    mixed = rng.permutation(len(score))
    ranks = np.flatnonzero(mixed[np.argsort(-score[mixed], kind="stable")] < likes)
    gains = _DISCOUNT[ranks[ranks < len(_DISCOUNT)]]
    return (
        float(gains.sum() / _DISCOUNT[:likes].sum()),
        float(len(gains) > 0),
        1 / (float(ranks[0]) + 1),
    )
