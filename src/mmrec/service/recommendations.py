"""A recommender that takes in live reviews and items, for the API and the pages."""

import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

import numpy as np
from starlette.requests import Request

from mmrec.data.images import encode_thumbnail
from mmrec.errors import DataError, MmrecError, ModelError, PhotoError, StoreError
from mmrec.llm.types import Note, Wish
from mmrec.pipeline import open_models
from mmrec.recommender.explain import Explanation, with_sentences
from mmrec.recommender.recommender import Recommender
from mmrec.service.live_store import Entry, LiveStore, StoredItem, StoredReview
from mmrec.service.schemas import Item, ItemProfile, Recommendation
from mmrec.vision.image_features import PhotoAnnotator

log = logging.getLogger("mmrec.service")


class ItemExistsError(MmrecError):
    """An item that is to be added exists already."""


class RecommendationService:
    """A saved recommender with live reviews and items; a DataError means an unknown item.

    With `sentences` a language model writes one for every explanation; photos of new items may have
    `max_pixels`.
    """

    def __init__(
        self,
        recommender: Recommender,
        store: LiveStore,
        sentences: bool = False,
        max_pixels: int = 25_000_000,
    ) -> None:
        self._recommender, self._store, self._sentences = recommender, store, sentences
        self._max_pixels = max_pixels
        self._lock = threading.RLock()  # guards the recommender
        self._models, config = recommender.models, recommender.config
        self._models_lock: AbstractContextManager[Any] = self._lock
        # The builtin captioner names colours, which tell visitors nothing.
        self._shows_captions = config.vision.captioner != "builtin"
        if config.language.llm != "builtin" or self._shows_captions:
            # They are slow: requests without new text do not wait for them.
            self._models, self._models_lock = open_models(config), threading.Lock()
        for models in (recommender.models, self._models):
            # Visitors wait for a long run on the store only if they would pay again.
            models.store.max_wait = 1.0
        self._live_captions: dict[str, str] = {}  # by item, where a live item has a photo
        # Of the entries in the recommender. Items come first: their descriptions count
        # even if a review of them was stored before.
        self.last_numbers: dict[type[Entry], int] = {StoredItem: 0, StoredReview: 0}
        self._last_poll = 0.0
        self._saved_items = frozenset(recommender.state.online.codes["item"])
        recommender.state.warm_up()
        self.catch_up(immediately=True)

    @contextmanager
    def recommender(self) -> Iterator[Recommender]:
        """The recommender with all reviews that were stored so far, for this thread alone."""
        with self._lock:
            self.catch_up()
            yield self._recommender

    def catch_up(self, *, immediately: bool = False) -> None:
        """Take in what any process has stored; reads at most every half a second."""
        with self._lock:
            if not immediately and time.monotonic() - self._last_poll < 0.5:
                return
            for table in self.last_numbers:
                while entries := self._store.since(table, self.last_numbers[table]):
                    for entry in entries:
                        self._take_in(entry)
                        self.last_numbers[table] = entry.number
            self._last_poll = time.monotonic()

    def _take_in(self, entry: Entry) -> None:
        try:
            note = Note.model_validate_json(entry.note)
            if isinstance(entry, StoredReview):
                review = entry.user, entry.item, entry.rating, entry.text, entry.review_id
                self._recommender.add_review(*review, note, entry.created)
            elif isinstance(entry, StoredItem):
                options: dict[str, Any] = {"name": entry.name, "description": entry.description}
                if entry.caption is not None:
                    self._live_captions[entry.item] = entry.caption
                    options["captions"] = [entry.caption]
                self._recommender.add_item(entry.item, note=note, **options)
        except (ModelError, StoreError):
            raise  # not the entry's fault: the next call tries again
        except Exception as error:  # a broken entry must not keep out those after it
            # The message is not logged, since it may quote the review.
            table, reason = entry.__tablename__, type(error).__name__
            log.error("%s: number %d was left out: %s", table, entry.number, reason)

    def _write_note(self, text: str) -> str:
        with self._models_lock:
            return self._models.annotator.write_notes([text])[0].model_dump_json()

    def add_review(
        self, user: str, item: str, rating: float, text: str, review_id: str | None = None
    ) -> str:
        """Annotate a review, store it, take it in; return its id, if need be a new one."""
        values = {"user": user, "item": item, "rating": rating, "text": text}
        values["review_id"] = review_id = review_id or uuid.uuid4().hex
        self._store.add(StoredReview(**values, note=self._write_note(text)))
        self.catch_up(immediately=True)
        return review_id

    def add_item(
        self, item: str, name: str | None, description: str, photo: IO[bytes] | None
    ) -> str | None:
        """Annotate a new item, store it, take it in; return a caption of its photo.

        Raises a PhotoError or DataError for unusable content, and an ItemExistsError for an
        item of the model, or with other content.
        """
        if item in self._saved_items:
            raise ItemExistsError(f"item {item!r} exists already; add a review of it instead")
        small = caption = None
        if photo is not None:
            small = encode_thumbnail(photo, self._max_pixels)
            with tempfile.NamedTemporaryFile(suffix=".jpg") as file, self._models_lock:
                file.write(small)
                file.flush()
                annotator = PhotoAnnotator(self._models.store, self._max_pixels)
                caption = annotator.caption_photo(Path(file.name), self._models.captioner)
        captions = [caption] if caption else []
        self._recommender.state.online.check_item_content(description, captions)
        content = {"name": name, "description": description, "caption": caption}
        note = self._write_note(description)
        if not self._store.add(StoredItem(item=item, photo=small, note=note, **content)):
            stored = self._store.find_item(item)
            if any(getattr(stored, field) != value for field, value in content.items()):
                raise ItemExistsError(f"item {item!r} was added before; add a review of it instead")
        self.catch_up(immediately=True)
        return caption if self._shows_captions else None

    def recommend(
        self, user: str | None, *, n: int, why: bool, offset: int = 0, **options: Any
    ) -> list[Recommendation]:
        """A list of `Recommender.recommend`, after the first `offset`, with explanations if `why`."""
        explanations: list[Explanation] = []
        if isinstance(options.get("likes"), str):
            options["likes"] = self.parse_wish(options["likes"])
        understood = str(options["likes"]) if options.get("likes") else None
        tastes = {name: options[name] for name in ("likes", "liked") if name in options}
        with self.recommender() as recommender:
            recommender.state.catalog.check_categories(options.get("categories", ()))
            rows = recommender.recommend(user, n + offset, **options).to_dicts()[offset:]
            if why and rows:
                items = [row["item"] for row in rows]
                explanations = recommender.explain_list(user, items, **tastes)
        if explanations and self._sentences:
            with self._models_lock:
                explanations = with_sentences(explanations, self._models.annotator.write_reasons)
        pairs = zip_longest(rows, explanations)
        shared: dict[str, Any] = {"understood": understood}
        return [Recommendation(**row, why=why, **shared) for row, why in pairs]

    def parse_wish(self, text: str) -> Wish:
        """What a text says is wanted; a slow language model keeps no other request waiting."""
        wish: Wish | None = None
        if self._models is not self._recommender.models:
            with self._models_lock:
                (wish,) = self._models.annotator.read_wishes([text])
                if wish is None:
                    log.warning("a wish was read by rules: the language model did not answer")
        with self.recommender() as recommender:
            catalog = recommender.state.catalog
            return catalog.resolve_names(wish) if wish else catalog.parse_wish(text)

    def describe_items(self, items: Sequence[str]) -> list[Item]:
        """Names, price tags and categories of items."""
        with self.recommender() as recommender:
            codes = np.array(recommender.state.online.item_codes(items), dtype=np.int64)
            return [Item(**row) for row in recommender.state.catalog.describe(codes).to_dicts()]

    def item_profile(self, item: str) -> ItemProfile:
        """An item with a typical sentence of its reviews, likes and dislikes."""
        with self.recommender() as recommender:
            (described,) = self.describe_items([item])
            (code,) = recommender.state.online.item_codes([item])
            likes, dislikes = recommender.state.explainer.typical_quotes(code, 5)
            summary = recommender.state.explainer.summary_quote(code)
        return ItemProfile(**dict(described), summary=summary, likes=likes, dislikes=dislikes)

    def photos(self, item: str) -> list[tuple[str, str]]:
        """Path and caption of an item's photos; the path of a live item's photo is ""."""
        with self.recommender() as recommender:
            state = recommender.state
            (code,) = state.online.item_codes([item])
            photos = state.catalog.source.photos(code)
            if item in self._live_captions:
                caption = self._live_captions[item] if self._shows_captions else ""
                photos = [("", caption), *photos]
            return photos

    def photo(self, item: str, index: int) -> bytes:
        """One of an item's `photos`, a small JPEG without metadata; else a DataError."""
        photos = self.photos(item)
        if index >= len(photos):
            raise DataError(f"{item!r} has {len(photos)} photos")
        path, _ = photos[index]
        if not path:
            return self._store.find_item(item).photo or b""
        try:
            return _thumbnail(Path(path), self._recommender.config.read.max_pixels)
        except PhotoError as error:
            raise DataError(f"photo {index} of {item!r} cannot be shown: {error}") from error

    def reviewed_items(self, user: str) -> list[str]:
        """Ids of the items that a user has reviewed; none for an unknown user."""
        with self.recommender() as recommender:
            online = recommender.state.online
            if user not in online.codes["user"]:
                return []
            codes, _ = online.live.ratings("user", online.codes["user"][user])
            return [online.ids["item"][code] for code in codes]


_thumbnail = lru_cache(maxsize=512)(encode_thumbnail)


async def current_service(request: Request) -> RecommendationService:
    """The service that handles a request; asynchronous, to save a change of threads."""
    service: RecommendationService = request.app.state.service
    return service
