"""Histories that are longer than one call takes: which reviews to show, or how to part them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from mmrec.llm.types import Review

__all__ = [
    "estimate_tokens",
    "max_review_tokens",
    "select_representative",
    "split_by_tokens",
    "truncate_text",
]

_BYTES_PER_TOKEN = 4
_TOKENS_PER_WORD = 1.3
_SHARE = 8


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, where the model's tokenizer is not known.

    For English that is about right; for other scripts old tokenizers make twice as many. No tokenizer on
    bytes makes more than four times as many, whatever the text.
    """
    return 1 + int(
        max(
            len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN,
            _TOKENS_PER_WORD * len(text.split()),
        )
    )


def truncate_text(
    text: str, max_tokens: int, count_tokens: Callable[[str], int] = estimate_tokens
) -> str:
    """The beginning of a text, of at most so many tokens."""
    cost = count_tokens(text)
    if cost <= max_tokens:
        return text
    # In steps: the beginning may be denser than the whole.
    while text and cost > max_tokens:
        text = (
            text[: min(len(text) * max_tokens // cost, len(text) - 3)].rstrip()
            if max_tokens > 1
            else ""
        )
        cost = count_tokens(text + " …")
    return text and text + " …"


def select_representative(
    reviews: Sequence[Review], costs: Sequence[int], window: int
) -> list[int]:
    """Positions of the reviews that fit a window and cover ratings and time.

    Every rating has its say in proportion to its reviews, the rarest first; within a rating they are taken
    from all over its time. The positions come back in the order given.

    Args:
        reviews: n of them, in the order of time.
        costs: (n) tokens of each.
        window: most tokens in all.
    """
    by_rating: dict[float, list[int]] = defaultdict(list)
    for at, review in enumerate(reviews):
        by_rating[review.rating].append(at)
    turns = [
        (rank / len(some), len(some), at)
        for some in by_rating.values()
        for rank, at in enumerate(some[place] for place in _spread(len(some)))
    ]
    chosen = []
    for _, _, at in sorted(turns):
        if costs[at] <= window:
            window -= costs[at]
            chosen.append(at)
    return sorted(chosen)


def _spread(count: int) -> list[int]:
    """0..count-1 such that every beginning of the list is spread over the whole: by reversed bits."""
    bits = max(count - 1, 1).bit_length()
    return sorted(range(count), key=lambda at: f"{at:0{bits}b}"[::-1])


def split_by_tokens(
    reviews: Sequence[Review], costs: Sequence[int], window: int
) -> list[list[int]]:
    """Positions of reviews in parts that fit a window each; a part never mixes what is read apart.

    Views of one entity differ by one part of the data, so all others are the same texts in each of them, and
    are read only once.
    """
    parts: list[list[int]] = []
    order = sorted(range(len(reviews)), key=lambda at: reviews[at].fold)
    left, last = 0, None
    for at in order:
        if reviews[at].fold != last or costs[at] > left:
            parts.append([])
            left, last = window, reviews[at].fold
        parts[-1].append(at)
        left -= costs[at]
    return parts


def max_review_tokens(window: int, reviews: int) -> int:
    """Most tokens of one review among several: a long one may not crowd out the others."""
    return max(window if reviews == 1 else window // _SHARE, 1)
