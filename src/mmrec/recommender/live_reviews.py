"""Live reviews: what each user says of each item since the fit, in place of what the fit knows of both."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmrec.data.schema import EntityKind, Interactions
from mmrec.llm.types import Note


@dataclass(frozen=True)
class LiveReview:
    """A review that came after the fit."""

    user: str
    item: str
    rating: float
    text: str
    review_id: str
    note: Note
    date: str = ""  # YYYY-MM-DD; "" if unknown

    @property
    def content(self) -> tuple[float, str]:
        """What it says; two reviews of a pair that say the same are one."""
        return self.rating, self.text


Voices = Mapping[int, LiveReview | None]
"""By code of the other side: the review that counts, or None where a review was withdrawn."""


class LiveReviews:
    """The last word of each user on each item, by codes.

    A person has one voice for an item: a live review takes the place of all earlier reviews of the
    pair, also of those that the model was fitted on.
    """

    def __init__(self, data: Interactions) -> None:
        self._data = data  # of the fit
        self._voices: dict[EntityKind, dict[int, dict[int, LiveReview | None]]] = {
            "user": defaultdict(dict),
            "item": defaultdict(dict),
        }
        self._changes = Counter[tuple[EntityKind, int]]()

    def put(self, user: int, item: int, review: LiveReview | None) -> None:
        """Let a review, or none, be what a user says of an item; the latest stands last."""
        sides: tuple[tuple[EntityKind, int, int], ...] = (
            ("user", user, item),
            ("item", item, user),
        )
        for kind, code, other in sides:
            voices = self._voices[kind][code]
            voices.pop(other, None)
            voices[other] = review
            self._changes[kind, code] += 1

    def of(self, kind: EntityKind, code: int) -> Voices:
        """Live reviews by a user, or of an item, in the order of their arrival."""
        return self._voices[kind].get(code, {})

    def reviews(self, kind: EntityKind, code: int) -> list[LiveReview]:
        """The same without those that were withdrawn."""
        return [review for review in self.of(kind, code).values() if review is not None]

    def changes(self, kind: EntityKind, code: int) -> int:
        """How often the reviews by a user, or of an item, have changed."""
        return self._changes[kind, code]

    def fitted_rows(self, kind: EntityKind, code: int) -> np.ndarray:
        """(k,) rows of the fit's reviews by a user, or of an item, that still count."""
        data = self._data
        known, others = (data.users, data.item) if kind == "user" else (data.items, data.user)
        if code >= len(known):
            return np.zeros(0, dtype=np.int64)
        rows = data.rows_of(kind, code)
        if not (voices := self.of(kind, code)):
            return rows
        return rows[~np.isin(others[rows], [*voices])]

    def ratings(self, kind: EntityKind, code: int) -> tuple[np.ndarray, np.ndarray]:
        """(k,) codes of the items that a user rated, or of the users who rated an item; ratings."""
        rows = self.fitted_rows(kind, code)
        others = (self._data.item if kind == "user" else self._data.user)[rows]
        ratings = self._data.rating[rows].astype(np.float64)
        voices = self.of(kind, code)
        live = [(other, review.rating) for other, review in voices.items() if review is not None]
        if not live:
            return others, ratings
        codes, stars = zip(*live, strict=True)
        return np.append(others, np.array(codes)), np.append(ratings, np.array(stars, dtype=float))
