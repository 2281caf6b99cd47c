"""The service behind the API and the pages: a recommender that takes in live reviews and items."""

from __future__ import annotations

import io
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request

from mmrec.data.images import encode_thumbnail
from mmrec.errors import DataError, MmrecError, ModelError, PhotoError, StoreError
from mmrec.features.dataset import Models
from mmrec.llm.types import Note
from mmrec.pipeline import open_models
from mmrec.recommender.explain import with_sentences
from mmrec.recommender.recommender import Recommender
from mmrec.service.live_store import Entry, LiveStore, StoredItem, StoredReview
from mmrec.vision.image_features import PhotoAnnotator

__all__ = ["ItemExistsError", "RecommendationService", "current_service"]

log = logging.getLogger("mmrec.service")


class ItemExistsError(MmrecError):
    """An item that is to be added exists already."""


class RecommendationService:
    """A recommender with the live reviews and items of this process and of others.

    Args:
        recommender: the model as it was saved.
        store: live reviews and items; those in it are added to the recommender first.
        sentences: whether a language model writes a sentence for every explanation.

    Methods that name an item raise a DataError if it is unknown.
    """

    def __init__(
        self, recommender: Recommender, store: LiveStore, *, sentences: bool = False
    ) -> None:
        self._recommender, self._store, self._sentences = recommender, store, sentences
        self._lock = threading.RLock()  # guards the recommender
        self._slow_models_lock = threading.Lock()
        config = recommender.config
        is_slow = config.language.llm != "builtin" or config.vision.captioner != "builtin"
        # Slow models have a cache of their own: requests without new text need not wait for them.
        self._slow_models = open_models(config) if is_slow else None
        for models in filter(None, (recommender.models, self._slow_models)):
            # Visitors do not wait for a long run on the same store, unless they would pay for it again.
            models.store.max_wait = 1.0
        self._live_captions: dict[str, str] = {}  # by item, where a live item has a photo
        # Of the entries in the recommender. Items come first: their descriptions count even if a
        # review of them was stored before.
        self._last_numbers: dict[type[Entry], int] = {StoredItem: 0, StoredReview: 0}
        self._last_poll = 0.0
        self._saved_items = frozenset(recommender.state.online.codes["item"])
        recommender.state.warm_up()
        self.catch_up(immediately=True)

    @property
    def last_review_number(self) -> int:
        """Number of the live review that the recommender has taken in last."""
        return self._last_numbers[StoredReview]

    @contextmanager
    def recommender(self) -> Iterator[Recommender]:
        """The recommender, which no other thread reads or changes meanwhile."""
        with self._lock:
            yield self._recommender

    def catch_up(self, *, immediately: bool = False, poll_seconds: float = 0.5) -> None:
        """Take in live reviews and items that were stored since the last call, by any process.

        Args:
            immediately: read the store even if the last call was less than `poll_seconds` ago.
            poll_seconds: how long reviews of other processes may go unnoticed.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._lock:
            if not immediately and time.monotonic() - self._last_poll < poll_seconds:
                return
            for table in self._last_numbers:
                while entries := self._store.since(table, self._last_numbers[table]):
                    for entry in entries:
                        self._take_in(entry)
                        self._last_numbers[table] = entry.number
            self._last_poll = time.monotonic()

    def _take_in(self, entry: Entry) -> None:
        try:
            note = Note.model_validate_json(entry.note)
            if isinstance(entry, StoredReview):
                review = entry.user, entry.item, entry.rating, entry.text, entry.review_id
                self._recommender.add_review(*review, note)
            elif isinstance(entry, StoredItem):
                if entry.caption is not None:
                    self._live_captions[entry.item] = entry.caption
                captions = [entry.caption] if entry.caption else []
                self._recommender.add_item(
                    entry.item,
                    name=entry.name,
                    description=entry.description,
                    captions=captions,
                    note=note,
                )
        except (ModelError, StoreError):
            raise  # not the entry's fault: the next call tries again
        except Exception as error:  # a broken entry must not keep out those after it
            # The message is not logged, since it may quote the review.
            table, reason = entry.__tablename__, type(error).__name__
            log.error("%s: number %d was left out: %s", table, entry.number, reason)

    @contextmanager
    def _models(self) -> Iterator[Models]:
        """Models that annotate reviews and photos, for one thread at a time."""
        if self._slow_models is None:
            with self._lock:
                yield self._recommender.models
        else:
            with self._slow_models_lock:
                yield self._slow_models

    def _write_note(self, text: str) -> str:
        with self._models() as models:
            (note,) = models.annotator.write_notes([text])
        return note.model_dump_json()

    def add_review(
        self, user: str, item: str, rating: float, text: str, review_id: str | None = None
    ) -> str:
        """Annotate a review, store it, and take it in; return its id.

        A client may choose the id, so that a review that is sent twice counts once.
        """
        values = {"user": user, "item": item, "rating": rating, "text": text}
        review_id = review_id or uuid.uuid4().hex
        self._store.add(StoredReview(**values, review_id=review_id, note=self._write_note(text)))
        self.catch_up(immediately=True)
        return review_id

    def add_item(
        self, item: str, name: str | None, description: str, photo: bytes | None
    ) -> str | None:
        """Annotate a new item, store it, and take it in.

        Returns:
            The caption of its photo; None without a photo.

        Raises:
            PhotoError: the photo cannot be read.
            DataError: neither description nor photo has anything that the model can use.
            ItemExistsError: the item is the model's, or was added with other content.
        """
        if item in self._saved_items:
            raise ItemExistsError(f"item {item!r} exists already; add a review of it instead")
        small, caption = (None, None) if photo is None else self._caption(photo)
        self._recommender.state.online.check_item_content(description, [caption] if caption else [])
        content = {"name": name, "description": description, "caption": caption}
        note = self._write_note(description)
        if not self._store.add(StoredItem(item=item, photo=small, note=note, **content)):
            stored = self._store.find_item(item)
            if any(getattr(stored, field) != value for field, value in content.items()):
                raise ItemExistsError(f"item {item!r} was added before; add a review of it instead")
        self.catch_up(immediately=True)
        return caption

    def _caption(self, photo: bytes) -> tuple[bytes, str | None]:
        """The photo as a small JPEG without metadata, and its caption."""
        max_pixels = self._recommender.config.read.max_pixels
        small = encode_thumbnail(io.BytesIO(photo), max_pixels)
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file, self._models() as models:
            file.write(small)
            file.flush()
            annotator = PhotoAnnotator(models.store, max_pixels)
            return small, annotator.caption_photo(Path(file.name), models.captioner)

    def recommend(
        self, user: str | None, n: int, *, why: bool = False, **options: Any
    ) -> list[dict[str, Any]]:
        """Rows of `Recommender.recommend`, each with an `Explanation` or None as `why`."""
        with self._lock:
            rows = self._recommender.recommend(user, n, **options).to_dicts()
            tastes = {name: options[name] for name in ("likes", "liked") if name in options}
            explained = [row["item"] for row in rows if why]
            explanations = [self._recommender.explain(user, item, **tastes) for item in explained]
        if explanations and self._sentences:
            with self._models() as models:
                explanations = with_sentences(explanations, models.annotator.write_reasons)
        for row, explanation in zip_longest(rows, explanations):
            row["why"] = explanation
        return rows

    def describe_item(self, item: str) -> dict[str, Any]:
        """Id, name, price tag and categories of an item."""
        with self._lock:
            codes = np.array([self._item_code(item)])
            rows = self._recommender.state.catalog.describe(codes)
        return rows.row(0, named=True)

    def item_profile(self, item: str, limit: int = 5) -> dict[str, Any]:
        """`describe_item`, the most typical sentence (`summary`), and `limit` likes and dislikes."""
        profile = self.describe_item(item)
        with self._lock:
            code, explainer = self._item_code(item), self._recommender.state.explainer
            profile["likes"], profile["dislikes"] = explainer.typical_quotes(code, limit)
            return {**profile, "summary": explainer.summary_quote(code)}

    def photos(self, item: str) -> list[tuple[str, str]]:
        """Path and caption of an item's photos, for visitors.

        The photo of a live item is in the database and has the path "". Captions of the builtin
        captioner are left out (""): it names colours, which tell visitors nothing.
        """
        with self._lock:
            photos = self._recommender.state.catalog.photos(self._item_code(item))
            if item in self._live_captions:
                photos = [("", self._live_captions[item]), *photos]
            if self._recommender.config.vision.captioner == "builtin":
                return [(path, "") for path, _ in photos]
            return photos

    def photo(self, item: str, index: int) -> bytes:
        """One of the item's `photos` as a small JPEG without metadata.

        Raises:
            DataError: there is no such photo, or it cannot be read.
        """
        photos = self.photos(item)
        if index >= len(photos):
            raise DataError(f"{item!r} has {len(photos)} photos")
        path, _ = photos[index]
        if not path:
            return self._store.find_item(item).photo or b""
        try:
            return _thumbnail(path, self._recommender.config.read.max_pixels)
        except PhotoError as error:
            raise DataError(f"photo {index} of {item!r} cannot be shown: {error}") from error

    def reviewed_items(self, user: str) -> list[str]:
        """Ids of the items that a user has reviewed; none for an unknown user."""
        with self._lock:
            online = self._recommender.state.online
            code = online.codes["user"].get(user)
            rows = [] if code is None else online.reviewed_items(code).tolist()
            return [online.ids["item"][item] for item in rows]

    def _item_code(self, item: str) -> int:
        if (code := self._recommender.state.online.codes["item"].get(item)) is None:
            raise DataError(f"there is no review of item {item!r}; check the id")
        return code


@lru_cache(maxsize=512)
def _thumbnail(path: str, max_pixels: int) -> bytes:
    return encode_thumbnail(Path(path), max_pixels)


def current_service(request: Request) -> RecommendationService:
    """The service that handles a request, with all reviews that were stored so far."""
    service: RecommendationService = request.app.state.service
    service.catch_up()
    return service
