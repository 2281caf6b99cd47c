"""How high liked items stand in lists; one state of `rng` gives every model the same lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import polars as pl

PairScorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n,) user codes and (n,) item codes -> (n,) scores, the higher the better."""
_RankedList = tuple[int, np.ndarray, int]
"""A list to be ranked: the user, (c,) items with the liked ones first, and how many are liked."""


@dataclass(frozen=True)
class ListTask:
    """Which items are looked for in whose lists: liked test items, unless evidence has them too."""

    evidence: np.ndarray  # (n, 2) codes of user and item of the evidence rows
    test: np.ndarray  # (m, 2) the same of the test rows
    liked: np.ndarray  # (m,) bool, whether a test row is a like
    item_count: int

    def items_by_user(self, pairs: np.ndarray, excluded: np.ndarray) -> dict[int, np.ndarray]:
        """Distinct items of every user in (n, 2) `pairs`, without those of the pairs `excluded`."""
        # A pair becomes one number, user * item_count + item, to compare pairs as sets.
        place_values = np.array([self.item_count, 1])
        numbers = np.setdiff1d(pairs @ place_values, excluded @ place_values)
        user, item = np.divmod(numbers, self.item_count)
        users, starts = np.unique(user, return_index=True)
        return dict(zip(users.tolist(), np.split(item, starts[1:]), strict=False))


class ListMetrics(NamedTuple):
    """Means over users, nan without any: NDCG@10 with binary relevance (Jaervelin & Kekaelaeinen,
    2002), share of lists with a liked item in the first ten, and 1 / rank of the first liked item."""

    ndcg: float
    hit_rate: float
    mrr: float
    users: int


def sampled_lists(
    scorer: PairScorer, task: ListTask, rng: np.random.Generator, negatives: int = 99
) -> ListMetrics:
    """Rank each liked test item among random items that its user never reviewed (He et al., 2017, NCF).

    The order of models need not be the one that full lists give (Krichene & Rendle, 2020).
    """
    reviewed = task.items_by_user(np.concatenate([task.evidence, task.test]), task.test[:0])

    def candidate_lists() -> Iterator[_RankedList]:
        for user, liked in task.items_by_user(task.test[task.liked], task.evidence).items():
            unreviewed = np.delete(np.arange(task.item_count), reviewed[user])
            size = min(negatives, len(unreviewed))
            for item in liked if size else ():
                yield user, np.append(item, rng.choice(unreviewed, size, replace=False)), 1

    return _rank(scorer, candidate_lists(), negatives + 1, rng)


def full_lists(
    scorer: PairScorer,
    task: ListTask,
    rng: np.random.Generator,
    max_users: int = 1000,
    pairs_per_call: int = 1 << 18,
) -> ListMetrics:
    """Rank all items that a user has not reviewed in evidence rows, for `max_users` random users."""
    likes = task.test[task.liked]
    reviewed = task.items_by_user(np.concatenate([task.evidence, likes]), likes[:0])

    def candidate_lists() -> Iterator[_RankedList]:
        liked = task.items_by_user(likes, task.evidence)
        for user in rng.permutation(list(liked))[:max_users].tolist():
            unreviewed = np.delete(np.arange(task.item_count), reviewed[user])
            if len(unreviewed):
                yield user, np.append(liked[user], unreviewed), len(liked[user])

    return _rank(scorer, candidate_lists(), task.item_count, rng, pairs_per_call)


def _rank(
    scorer: PairScorer,
    candidate_lists: Iterator[_RankedList],
    list_length: int,
    rng: np.random.Generator,
    pairs_per_call: int = 1 << 18,
) -> ListMetrics:
    """Score lists, about `pairs_per_call` candidates in one call, and average over users."""
    rows: list[tuple[int, float, float, float]] = []
    discount = 1 / np.log2(np.arange(2, 12))  # of the first ten ranks
    while batch := list(islice(candidate_lists, max(1, pairs_per_call // list_length))):
        users, item_lists, liked_counts = zip(*batch, strict=True)
        lengths = list(map(len, item_lists))
        scores = scorer(np.repeat(users, lengths), np.concatenate(item_lists))
        score_lists = np.split(scores, np.cumsum(lengths)[:-1])
        for user, list_scores, liked_count in zip(users, score_lists, liked_counts, strict=True):
            # Shuffled before a stable sort, so that equal scores are in random order.
            shuffled = rng.permutation(len(list_scores))
            ranking = shuffled[np.argsort(-list_scores[shuffled], kind="stable")]
            liked_ranks = np.flatnonzero(ranking < liked_count)  # from 0
            gains = discount[liked_ranks[liked_ranks < 10]]
            ndcg = gains.sum() / discount[:liked_count].sum()
            rows.append((user, ndcg, float(len(gains) > 0), 1 / (liked_ranks[0] + 1)))
    if not rows:
        return ListMetrics(np.nan, np.nan, np.nan, 0)
    table = pl.DataFrame(rows, ["user", "ndcg", "hit_rate", "mrr"], orient="row")
    by_user = table.group_by("user", maintain_order=True).mean().drop("user")
    ndcg, hit_rate, mrr = by_user.mean().row(0)
    return ListMetrics(ndcg, hit_rate, mrr, by_user.height)
