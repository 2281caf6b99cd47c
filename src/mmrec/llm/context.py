"""Reviews as they go into calls: visible letters only, and no more of them than a model's window holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

from mmrec.llm.prompts import frame_text, sanitize
from mmrec.llm.token_estimates import (
    max_review_tokens,
    select_representative,
    split_by_tokens,
    truncate_text,
)
from mmrec.llm.types import Review

__all__ = ["ContextWindow", "Texts"]

Texts = tuple[str, ...]


class _Shown(NamedTuple):
    """A text as it goes into a prompt, and its tokens there."""

    text: str
    cost: int


class ContextWindow:
    """Fits reviews into calls.

    Args:
        count: tokens of texts, by the model's tokenizer where it is known.
        window: most tokens of reviews in one call, with the lines around them.
    """

    def __init__(self, count: Callable[[Sequence[str]], list[int]], window: int) -> None:
        self._count = count
        self._window = window
        self._known: dict[tuple[str, int], _Shown] = {}

    def fit_text(self, text: str) -> Texts:
        """One text for a call of its own; nothing where it is blank."""
        shown = self._shown(text, max_review_tokens(self._window - self._frame, 1))
        return (shown.text,) if shown.text else ()

    def sample_reviews(self, group: Sequence[Review]) -> Texts:
        """Texts of a group that fit into one call and cover its ratings and times, in the order of time."""
        reviews, shown = self._in_order(group)
        chosen = select_representative(reviews, [one.cost for one in shown], self._window)
        return tuple(shown[at].text for at in chosen)

    def split_reviews(self, group: Sequence[Review]) -> list[Texts]:
        """All texts of a group, in as many calls as they take; a sample where a call holds only one."""
        reviews, shown = self._in_order(group)
        costs = [one.cost for one in shown]
        if sum(costs) <= self._window:
            return [tuple(one.text for one in shown)]
        parts = split_by_tokens(reviews, costs, self._window)
        if len(parts) == len(shown):
            return [self.sample_reviews(group)]
        return [tuple(shown[at].text for at in part) for part in parts]

    def _in_order(self, group: Sequence[Review]) -> tuple[list[Review], list[_Shown]]:
        """The reviews that say something, by time."""
        own = max_review_tokens(self._window - self._frame, len(group))
        ordered = sorted(group, key=lambda review: (review.time, review.text))
        shown = [(review, self._shown(review.text, own)) for review in ordered]
        spoken = [(review, one) for review, one in shown if one.text]
        return [review for review, _ in spoken], [one for _, one in spoken]

    def _shown(self, text: str, limit: int) -> _Shown:
        # Kept, since under `fold` a review is in some twenty groups.
        if (text, limit) not in self._known:
            shown = truncate_text(sanitize(text), limit, lambda one: self._count([one])[0])
            self._known[text, limit] = _Shown(shown, self._count([shown])[0] + self._frame)
        return self._known[text, limit]

    @cached_property
    def _frame(self) -> int:
        """Tokens of the lines around a text."""
        return self._count([frame_text("", 10, "0" * 12)])[0]
