"""How well lists of items meet what their users went to later, and whether they liked it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import NamedTuple, Self

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.data.schema import Interactions
from mmrec.evaluation import statistics
from mmrec.evaluation.statistics import Difference, bootstrap_samples, describe_samples

LIST_LENGTH = 20
"""Places of a list that are judged; NDCG, coverage and difference take the first ten."""


@dataclass(frozen=True)
class ListTask:
    """The visits that lists are made of, and the held-out visits that judge them.

    A held-out visit counts where evidence has its user and its item, but not the pair. A pair that
    was reviewed twice, and liked once, is both liked and disliked.
    """

    visits: csr_matrix  # (users, items) float32, 1 where evidence has the pair
    liked: np.ndarray  # (l,) sorted numbers user * items + item of held-out pairs
    disliked: np.ndarray  # (d,) the same of those that were not liked

    @classmethod
    def from_rows(
        cls, data: Interactions, label: np.ndarray, evidence: np.ndarray, held_out: np.ndarray
    ) -> Self:
        """Of rows of n reviews: `evidence`, and those `held_out`; `label` has (n,) likes."""
        shape = len(data.users), len(data.items)
        user, item = data.user[evidence], data.item[evidence]
        ones = np.ones(len(evidence), np.float32)
        visits = csr_matrix((ones, (user, item)), shape=shape)
        visits.data[:] = 1
        is_judged = np.isin(data.user[held_out], user) & np.isin(data.item[held_out], item)
        judged = held_out[is_judged]
        # A pair becomes one number, to compare pairs as sets.
        numbers = data.user.astype(np.int64) * shape[1] + data.item
        liked = np.setdiff1d(numbers[judged[label[judged]]], numbers[evidence])
        disliked = np.setdiff1d(numbers[judged[~label[judged]]], numbers[evidence])
        return cls(visits, liked, disliked)

    @cached_property
    def users(self) -> np.ndarray:
        """(u,) sorted codes of the users who liked something held out: one list each is judged."""
        return np.unique(self.liked // self.visits.shape[1])

    def sample(self, count: int, rng: np.random.Generator) -> Self:
        """The task with at most `count` random users."""
        users, items = rng.permutation(self.users)[:count], self.visits.shape[1]
        liked = self.liked[np.isin(self.liked // items, users)]
        disliked = self.disliked[np.isin(self.disliked // items, users)]
        return type(self)(self.visits, liked, disliked)


class ListMetrics(NamedTuple):
    """Means over users of their lists; nan where nothing was judged."""

    recall: float  # liked items found in 20 places, of all that were liked, or of 20
    ndcg: float  # of ten places, binary relevance (Jaervelin & Kekaelaeinen, 2002)
    mrr: float  # 1 / place of the first liked item in 20 places, 0 without one
    dislikes: float  # share of disliked items among all judged ones in 20 places
    coverage: float  # share of items with evidence in the first ten places of any list
    difference: float  # 1 - share of ten places that two users share (Zhou et al., 2010)
    users: int


@dataclass(frozen=True)
class ListScores:
    """Scores of lists of u users, each (u,), and two values of all lists together."""

    recall: np.ndarray
    ndcg: np.ndarray
    mrr: np.ndarray
    liked: np.ndarray  # number of liked items in 20 places
    disliked: np.ndarray
    coverage: float
    difference: float

    @classmethod
    def judge(cls, top: np.ndarray, task: ListTask) -> Self:
        """Judge (u, n) codes of items for the users of `task`, best first, padded with -1."""
        top, items = top[:, :LIST_LENGTH], task.visits.shape[1]
        pairs = np.where(top >= 0, task.users[:, None] * items + top, -1)
        liked, disliked = np.isin(pairs, task.liked), np.isin(pairs, task.disliked)
        _, like_count = np.unique(task.liked // items, return_counts=True)
        discount = 1 / np.log2(np.arange(2, 12))  # of the first ten places
        gain = liked[:, :10] @ discount[: top.shape[1]]
        first = liked.argmax(1)
        coverage, difference = _variety(top[:, :10], task)
        return cls(
            recall=liked.sum(1) / np.minimum(like_count, LIST_LENGTH),
            ndcg=gain / np.cumsum(discount)[np.minimum(like_count, 10) - 1],
            mrr=liked.any(1) / (first + 1),
            liked=liked.sum(1),
            disliked=disliked.sum(1),
            coverage=coverage,
            difference=difference,
        )

    def fractions(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(u,) numerators and denominators, whose sums give the metric of all users."""
        if metric == "dislikes":
            return self.disliked, self.liked + self.disliked
        return getattr(self, metric), np.ones(len(self.recall))

    def metrics(self) -> ListMetrics:
        """The metrics of all users."""
        values = dict[str, float]()
        for name in ("recall", "ndcg", "mrr", "dislikes"):
            numerator, denominator = map(np.sum, self.fractions(name))
            values[name] = float(numerator / denominator) if denominator else np.nan
        variety = {"coverage": self.coverage, "difference": self.difference}
        return ListMetrics(**values, **variety, users=len(self.recall))


def _variety(top: np.ndarray, task: ListTask) -> tuple[float, float]:
    """Coverage, and the mean difference of all pairs of lists."""
    lists, places = len(top), np.count_nonzero(top >= 0)
    users_of_item = np.bincount(top[top >= 0])
    if not places:
        return 0.0 if lists else np.nan, np.nan
    items = np.count_nonzero(task.visits.sum(0))
    coverage = float(np.count_nonzero(users_of_item) / items)
    if lists < 2:
        return coverage, np.nan
    # An item in c lists is common to c (c - 1) ordered pairs of them.
    common = users_of_item @ (users_of_item - 1) / (lists * (lists - 1))
    return coverage, float(1 - common / (places / lists))


