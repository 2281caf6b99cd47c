"""Why a probability is what it is: exact attribution to what was known, and the reviews that say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from mmrec.features.groups import shapley_value

__all__ = [
    "KNOWLEDGE_GROUPS",
    "Explanation",
    "Quote",
    "coalitions",
    "nearest_quotes",
    "shapley_value",
    "typical_quotes",
    "with_sentences",
]

KNOWLEDGE_GROUPS = ("your ratings", "your words", "its ratings", "its words and photos")
"""What can be known or not: numbers and words of the user, numbers and words of the item."""
_QUOTES = 3
_Coalition = frozenset[int]


@dataclass(frozen=True)
class Quote:
    """Words that somebody has written of an item, or that a photo was put into.

    Attributes:
        text: a sentence of a review, word for word; or a caption.
        review_id: of the review; of a photo of the item's own it is empty.
        liked: whether it is a like or a dislike.
        photo: whether it is the caption of a photo.
    """

    text: str
    review_id: str
    liked: bool
    photo: bool = False


@dataclass(frozen=True)
class Explanation:
    """Why an item has its probability for a user.

    Attributes:
        probability: that the user likes the item.
        base: the probability when nothing is known of either.
        contributions: exact Shapley values of `KNOWLEDGE_GROUPS`, in probability; they add up to
            `probability - base`.
        quotes: sentences about the item, those nearest to the user's own words first.
        sentence: one that a language model made of the quotes, and that tells nothing else; "" without one.
    """

    probability: float
    base: float
    contributions: dict[str, float]
    quotes: list[Quote]
    sentence: str = ""

    @classmethod
    def from_coalitions(
        cls, values: Mapping[_Coalition, float], quotes: list[Quote]
    ) -> Explanation:
        """From the probability under every coalition of `KNOWLEDGE_GROUPS`."""
        everything = frozenset(range(len(KNOWLEDGE_GROUPS)))
        contributions = {
            name: shapley_value(values, player) for player, name in enumerate(KNOWLEDGE_GROUPS)
        }
        return cls(values[everything], values[frozenset()], contributions, quotes)


def with_sentences(
    explanations: Sequence[Explanation], write: Callable[[Sequence[Sequence[str]]], list[str]]
) -> list[Explanation]:
    """Reasons with a sentence each, which `write` makes of the texts of their quotes."""
    sentences = write([[quote.text for quote in one.quotes] for one in explanations])
    return [
        replace(one, sentence=sentence)
        for one, sentence in zip(explanations, sentences, strict=True)
    ]


def coalitions(
    score: Callable[..., np.ndarray], user: tuple[int, int], item: tuple[int, int]
) -> dict[_Coalition, float]:
    """The probability with each set of `KNOWLEDGE_GROUPS` known and the others not: 16 of them, in one batch.

    Args:
        score: probabilities from views of user and item, then of user and item for their words.
        user, item: the view where they are known, and the view where nothing is.
    """
    sets = [
        frozenset(some)
        for size in range(len(KNOWLEDGE_GROUPS) + 1)
        for some in combinations(range(len(KNOWLEDGE_GROUPS)), size)
    ]

    def views(player: int, sides: tuple[int, int]) -> np.ndarray:
        return np.array([sides[0] if player in some else sides[1] for some in sets])

    probability = score(views(0, user), views(2, item), views(1, user), views(3, item))
    return dict(zip(sets, probability.tolist(), strict=True))


def typical_quotes(
    said: Sequence[Quote], encode: Callable[[Sequence[str]], np.ndarray], most: int
) -> list[Quote]:
    """Each different sentence once, those first that are nearest to the mean of all."""
    each = {quote.text: quote for quote in said}
    if not each:
        return []
    vectors = encode([*each]).astype(np.float32)
    order = np.argsort(-(vectors @ vectors.mean(0)), kind="stable")[:most]
    return [[*each.values()][at] for at in order]


def nearest_quotes(said: Sequence[Quote], vectors: np.ndarray, words: np.ndarray) -> list[Quote]:
    """The quotes nearest to some words, one a review.

    Args:
        said: (n) quotes.
        vectors: (n, d) their unit vectors.
        words: (d,) direction of the words.
    """
    best: dict[str, Quote] = {}
    for at in np.argsort(-(vectors @ words), kind="stable"):
        best.setdefault(said[at].review_id or said[at].text, said[at])
    return list(best.values())[:_QUOTES]
