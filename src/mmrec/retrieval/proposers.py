"""Proposers: what people who visited the same items went to, and what similar words are said of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.retrieval import co_visits, factors
from mmrec.retrieval.histories import NOISE, Histories, Visits, sum_topics, unit_rows, without_noise

SIMILARITIES = ("co-visits", "co-likes", "walks", "similar texts")
"""Proposers that are matrices between items."""
TEXT_PROPOSERS = ("texts", "visitors' texts")
"""Those that know what to propose to a user of whom there are texts alone."""
_BY_FACTORS = [f"{rank} factors" for rank in factors.RANKS]
PROPOSER_NAMES = [*SIMILARITIES, *_BY_FACTORS, *TEXT_PROPOSERS, "popularity"]
"""All proposers, in the order of `Proposers.scores`."""
_PRIOR_RATINGS = 5.0


@dataclass(frozen=True)
class Proposers:
    """What is known of m items, by which histories become scores of all of them."""

    # Proposer -> (m, m) from a visited item to others; that of likes starts from liked items.
    similarities: Mapping[str, csr_matrix]
    item_factors: np.ndarray  # (m, f)
    topics: np.ndarray  # (m, t) sums over the texts about each item
    visitor_topics: np.ndarray  # (m, t) sums over what visitors write about others
    visit_count: np.ndarray  # (m,)
    like_count: np.ndarray  # (m,)

    @classmethod
    def fit(cls, visits: Visits, seed: int) -> Proposers:
        """Learn from the visits of all users."""
        histories, size = Histories.from_visits(visits), visits.items
        topics = sum_topics(visits.item, visits.topics, size)
        rng = np.random.default_rng(seed)
        pairs = co_visits.limit_histories(histories.visits, rng)
        likes = co_visits.limit_histories(histories.likes, rng)
        matrices = (
            co_visits.co_visit_similarity(pairs),
            co_visits.co_visit_similarity(likes),
            co_visits.walk_similarity(pairs),
            co_visits.text_similarity(unit_rows(topics)),
        )
        return cls(
            similarities=dict(zip(SIMILARITIES, matrices, strict=True)),
            item_factors=factors.fit_item_factors(pairs, seed),
            topics=topics,
            visitor_topics=_other_topics(visits, histories.topics),
            visit_count=np.bincount(visits.item, minlength=size).astype(np.float32),
            like_count=np.bincount(visits.item[visits.liked], minlength=size).astype(np.float32),
        )

    @property
    def names(self) -> list[str]:
        """Of all proposers, in the order of `scores`."""
        return PROPOSER_NAMES

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.visit_count)

    @cached_property
    def popularity(self) -> np.ndarray:
        """(m,) log of 1 + visits."""
        return np.log1p(self.visit_count)

    @cached_property
    def like_rate(self) -> float:
        """Share of all visits that were liked."""
        return float(self.like_count.sum() / max(self.visit_count.sum(), 1))

    @cached_property
    def like_share(self) -> np.ndarray:
        """(m,) share of visits that were liked, shrunk towards that of all items."""
        return (self.like_count + _PRIOR_RATINGS * self.like_rate) / (
            self.visit_count + _PRIOR_RATINGS
        )

    @cached_property
    def _directions(self) -> tuple[np.ndarray, np.ndarray]:
        return unit_rows(self.topics), unit_rows(self.visitor_topics)

    def scores(self, histories: Histories) -> np.ndarray:
        """(proposers, b, m) float32 scores of all items for b users."""
        scores = np.empty((len(self.names), len(histories), self.items), dtype=np.float32)
        for position, (name, similarity) in enumerate(self.similarities.items()):
            start = histories.likes if name == "co-likes" else histories.visits
            # Items without a place in a matrix came after the fit.
            fitted = similarity.shape[0]
            scores[position, :, :fitted] = (start[:, :fitted] @ similarity).toarray()
            scores[position, :, fitted:] = 0
        fitted = len(self.item_factors)
        visits, by_factors = histories.visits[:, :fitted], scores[len(self.similarities) : -3]
        visit_count = self.visit_count[:fitted]
        by_factors[:, :, :fitted] = factors.factor_scores(visits, self.item_factors, visit_count)
        by_factors[:, :, fitted:] = 0
        user_directions = unit_rows(histories.topics)
        for position, directions in enumerate(self._directions, -3):
            scores[position] = user_directions @ directions.T
        scores[-1] = self.popularity
        return scores

    def with_texts(self, items: np.ndarray, topics: np.ndarray, visits: np.ndarray) -> Proposers:
        """Count (n, t) topics of texts about (n,) items, which may be new, and (n, 2) visits and likes.

        Co-visits, factors and visitors' texts stay as they are until the next fit: a new item has none.
        """
        added = {"topics": topics, "visit_count": visits[:, 0], "like_count": visits[:, 1]}
        grown = max(int(items.max(initial=0)) + 1 - self.items, 0)
        arrays: dict[str, Any] = {}
        arrays["visitor_topics"] = np.pad(self.visitor_topics, [(0, grown), (0, 0)])
        for name, values in added.items():
            array = getattr(self, name)
            arrays[name] = np.pad(array, [(0, grown), *[(0, 0)] * (array.ndim - 1)])
            np.add.at(arrays[name], items, values)
        without_noise(arrays["topics"], items)
        return replace(self, **arrays)


def _other_topics(visits: Visits, user_topics: np.ndarray) -> np.ndarray:
    """(m, t) sums, over the visits of each item, of what the user writes of other items.

    Each of those who write of others counts as a direction, in deviation from their mean.
    """
    other_topics = user_topics[visits.user] - visits.topics
    rows = np.flatnonzero(np.linalg.norm(other_topics, axis=1) > NOISE)
    directions = unit_rows(other_topics[rows])
    mean = directions.sum(0) / max(len(rows), 1)
    return sum_topics(visits.item[rows], directions - mean, visits.items)