def list_metrics(top: np.ndarray, task: ListTask) -> ListMetrics:
    """Metrics of (u, n) codes of items for the users of `task`, best first, padded with -1."""
    return ListScores.judge(top, task).metrics()


class TradePoint(NamedTuple):
    """What lists are worth at one setting of the judge."""

    caution: float  # weight of the odds ratio of a dislike in the order of candidates
    max_fpr: float | None  # items less probable than this bound allows are left out
    recall: float
    dislikes: float


@dataclass(frozen=True)
class ListResults:
    """Lists by each model for the same users."""

    task: ListTask
    top: dict[str, np.ndarray]  # (u, n) items, padded with -1; of peers, then of ours
    settings: dict[str, dict[str, float]]  # of peers, chosen on validation
    trade: list[TradePoint] = field(default_factory=list)  # of ours
    remarks: list[str] = field(default_factory=list)  # on peers that were left out
    judge: str = ""  # the model whose probabilities are those of our lists


@dataclass(frozen=True)
class ListComparison:
    """Lists of several models for the same users; intervals are 95% by a bootstrap over users."""

    own: str  # the model that is not a peer
    reference: str  # the peer with the highest recall, which others are compared with
    metrics: dict[str, ListMetrics]
    intervals: dict[str, dict[str, Difference]]  # metric -> value and ends
    differences: dict[str, dict[str, Difference]]  # the same, less those of the reference
    settings: dict[str, dict[str, float]]  # of peers, chosen on validation
    trade: list[TradePoint]  # of ours; empty where there is none
    judge: str  # the model whose probabilities are those of our lists


def compare_lists(lists: ListResults, rounds: int = 1000, seed: int = 0) -> ListComparison:
    """Judge the lists of each model by `rounds` of the bootstrap.

    The reference has the highest recall on these very rows, so that ours is compared with the peer
    that luck favours most.
    """
    scores = {name: ListScores.judge(top, lists.task) for name, top in lists.top.items()}
    metrics = {name: values.metrics() for name, values in scores.items()}
    reference = max(lists.settings, key=lambda name: metrics[name].recall)
    intervals: dict[str, dict[str, Difference]] = {name: {} for name in scores}
    differences: dict[str, dict[str, Difference]] = {name: {} for name in scores}
    users = np.arange(len(lists.task.users))  # one row each
    for metric in ("recall", "ndcg", "dislikes") if len(users) else ():
        options, samples = (statistics.weighted_ratio, rounds, seed), {}
        for name, values in scores.items():
            parts = np.stack(values.fractions(metric), axis=1)
            samples[name] = bootstrap_samples(users, users, parts, *options)
        for name, row in metrics.items():
            value, gap = getattr(row, metric), samples[name] - samples[reference]
            intervals[name][metric] = describe_samples(value, samples[name])
            value -= getattr(metrics[reference], metric)
            differences[name][metric] = describe_samples(value, gap)
    (own,) = scores.keys() - lists.settings.keys()
    results = metrics, intervals, differences, lists.settings, lists.trade, lists.judge
    return ListComparison(own, reference, *results)


def order_score(
    choice: np.ndarray, probability: np.ndarray, caution: float, like_rate: float
) -> np.ndarray:
    """What orders candidates: the log-odds of the choice, less `caution` times the odds ratio of a
    dislike, which compares the odds with those of all visits, by the share of likes among them.

    Unlike log-odds, odds hardly tell items apart that are liked almost surely, and sink those that
    are not: fewer dislikes for the same recall (docs/log.md).
    """
    usual_odds = max(1 - like_rate, 0.01) / max(like_rate, 0.01)
    odds_ratio = (1 - probability) / probability.clip(1e-9) / usual_odds
    weight = min(caution, 1e9)  # beyond it the choice counts for nothing
    return np.asarray(choice - weight * odds_ratio)


@dataclass(frozen=True)
class JudgedCandidates:
    """Candidates for u users, and what orders and filters them."""

    items: np.ndarray  # (u, c) codes, padded with -1
    choice: np.ndarray  # (u, c) log-odds that the user chooses each
    probability: np.ndarray  # (u, c) that the user likes each
    like_rate: float  # share of likes among all visits

    def lists(self, caution: float, min_probability: float = 0.0) -> np.ndarray:
        """(u, 20) codes of the best candidates that are likely enough, padded with -1."""
        score = order_score(self.choice, self.probability, caution, self.like_rate)
        listed = (self.items >= 0) & (self.probability >= min_probability)
        score = np.where(listed, score, -np.inf)
        order = np.argsort(-score, axis=1, kind="stable")[:, :LIST_LENGTH]
        return np.take_along_axis(np.where(listed, self.items, -1), order, axis=1)

    def trade(
        self, cautions: Sequence[float], lowest: Mapping[float | None, float], task: ListTask
    ) -> list[TradePoint]:
        """Recall against dislikes for each caution and bound: by its max_fpr, the `lowest` probability
        that is listed."""
        points = list[TradePoint]()
        for caution, (max_fpr, probability) in product(cautions, lowest.items()):
            metrics = list_metrics(self.lists(caution, probability), task)
            points.append(TradePoint(caution, max_fpr, metrics.recall, metrics.dislikes))
        return points
