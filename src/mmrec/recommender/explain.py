"""Why an item has its probability: attribution to inputs, and quotes of reviews."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import factorial
from typing import Any

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.lexicon import split_words
from mmrec.llm.types import Wish
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.lists import ListScorer
from mmrec.recommender.quotes import Quote
from mmrec.recommender.reasons import Reason, ReasonFinder, Tastes

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
    reasons: list[Reason]  # the most personal ones first, and last those against the item
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

    def __init__(
        self, catalog: Catalog, scorer: ListScorer, encoder: Encoder, reasons: ReasonFinder
    ) -> None:
        self._catalog, self._scorer = catalog, scorer
        self._encoder, self._reasons = encoder, reasons

    def explain(
        self,
        user: int,
        inputs: RankerInputs,
        items: Sequence[int],
        tastes: Tastes,
        wish: Wish | None = None,
    ) -> list[Explanation]:
        """Explain the probabilities of items for a user, who is named by a view of `inputs`.

        No sentence is quoted twice. Quotes that speak for a wish come first; a reason against the
        item names what none of them speaks for.
        """
        # (16, 4): exact Shapley values need the probability with each set of groups known
        # and the others unknown, from nothing known to everything.
        is_known = np.array([*product((False, True), repeat=len(KNOWLEDGE_GROUPS))])
        coalitions = [frozenset(np.flatnonzero(row).tolist()) for row in is_known]
        # (items * 16,) views: of the user or item where the group is known, else the unknown one.
        sides = np.tile(is_known, (len(items), 1)).reshape(-1, 2, 2)  # groups of each side
        user_known, item_known = sides.swapaxes(0, 1)
        user_views = np.where(user_known, user, inputs.user.unknown_index)
        item_views = np.repeat(items, len(is_known))[:, None]
        item_views = np.where(item_known, item_views, inputs.item.unknown_index)
        views = user_views[:, 0], item_views[:, 0], user_views[:, 1], item_views[:, 1]
        scores = self._scorer.score_pairs(views, inputs).reshape(len(items), len(is_known))
        # The (d,) direction of the user's texts, which quotes are chosen by.
        users, direction = inputs.user, None
        for name in ("likes", "gist", "summary", "reviews"):
            if name in users.vectors and users.present[name][user]:
                direction = users.vectors[name][user].astype(np.float32)
                break
        explanations: list[Explanation] = []
        quoted: set[str] = set()
        for item, probability in zip(items, scores.tolist(), strict=True):
            values = dict(zip(coalitions, probability, strict=True))
            contributions: dict[str, float] = {}
            for player, name in enumerate(KNOWLEDGE_GROUPS):
                contributions[name] = shapley_value(values, player)
            reasons = self._reasons.reasons(tastes, item)
            topics = [reason.topic for reason in reasons if reason.topic]
            nearest = self._sort(self._catalog.quotes(item), direction)
            if tastes.user is not None:
                nearest = self._reasons.quotes_of_topics(nearest[:50], topics) + nearest
            if wish is not None:
                nearest, missing = self._catalog.supporting(wish, nearest)
                for phrase in missing:
                    text = f"None of its quoted reviews praises it for “{phrase}”"
                    reasons.append(Reason("wish", text, favourable=False))
            quotes = _new_quotes(nearest, quoted)
            ends = probability[-1], probability[0]
            explanations.append(Explanation(*ends, contributions, quotes, reasons))
        return explanations

    def summary_quote(self, item: int) -> Quote | None:
        """The gist of a review that is nearest to all gists about an item."""
        gists: list[Quote] = []
        for signed in self._catalog.source.notes("item", item):
            if signed.note.gist:
                gists.append(signed.quote(signed.note.gist, liked=True))
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


def _new_quotes(ordered: Sequence[Quote], quoted: set[str], limit: int = 3) -> list[Quote]:
    """The first quotes of different reviews; they join `quoted`, the normalized sentences that
    were quoted before."""
    quotes: list[Quote] = []
    reviews: set[str] = set()
    for quote in ordered:
        sentence = " ".join(split_words(quote.text)) or quote.text
        review = quote.review_id or quote.text
        if len(quotes) < limit and sentence not in quoted and review not in reviews:
            quotes.append(quote)
            quoted.add(sentence)
            reviews.add(review)
    return quotes


def _distinct(quotes: Sequence[Quote]) -> list[Quote]:
    """Quotes with different texts."""
    return list({quote.text: quote for quote in quotes}.values())
