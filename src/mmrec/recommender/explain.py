"""Why an item has its probability: attribution to inputs, and quotes of reviews."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import factorial
from typing import Any

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.catalog import Catalog, Quote
from mmrec.recommender.lists import ListScorer

KNOWLEDGE_GROUPS = ("your ratings", "your words", "its ratings", "its words and photos")
"""What a probability is attributed to: numbers and text of the user, and of the item."""


def shapley_value(values: Mapping[frozenset[Any], float], player: Any) -> float:
    """The mean gain when a player joins, over all orders (Shapley, 1953), from values of coalitions."""
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
    """Why an item has its probability for a user."""

    probability: float
    base: float  # the probability of an unknown item for an unknown user
    # of `KNOWLEDGE_GROUPS`; their sum is `probability - base`
    contributions: dict[str, float]
    quotes: list[Quote]  # about the item, those nearest to the user's own words first
    sentence: str = ""  # made of the quotes alone by a language model; "" without one


def with_sentences(
    explanations: Sequence[Explanation], write: Callable[[Sequence[Sequence[str]]], list[str]]
) -> list[Explanation]:
    """Explanations with the sentences that `write` makes of the texts of their quotes."""
    texts = [[quote.text for quote in explanation.quotes] for explanation in explanations]
    pairs = zip(explanations, write(texts), strict=True)
    return [replace(explanation, sentence=sentence) for explanation, sentence in pairs]


class Explainer:
    """Explains probabilities, and quotes what reviews say about items, which have codes."""

    def __init__(self, catalog: Catalog, scorer: ListScorer, encoder: Encoder) -> None:
        self._catalog, self._scorer, self._encoder = catalog, scorer, encoder

    def explain(self, user: int, inputs: RankerInputs, item: int) -> Explanation:
        """Explain the probability of an item for a user, who is named by a view of `inputs`."""
        # (16, 4): exact Shapley values need the probability with each set of groups known
        # and the others unknown, from nothing known to everything.
        is_known = np.array([*product((False, True), repeat=len(KNOWLEDGE_GROUPS))])
        # (16,) views: of the user or item where the group is known, else the unknown one.
        user_view, user_text = np.where(is_known[:, :2], user, inputs.user.unknown_index).T
        item_view, item_text = np.where(is_known[:, 2:], item, inputs.item.unknown_index).T
        views = user_view, item_view, user_text, item_text
        probability = self._scorer.score_pairs(views, inputs).tolist()
        coalitions = [frozenset(np.flatnonzero(row).tolist()) for row in is_known]
        values = dict(zip(coalitions, probability, strict=True))
        contributions: dict[str, float] = {}
        for player, name in enumerate(KNOWLEDGE_GROUPS):
            contributions[name] = shapley_value(values, player)
        # Three quotes of different reviews, nearest to the user's texts or else typical.
        users, direction = inputs.user, None
        for name in ("likes", "gist", "summary", "reviews"):
            if name in users.vectors and users.present[name][user]:
                direction = users.vectors[name][user].astype(np.float32)  # (d,)
                break
        nearest: dict[str, Quote] = {}
        for quote in self._sort(self._catalog.quotes(item), direction):
            nearest.setdefault(quote.review_id or quote.text, quote)
        quotes = list(nearest.values())[:3]
        return Explanation(probability[-1], probability[0], contributions, quotes)

    def summary_quote(self, item: int) -> Quote | None:
        """The gist of a review that is nearest to all gists about an item."""
        gists: list[Quote] = []
        for review_id, note in self._catalog.notes(item):
            if note.gist:
                gists.append(Quote(note.gist, review_id, liked=True))
        return self._sort(_distinct(gists))[0] if gists else None

    def typical_quotes(self, item: int, limit: int = 5) -> tuple[list[Quote], list[Quote]]:
        """What is liked and disliked about an item, the most typical sentences first."""
        likes: list[Quote] = []
        dislikes: list[Quote] = []
        for quote in self._catalog.quotes(item):
            if not quote.photo:
                (likes if quote.liked else dislikes).append(quote)
        likes, dislikes = self._sort(_distinct(likes)), self._sort(_distinct(dislikes))
        return likes[:limit], dislikes[:limit]

    def _sort(self, quotes: Sequence[Quote], direction: np.ndarray | None = None) -> list[Quote]:
        """Quotes by nearness to a (d,) direction, by default that of their mean."""
        if not quotes:
            return []
        texts = [quote.text for quote in quotes]
        vectors = self._encoder.encode(texts).astype(np.float32)  # (n, d) unit vectors
        similarity = vectors @ (vectors.mean(0) if direction is None else direction)
        return [quotes[index] for index in np.argsort(-similarity, kind="stable")]


def _distinct(quotes: Sequence[Quote]) -> list[Quote]:
    """Quotes with different texts."""
    return list({quote.text: quote for quote in quotes}.values())
