"""The one place where a served model is asked and changed: answers, and live reviews as they come."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from mmrec.errors import DataError
from mmrec.explain import Explanation, Quote
from mmrec.language.base import Note
from mmrec.recommend import Recommender
from mmrec.service.ledger import Ledger

__all__ = ["Desk", "Reasoned"]

log = logging.getLogger("mmrec.service")
_LOOK_EVERY = 0.5  # seconds between two looks for reviews that other workers took in


@dataclass(frozen=True)
class Reasoned:
    """An item for someone: its row of `Recommender.recommend`, and why it is there."""

    row: dict[str, Any]
    why: Explanation | None


class Desk:
    """A recommender that hears live reviews, of this process and of others.

    Args:
        recommender: the model, as it was saved.
        ledger: where live reviews are kept; those in there are heard first.
    """

    def __init__(self, recommender: Recommender, ledger: Ledger) -> None:
        self.recommender, self._ledger = recommender, ledger
        self._lock = threading.RLock()
        self._heard, self._looked = 0, 0.0
        self.catch_up(at_once=True)

    @property
    def heard(self) -> int:
        """Number of the last live review that the model knows."""
        return self._heard

    def catch_up(self, *, at_once: bool = False) -> None:
        """Hear reviews that have come since; not asked too often unless `at_once`.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._lock:
            if not at_once and time.monotonic() - self._looked < _LOOK_EVERY:
                return
            while found := self._ledger.since(self._heard):
                for one in found:
                    self._heard = one.number
                    try:
                        note = Note.model_validate_json(one.note)
                        self.recommender.add(one.user, one.item, one.rating, one.text, one.review_id, note)
                    except Exception as error:  # one that cannot be heard must not silence all others
                        # Its kind alone: the message may quote the review.
                        log.error("live review number %d was left out: %s", one.number, type(error).__name__)
            self._looked = time.monotonic()

    def take_in(self, user: str, item: str, rating: float, text: str, review_id: str | None = None) -> str:
        """Read a review, keep it, and hear it; its id.

        Args:
            user, item, rating, text: the review.
            review_id: the caller's own, so that what is sent twice counts once.
        """
        review_id = review_id or uuid.uuid4().hex
        with self._lock:  # the store of what was read is for one thread at a time
            written = self.recommender.read(text).model_dump_json()
        self._ledger.add(review_id, user=user, item=item, rating=rating, text=text, note=written)
        self.catch_up(at_once=True)
        return review_id

    def recommend(self, user: str | None, n: int, *, why: bool = False, **how: Any) -> list[Reasoned]:
        """As `Recommender.recommend`, with reasons where wanted."""
        with self._lock:
            found = self.recommender.recommend(user, n, **how)
            asking = {name: how[name] for name in ("likes", "liked") if name in how}
            return [
                Reasoned(row, self.recommender.explain(user, row["item"], **asking) if why else None)
                for row in found.to_dicts()
            ]

    def predict(self, users: list[str], items: list[str]) -> list[float]:
        """As `Recommender.predict`."""
        with self._lock:
            return self.recommender.predict(users, items).tolist()

    def described(self, item: str) -> dict[str, Any]:
        """An item's id, name, price and categories.

        Raises:
            DataError: nobody has reviewed it.
        """
        code, shelf = self._code(item), self.recommender.shelf
        return {
            "item": item,
            "name": shelf.name(code),
            "price": shelf.price(code),
            "categories": shelf.categories(code),
        }

    def sayings(self, item: str, most: int = 5) -> tuple[list[Quote], list[Quote]]:
        """What is liked and disliked about an item, the most typical first.

        Raises:
            DataError: nobody has reviewed it.
        """
        code = self._code(item)
        with self._lock:
            return self.recommender.sayings(code, most)

    def photos(self, item: str) -> list[tuple[str, str]]:
        """Path and caption ("" where there is none) of each photo of an item."""
        return self.recommender.shelf.photos(self._code(item))

    def reviewed(self, user: str) -> list[str]:
        """Ids of what a user has reviewed; of a stranger, none."""
        code, shelf = self.recommender.live.codes["user"].get(user), self.recommender.shelf
        return [] if code is None else [shelf.items[item] for item in shelf.reviewed(code).tolist()]

    def search(self, text: str, n: int) -> list[str]:
        """Ids of items whose name has the text in it, then of those that are spoken of in such words."""
        with self._lock:
            return self.recommender.search(text, n)

    def _code(self, item: str) -> int:
        if (code := self.recommender.live.codes["item"].get(item)) is None:
            raise DataError(f"no review speaks of item {item!r}; check the id")
        return code
