"""The one place where a served model is asked and changed: answers, and live reviews as they come."""

from __future__ import annotations

import io
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmrec.errors import DataError, MmrecError, ModelError, StoreError
from mmrec.features.dataset import Models
from mmrec.llm.types import Note
from mmrec.pipeline import open_models
from mmrec.recommender.explain import Explanation, Quote, with_sentences
from mmrec.recommender.recommender import Recommender
from mmrec.service.live_store import LiveStore, StoredItem, StoredReview
from mmrec.vision.image_features import PhotoAnnotator, encode_thumbnail

__all__ = ["ExplainedItem", "ItemExistsError", "RecommendationService"]

log = logging.getLogger("mmrec.service")
_LOOK_EVERY = 0.5  # seconds between two looks for reviews that other workers took in


class ItemExistsError(MmrecError):
    """An item that is to be introduced is known already."""


@dataclass(frozen=True)
class ExplainedItem:
    """An item for someone: its row of `Recommender.recommend`, and why it is there."""

    row: dict[str, Any]
    explanation: Explanation | None


class RecommendationService:
    """A recommender that hears live reviews, of this process and of others.

    Args:
        recommender: the model, as it was saved.
        store: where live reviews are kept; those in there are heard first.
        sentences: whether a language model writes one for every reason.
    """

    def __init__(
        self, recommender: Recommender, store: LiveStore, *, sentences: bool = False
    ) -> None:
        self.recommender, self._ledger = recommender, store
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        config = recommender.config
        slow = config.language.llm != "builtin" or config.vision.captioner != "builtin"
        # What takes its time has a store of its own, so that nobody who only asks waits for it.
        self._aside = open_models(config) if slow else None
        self._sentences = sentences
        self._photos: dict[str, str] = {}
        self._heard, self._introduced, self._looked = 0, 0, 0.0
        self._known = frozenset(recommender.online.codes["item"])
        recommender.warm_up()
        self.catch_up(immediately=True)

    @property
    def last_review_number(self) -> int:
        """Number of the last live review that the model knows."""
        return self._heard

    def catch_up(self, *, immediately: bool = False) -> None:
        """Hear reviews that have come since; not asked too often unless `immediately`.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._lock:
            if not immediately and time.monotonic() - self._looked < _LOOK_EVERY:
                return
            while items := self._ledger.since(StoredItem, self._introduced):
                for item in items:
                    self._hear(item.number, "item", partial(self._introduce, item))
                    self._introduced = item.number
            while reviews := self._ledger.since(StoredReview, self._heard):
                for one in reviews:
                    said = (one.user, one.item, one.rating, one.text, one.review_id, one.note)
                    self._hear(one.number, "review", partial(self._add, *said))
                    self._heard = one.number
            self._looked = time.monotonic()

    def _hear(self, number: int, what: str, hear: Callable[[], None]) -> None:
        try:
            hear()
        except (ModelError, StoreError):
            raise  # it is not the review's fault: it is heard at the next look
        except Exception as error:  # one that cannot be heard must not silence all others
            # Its kind alone: the message may quote the review.
            log.error("live %s number %d was left out: %s", what, number, type(error).__name__)

    def _add(
        self, user: str, item: str, rating: float, text: str, review_id: str, note: str
    ) -> None:
        self.recommender.add_review(
            user, item, rating, text, review_id, Note.model_validate_json(note)
        )

    def _introduce(self, one: StoredItem) -> None:
        captions = [one.caption] if one.caption else []
        note = Note.model_validate_json(one.note)
        if one.caption is not None:
            self._photos[one.item] = one.caption
        how: dict[str, Any] = {
            "name": one.name,
            "description": one.description,
            "captions": captions,
        }
        self.recommender.add_item(one.item, **how, note=note)

    @contextmanager
    def _readers(self) -> Iterator[Models]:
        """What reads, for one thread at a time; the builtin readers are quick, so all may wait for them."""
        if self._aside is None:
            with self._lock:
                yield self.recommender.models
        else:
            with self._reading:
                yield self._aside

    def add_review(
        self, user: str, item: str, rating: float, text: str, review_id: str | None = None
    ) -> str:
        """Read a review, keep it, and hear it; its id.

        Args:
            user, item, rating, text: the review.
            review_id: the caller's own, so that what is sent twice counts once.
        """
        review_id = review_id or uuid.uuid4().hex
        note = self._read(text)
        self._ledger.add(
            StoredReview(
                review_id=review_id, user=user, item=item, rating=rating, text=text, note=note
            )
        )
        self.catch_up(immediately=True)
        return review_id

    def _read(self, text: str) -> str:
        with self._readers() as models:
            (note,) = models.annotator.write_notes([text])
        return note.model_dump_json()

    def add_item(
        self, item: str, name: str | None, description: str, photo: bytes | None
    ) -> str | None:
        """Keep an item that is new, and know it; what its photo shows, where it has one.

        Raises:
            PhotoError: the photo cannot be read.
            DataError: there is nothing in it that the model can use.
            AlreadyKnown: the item is the model's, or was introduced in other words.
        """
        if item in self._known:
            raise ItemExistsError(f"{item!r} is known already; tell more of it in a review")
        small, caption = None, None
        if photo is not None:
            config = self.recommender.config.read
            small = encode_thumbnail(io.BytesIO(photo), config.max_pixels)
            with tempfile.NamedTemporaryFile(suffix=".jpg") as file, self._readers() as models:
                file.write(small)
                file.flush()
                caption = PhotoAnnotator(models.store, config.max_pixels).caption_photo(
                    Path(file.name), models.captioner
                )
        self.recommender.online.check_item_content(description, [caption] if caption else [])
        kept = {"name": name, "description": description, "note": self._read(description)}
        if not self._ledger.add(StoredItem(item=item, caption=caption, photo=small, **kept)):
            told = self._ledger.find_item(item)
            if (told.name, told.description, told.caption) != (name, description, caption):
                raise ItemExistsError(
                    f"{item!r} was introduced before; tell more of it in a review"
                )
        self.catch_up(immediately=True)
        return caption

    def recommend(
        self, user: str | None, n: int, *, why: bool = False, **how: Any
    ) -> list[ExplainedItem]:
        """As `Recommender.recommend`, with reasons where wanted."""
        with self._lock:
            rows = self.recommender.recommend(user, n, **how).to_dicts()
            if not why:
                return [ExplainedItem(row, None) for row in rows]
            asking = {name: how[name] for name in ("likes", "liked") if name in how}
            reasons = [self.recommender.explain(user, row["item"], **asking) for row in rows]
        if self._sentences:
            with self._readers() as models:
                reasons = with_sentences(reasons, models.annotator.write_reasons)
        return [ExplainedItem(row, reason) for row, reason in zip(rows, reasons, strict=True)]

    def predict(self, users: list[str], items: list[str]) -> list[float]:
        """As `Recommender.predict`."""
        with self._lock:
            return self.recommender.predict(users, items).tolist()

    def describe_item(self, item: str) -> dict[str, Any]:
        """An item's id, name, price and categories.

        Raises:
            DataError: nobody has reviewed it.
        """
        with self._lock:
            code, shelf = self._code(item), self.recommender.catalog
            return {
                "item": item,
                "name": shelf.name(code),
                "price": shelf.price(code),
                "categories": shelf.categories(code),
            }

    def typical_quotes(self, item: str, limit: int = 5) -> tuple[list[Quote], list[Quote]]:
        """What is liked and disliked about an item, the most typical first.

        Raises:
            DataError: nobody has reviewed it.
        """
        code = self._code(item)
        with self._lock:
            return self.recommender.typical_quotes(code, limit)

    def summary_quote(self, item: str) -> Quote | None:
        """A sentence about an item that stands for most of them.

        Raises:
            DataError: nobody has reviewed it.
        """
        code = self._code(item)
        with self._lock:
            return self.recommender.summary_quote(code)

    def photos(self, item: str) -> list[tuple[str, str]]:
        """Path ("" of one that came with a live item) and caption ("" without one) of an item's photos."""
        with self._lock:
            live = [("", self._photos[item])] if item in self._photos else []
            return [*live, *self.recommender.catalog.photos(self._code(item))]

    def live_photo(self, item: str) -> bytes:
        """The JPEG that a live item came with."""
        return self._ledger.photo(item) or b""

    def reviewed_items(self, user: str) -> list[str]:
        """Ids of what a user has reviewed; of a stranger, none."""
        with self._lock:
            code, shelf = self.recommender.online.codes["user"].get(user), self.recommender.catalog
            return (
                []
                if code is None
                else [shelf.items[item] for item in shelf.reviewed_items(code).tolist()]
            )

    def similar_items(self, item: str, n: int) -> list[tuple[str, float]]:
        """As `Recommender.similar_items`."""
        with self._lock:
            return self.recommender.similar_items(item, n)

    def similar_users(self, user: str, n: int) -> list[tuple[str, float]]:
        """As `Recommender.similar_users`."""
        with self._lock:
            return self.recommender.similar_users(user, n)

    def common_categories(self, limit: int) -> list[str]:
        """Categories of most items."""
        with self._lock:
            return self.recommender.catalog.common_categories(limit)

    def search(self, text: str, n: int) -> list[str]:
        """Ids of items whose name has the text in it, then of those that are spoken of in such words."""
        with self._lock:
            return self.recommender.search(text, n)

    def _code(self, item: str) -> int:
        if (code := self.recommender.online.codes["item"].get(item)) is None:
            raise DataError(f"no review speaks of item {item!r}; check the id")
        return code
