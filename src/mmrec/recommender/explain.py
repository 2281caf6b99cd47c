"""Why an item has its probability: exact attribution to groups of inputs, and quotes of reviews."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import factorial
from typing import TypeVar

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.features.tables import EntityFeatures
from mmrec.recommender.catalog import Catalog, Quote
from mmrec.recommender.lists import ListScorer
from mmrec.recommender.new_users import UserView

__all__ = ["KNOWLEDGE_GROUPS", "Explainer", "Explanation", "shapley_value", "with_sentences"]

KNOWLEDGE_GROUPS = ("your ratings", "your words", "its ratings", "its words and photos")
"""What a probability is attributed to: numbers and text of the user, numbers and text of the item."""
Coalition = frozenset[int]
Player = TypeVar("Player", bound=Hashable)


def shapley_value(values: Mapping[frozenset[Player], float], player: Player) -> float:
    """Shapley value of a player from the values of all coalitions (Shapley, 1953).

    The mean gain by which the player improves a coalition, over all orders in which players can
    join.
    """
    players = max(map(len, values))
    total = 0.0
    for coalition, value in values.items():
        if player not in coalition:
            size = len(coalition)
            orders = factorial(size) * factorial(players - size - 1) / factorial(players)
            total += orders * (values[coalition | {player}] - value)
    return total


@dataclass(frozen=True)
class Explanation:
    """Why an item has its probability for a user.

    Attributes:
        base: the probability of an unknown item for an unknown user.
        contributions: Shapley values of `KNOWLEDGE_GROUPS`; their sum is `probability - base`.
        quotes: sentences about the item, those nearest to the user's own words first.
        sentence: made of the quotes alone by a language model; "" without one.
    """

    probability: float
    base: float
    contributions: dict[str, float]
    quotes: list[Quote]
    sentence: str = ""


def with_sentences(
    explanations: Sequence[Explanation], write: Callable[[Sequence[Sequence[str]]], list[str]]
) -> list[Explanation]:
    """Explanations with the sentences that `write` makes of the texts of their quotes."""
    texts = [[quote.text for quote in explanation.quotes] for explanation in explanations]
    pairs = zip(explanations, write(texts), strict=True)
    return [replace(explanation, sentence=sentence) for explanation, sentence in pairs]


class Explainer:
    """Explains probabilities, and quotes what reviews say about items."""

    def __init__(self, catalog: Catalog, scorer: ListScorer, encoder: Encoder) -> None:
        self._catalog, self._scorer, self._encoder = catalog, scorer, encoder

    def explain(self, user: UserView, item: int) -> Explanation:
        """Explain an item, by code."""
        probability = self._coalitions(user, item)
        contributions: dict[str, float] = {}
        for player, name in enumerate(KNOWLEDGE_GROUPS):
            contributions[name] = shapley_value(probability, player)
        full, base = probability[frozenset(range(len(KNOWLEDGE_GROUPS)))], probability[frozenset()]
        return Explanation(full, base, contributions, self._nearest_quotes(user, item))

    def _coalitions(self, user: UserView, item: int) -> dict[Coalition, float]:
        """The probability with each set of `KNOWLEDGE_GROUPS` known, the others unknown: one batch of 16."""
        players = range(len(KNOWLEDGE_GROUPS))
        # Exact Shapley values (Shapley, 1953) need the value of every coalition.
        coalitions = [frozenset(some) for size in range(5) for some in combinations(players, size)]
        known = np.array([[player in coalition for player in players] for coalition in coalitions])
        unknown_user, unknown_item = user.features.unknown_index, user.inputs.item.unknown_index
        # (16,) views: of the user or item where the group is known, else of the unknown one.
        user_view, user_text_view = np.where(known[:, :2], user.index, unknown_user).T
        item_view, item_text_view = np.where(known[:, 2:], item, unknown_item).T
        views = (user_view, item_view, user_text_view, item_text_view)
        probability = self._scorer.score_pairs(views, user.inputs)
        return dict(zip(coalitions, probability.tolist(), strict=True))

    def _nearest_quotes(self, user: UserView, item: int, limit: int = 3) -> list[Quote]:
        """Quotes nearest to what the user writes, or else to their mean; at most one of each review."""
        quotes = self._catalog.quotes(item)
        if not quotes:
            return []
        vectors = self._encode(quotes)  # (n, d) unit vectors
        direction = _text_direction(user.features, user.index)
        similarity = vectors @ (vectors.mean(0) if direction is None else direction)
        nearest: dict[str, Quote] = {}
        for index in np.argsort(-similarity, kind="stable"):
            nearest.setdefault(quotes[index].review_id or quotes[index].text, quotes[index])
        return list(nearest.values())[:limit]

    def summary_quote(self, item: int) -> Quote | None:
        """The gist of a review that is nearest to all gists about an item, by code."""
        return next(iter(self._typical(self._catalog.gists(item), 1)), None)

    def typical_quotes(self, item: int, limit: int = 5) -> tuple[list[Quote], list[Quote]]:
        """What is liked and disliked about an item, by code: distinct sentences, the most typical first."""
        quotes = [quote for quote in self._catalog.quotes(item) if not quote.photo]
        likes = [quote for quote in quotes if quote.liked]
        dislikes = [quote for quote in quotes if not quote.liked]
        return self._typical(likes, limit), self._typical(dislikes, limit)

    def _typical(self, quotes: Sequence[Quote], limit: int) -> list[Quote]:
        """Distinct quotes, those nearest to the mean of all first."""
        distinct = list({quote.text: quote for quote in quotes}.values())
        if not distinct:
            return []
        vectors = self._encode(distinct)  # (n, d) unit vectors
        order = np.argsort(-(vectors @ vectors.mean(0)), kind="stable")[:limit]
        return [distinct[index] for index in order]

    def _encode(self, quotes: Sequence[Quote]) -> np.ndarray:
        return self._encoder.encode([quote.text for quote in quotes]).astype(np.float32)


def _text_direction(users: EntityFeatures, index: int) -> np.ndarray | None:
    """(d,) of what the user writes, if anything."""
    for name in ("likes", "gist", "summary", "reviews"):
        if name in users.vectors and users.present[name][index]:
            return users.vectors[name][index].astype(np.float32)
    return None
