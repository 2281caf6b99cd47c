"""Reviews fitted into the context window of a language model, sanitized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from mmrec.llm.prompts import frame_text
from mmrec.llm.sanitize import sanitize
from mmrec.llm.token_estimates import (
    max_review_tokens,
    select_representative,
    split_by_tokens,
    truncate_text,
)
from mmrec.llm.types import Review

__all__ = ["ContextWindow", "Texts"]

Texts = tuple[str, ...]


class ContextWindow:
    """Fits reviews into prompts.

    Args:
        count_tokens: tokens of texts, by the model's tokenizer where that is known.
        size: most tokens of reviews in one prompt, with the lines around them.
    """

    def __init__(self, count_tokens: Callable[[Sequence[str]], list[int]], size: int) -> None:
        # Cached, since under the policy `fold` a review is in some twenty groups.
        self._count = cache(lambda text: count_tokens([text])[0])
        self._fit = cache(lambda text, limit: truncate_text(sanitize(text), limit, self._count))
        self._size = size

    def fit_text(self, text: str) -> Texts:
        """One text for a prompt of its own; () where it is blank."""
        fitted = self._fit(text, self._max_tokens(1))
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
        limit = self._max_tokens(len(group))
        reviews, tokens = [], []
        for review in sorted(group, key=lambda review: (review.time, review.text)):
            if text := self._fit(review.text, limit):
                reviews.append(review._replace(text=text))
                tokens.append(self._count(text) + self._frame_tokens)
        return reviews, tokens

    def _max_tokens(self, reviews: int) -> int:
        return max_review_tokens(self._size - self._frame_tokens, reviews)

    @property
    def _frame_tokens(self) -> int:
        """Tokens of the lines around a text."""
        return self._count(frame_text("", 10, "0" * 12))
