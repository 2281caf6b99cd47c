"""Budgets of tokens: estimates, and which reviews fit where there are more than one call takes."""

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


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, where the model's tokenizer is not available.

    Right for English; old tokenizers make twice as many of other scripts. No tokenizer of bytes makes
    more than four times as many of any text.
    """
    by_bytes = len(text.encode("utf-8", "replace")) / 4  # long words, and scripts other than Latin
    by_words = 1.3 * len(text.split())  # short words, which have a token each at least
    return 1 + int(max(by_bytes, by_words))


def truncate_text(
    text: str, max_tokens: int, count_tokens: Callable[[str], int] = estimate_tokens
) -> str:
    """The beginning of a text, with an ellipsis where it was cut; empty where not even that fits."""
    tokens = count_tokens(text)
    if tokens <= max_tokens:
        return text
    # Step by step: the beginning may have more tokens per character than the whole.
    while text and tokens > max_tokens:
        length = min(len(text) * max_tokens // tokens, len(text) - 3) if max_tokens > 1 else 0
        text = text[: max(length, 0)].rstrip()
        tokens = count_tokens(text + " …")
    return text and text + " …"


def max_review_tokens(window: int, reviews: int) -> int:
    """Most tokens of one review: among several, an eighth, so that none crowds out the others."""
    return max(window if reviews == 1 else window // 8, 1)


def select_representative(
    reviews: Sequence[Review], costs: Sequence[int], window: int
) -> list[int]:
    """Positions of reviews that fit a window, cover all ratings in proportion, and all times.

    Reviews take turns: the k-th of n reviews with a rating has turn k / n, and of equal turns the rarest
    rating comes first. Within a rating, each prefix of the order is spread evenly over time.

    Args:
        reviews: (n,) in the order of time.
        costs: (n,) tokens of each.
        window: most tokens in all.

    Returns:
        Positions in ascending order.
    """
    by_rating: dict[float, list[int]] = defaultdict(list)
    for position, review in enumerate(reviews):
        by_rating[review.rating].append(position)
    turns = []  # (turn, reviews of the same rating, position)
    for positions in by_rating.values():
        count = len(positions)
        for rank, index in enumerate(_spread(count)):
            turns.append((rank / count, count, positions[index]))
    selected = []
    for _, _, position in sorted(turns):
        if costs[position] <= window:  # a later, shorter review may still fit
            window -= costs[position]
            selected.append(position)
    return sorted(selected)


def _spread(count: int) -> list[int]:
    """0..count-1 in an order of which each prefix is spread over the range: by reversed bits.

    This is the van der Corput sequence in base 2.
    """
    bits = max(count - 1, 1).bit_length()
    return sorted(range(count), key=lambda index: f"{index:0{bits}b}"[::-1])


def split_by_tokens(
    reviews: Sequence[Review], costs: Sequence[int], window: int
) -> list[list[int]]:
    """Positions of reviews in groups that fit a window each, and have reviews of one fold only.

    Views of one entity differ by one fold, so that the groups of all other folds are the same in each
    view, and each is summarised only once.

    Args:
        reviews: (n,) in the order of time.
        costs: (n,) tokens of each, at most `window`.
        window: most tokens of a group.
    """
    groups: list[list[int]] = []
    free, fold = 0, None
    for position in sorted(range(len(reviews)), key=lambda position: reviews[position].fold):
        if reviews[position].fold != fold or costs[position] > free:
            groups.append([])
            free, fold = window, reviews[position].fold
        groups[-1].append(position)
        free -= costs[position]
    return groups
