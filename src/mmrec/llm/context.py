"""Reviews fitted into the context window of a language model: token estimates, and what is shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache

from mmrec.llm.prompts import frame_text
from mmrec.llm.sanitize import sanitize
from mmrec.llm.types import Review

__all__ = [
    "ContextWindow",
    "Texts",
    "estimate_tokens",
    "max_review_tokens",
    "select_representative",
    "split_by_tokens",
    "truncate_text",
]

Texts = tuple[str, ...]


class ContextWindow:
    """Fits reviews, sanitized, into prompts.

    Args:
        count_tokens: tokens of texts, by the model's tokenizer where that is known.
        size: most tokens of reviews in one prompt, with the lines around them.
    """

    def __init__(self, count_tokens: Callable[[Sequence[str]], list[int]], size: int) -> None:
        # Cached, since under the policy `fold` a review is in some twenty groups.
        self._count = cache(lambda text: count_tokens([text])[0])
        self._fit = cache(lambda text, limit: truncate_text(sanitize(text), limit, self._count))
        self._size = size
        # Tokens of the lines around a text.
        self._frame_tokens: int = self._count(frame_text("", 10, "0" * 12))

    def fit_text(self, text: str) -> Texts:
        """One text for a prompt of its own; () where it is blank."""
        fitted = self._fit(text, max_review_tokens(self._size - self._frame_tokens, 1))
        return (fitted,) if fitted else ()

    def sample_reviews(self, group: Sequence[Review]) -> Texts:
        """Texts for one prompt which cover the ratings and times of a group, in order of time."""
        reviews, tokens = self._fit_group(group)
        chosen = select_representative(reviews, tokens, self._size)
        return tuple(reviews[index].text for index in chosen)

    def split_reviews(self, group: Sequence[Review]) -> list[Texts]:
        """All texts of a group, in as many prompts as needed; a sample where each takes a prompt."""
        reviews, tokens = self._fit_group(group)
        if sum(tokens) <= self._size:
            return [tuple(review.text for review in reviews)]
        parts = split_by_tokens(reviews, tokens, self._size)
        if len(parts) == len(reviews):
            return [self.sample_reviews(group)]
        return [tuple(reviews[index].text for index in part) for part in parts]

    def _fit_group(self, group: Sequence[Review]) -> tuple[list[Review], list[int]]:
        """The reviews that are not blank, in order of time, and the tokens that each takes."""
        limit = max_review_tokens(self._size - self._frame_tokens, len(group))
        reviews, tokens = [], []
        for review in sorted(group, key=lambda review: (review.time, review.text)):
            if text := self._fit(review.text, limit):
                reviews.append(review._replace(text=text))
                tokens.append(self._count(text) + self._frame_tokens)
        return reviews, tokens


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, where the model's tokenizer is not available.

    Right for English; old tokenizers make twice as many of other scripts. No tokenizer of bytes
    makes more than four times as many of any text.
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
    """Ascending positions of reviews that fit a window, and cover all ratings and times.

    Reviews take turns: the k-th of n reviews with a rating has turn k / n, and of equal turns the
    rarest rating comes first. Within a rating, each prefix of the order is spread over time.

    Args:
        reviews: (n,) in the order of time.
        costs: (n,) tokens of each.
        window: most tokens in all.
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
    """0..count-1 such that each prefix is spread over the range: van der Corput's sequence, base 2."""
    bits = max(count - 1, 1).bit_length()
    return sorted(range(count), key=lambda index: f"{index:0{bits}b}"[::-1])


def split_by_tokens(
    reviews: Sequence[Review], costs: Sequence[int], window: int
) -> list[list[int]]:
    """Positions of reviews in groups of one fold that fit a window each; arguments as above.

    Views of one entity differ by one fold, so that the groups of all other folds are the same in
    each view, and each is summarised only once.
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
