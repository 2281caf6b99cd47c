"""A short text made of the sentences that best stand for many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["excerpt", "tokens_of"]

_CANDIDATES = 60
_OPINION = 0.2
_REDUNDANCY = 0.6
_TOKENS_PER_WORD = 1.3
_CHARACTERS_PER_TOKEN = 5
_FEW_WORDS = 3
_TERSE = 0.3
_CLEAR = 0.3


def tokens_of(text: str) -> int:
    """About how many tokens a text has: 1.3 a word, and one for 5 characters of long words."""
    return math.ceil(max(_TOKENS_PER_WORD * len(text.split()), len(text) / _CHARACTERS_PER_TOKEN))


def excerpt(texts: Sequence[str], vectors: np.ndarray, polarity: np.ndarray, tokens: int) -> str:
    """Join central and diverse sentences within a budget of tokens: praise first where it prevails.

    Args:
        texts: n sentences; of equal ones the first counts.
        vectors: (n, d) unit vectors.
        polarity: (n,) from blame -1 to praise 1.
        tokens: the budget; where no sentence fits, the most central one is cut to it.

    Sentences are taken one at a time by maximal marginal relevance (Carbonell & Goldstein 1998): centrality
    and opinion less likeness to those taken already. Blame gets the share of the budget that it has of all
    clear opinions: what is central is mostly praise, and complaints would go unheard.
    """
    wide = vectors.astype(np.float32)
    mean = wide.mean(0)
    relevance = wide @ mean / (np.linalg.norm(mean) or 1.0) + _OPINION * np.abs(polarity)
    relevance -= _TERSE * np.array([text.count(" ") + 1 < _FEW_WORDS for text in texts])
    relevance = np.round(relevance, 3)
    first: dict[str, int] = {}
    for at in np.argsort(-relevance, kind="stable").tolist():
        first.setdefault(texts[at], at)
    blaming = polarity < -_CLEAR
    sides = [
        [at for at in first.values() if blaming[at] == which][:_CANDIDATES]
        for which in (True, False)
    ]
    kept = sides[0] + sides[1]
    costs = np.array([tokens_of(_closed(texts[at]) + " ") for at in kept])
    if costs.min() > tokens:
        return _cut(texts[max(kept, key=lambda at: float(relevance[at]))], tokens)
    opinions = int(np.sum(np.abs(polarity) > _CLEAR))
    share = int(tokens * np.sum(blaming) / max(opinions, 1))
    blame = _choose(wide[kept], relevance[kept], costs, share, blaming[kept])
    rest = _choose(
        wide[kept], relevance[kept], costs, tokens - int(costs[blame].sum()), ~blaming[kept]
    )
    chosen = [kept[at] for at in blame + rest]
    side = 1 if polarity.sum() >= 0 else -1
    chosen.sort(key=lambda at: side * polarity[at] < 0)
    return " ".join(_closed(texts[at]) for at in chosen)


def _choose(
    vectors: np.ndarray, relevance: np.ndarray, costs: np.ndarray, budget: int, free: np.ndarray
) -> list[int]:
    """Places of the sentences taken among the free ones, in the order of taking."""
    likeness = vectors @ vectors.T
    nearest = np.zeros(len(vectors), np.float32)
    chosen: list[int] = []
    while True:
        free = free & (costs <= budget)
        if not free.any():
            return chosen
        worth = np.where(free, np.round(relevance - _REDUNDANCY * nearest, 3), -np.inf)
        at = int(np.argmax(worth))
        chosen.append(at)
        free[at] = False
        budget -= int(costs[at])
        np.maximum(nearest, likeness[at], out=nearest)


def _closed(sentence: str) -> str:
    """A sentence that another can follow: one that ends in a word or an open mark gets a full stop."""
    closed = sentence.rstrip(",;:-–— ")
    return f"{closed}." if closed[-1:].isalnum() else sentence


def _cut(sentence: str, tokens: int) -> str:
    text = sentence[: tokens * _CHARACTERS_PER_TOKEN]
    while tokens_of(text) > tokens:
        text = text.rpartition(" ")[0]
    return text
