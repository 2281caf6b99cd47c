"""A recommender that takes in live reviews and items, for the API and the pages."""

import logging
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mmrec.data.images import encode_thumbnail
from mmrec.errors import DataError, MmrecError, ModelError, PhotoError
from mmrec.llm.types import Wish
from mmrec.pipeline import open_models
from mmrec.recommender.explain import Explanation, with_sentences
from mmrec.recommender.recommender import Recommender
from mmrec.service.live_entries import LiveEntries, encoded_texts
from mmrec.service.live_feed import LiveFeed
from mmrec.service.live_store import LiveStore, StoredItem, StoredReview
from mmrec.service.model_calls import BusyError, ModelCalls
from mmrec.service.schemas import Item, ItemProfile, Recommendation
from mmrec.vision.image_features import PhotoAnnotator

log = logging.getLogger("mmrec.service")


class ConflictError(MmrecError):
    """What is to be added has an id that something else has."""


class RecommendationService:
    """A saved recommender with live reviews and items; a DataError means an unknown item or review.

    With `sentences` a language model writes one for every explanation; photos of new items may have
    `max_pixels`. No lock of the recommender is held while the database or a language model is asked; a
    thread takes in what they have answered.
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
        # Those who write have models of their own, so that readers never wait for them.
        self._models, config = open_models(recommender.config), recommender.config
        self._model_calls = ModelCalls(self._models)
        # The builtin captioner names colours, which tell visitors nothing.
        self._shows_captions = config.vision.captioner != "builtin"
        for models in (recommender.models, self._models):
            # Visitors wait for a long run on the store only if they would pay again.
            models.store.max_wait = 1.0
        self._saved_items = frozenset(recommender.state.online.codes["item"])
        self._entries = LiveEntries(recommender, store, self._lock)
        self._entries.take_in_new()
        self._feed = LiveFeed(self._entries.take_in_new)
        recommender.state.warm_up()
        self._feed.start()

    def close(self) -> None:
        """Follow the database no longer, and close it."""
        self._feed.stop()
        self._store.close()

    @property
    def last_review(self) -> int:
        """The number of the last live review that was taken in."""
        return self._entries.last_numbers[StoredReview]

    @property
    def reads_database(self) -> bool:
        """Whether the database of live reviews answers."""
        return self._feed.catch_up(2.0, insist=True)

    @contextmanager
    def recommender(self) -> Iterator[Recommender]:
        """The recommender with all reviews that were stored so far, for this thread alone."""
        self._feed.catch_up()
        with self._lock:
            yield self._recommender

    def add_review(
        self, user: str, item: str, rating: float, text: str, review_id: str | None = None
    ) -> str:
        """Annotate a review, store it, take it in; return its id, if need be a new one.

        It takes the place of an earlier one by the same user of the same item. Raises a ConflictError
        if the user has another review with this id.
        """
        with self._model_calls as models:
            (note,) = models.annotator.write_notes([text])
            vectors = models.encoder.encode(encoded_texts(text, note))
        review = StoredReview(user=user, item=item, rating=rating, text=text)
        review.review_id = review_id = review_id or uuid.uuid4().hex
        review.note, review.encoder = note.model_dump_json(), self._entries.encoder_name
        review.vectors, content = vectors.tobytes(), review.content
        is_new = self._store.add(review)
        if not is_new and self._store.find_review(user, review_id).content != content:
            problem = f"{user!r} has written another review with the id {review_id!r}"
            raise ConflictError(f"{problem}, or has withdrawn it; leave the id out")
        self._feed.catch_up(2.0, insist=True)
        return review_id

    def withdraw_review(self, user: str, item: str) -> None:
        """Take back what a user has said of an item; a DataError if there is nothing."""
        with self.recommender() as recommender:
            if not recommender.has_reviewed(user, item):
                raise DataError(f"{user!r} has written no review of {item!r}")
        self._store.withdraw(user, item)
        self._feed.catch_up(2.0, insist=True)

    def add_item(
        self, item: str, name: str | None, description: str, photo: IO[bytes] | None
    ) -> str | None:
        """Annotate a new item, store it, take it in; return a caption of its photo.

        Raises a PhotoError or DataError for unusable content, and a ConflictError for an
        item of the model, or with other content.
        """
        if item in self._saved_items:
            raise ConflictError(f"item {item!r} exists already; add a review of it instead")
        small = caption = None
        if photo is not None:
            small = encode_thumbnail(photo, self._max_pixels)
            with tempfile.NamedTemporaryFile(suffix=".jpg") as file, self._model_calls as models:
                file.write(small)
                file.flush()
                annotator = PhotoAnnotator(models.store, self._max_pixels)
                caption = annotator.caption_photo(Path(file.name), models.captioner)
        captions = [caption] if caption else []
        self._recommender.state.online.check_item_content(description, captions)
        content = {"name": name, "description": description, "caption": caption}
        with self._model_calls as models:
            (note,) = models.annotator.write_notes([description])
        if not self._store.add(
            StoredItem(item=item, photo=small, note=note.model_dump_json(), **content)
        ):
            stored = self._store.find_item(item)
            if any(getattr(stored, field) != value for field, value in content.items()):
                raise ConflictError(f"item {item!r} was added before; add a review of it instead")
        self._feed.catch_up(2.0, insist=True)
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
            with suppress(BusyError, ModelError), self._model_calls as models:
                explanations = with_sentences(explanations, models.annotator.write_reasons)
        pairs = zip_longest(rows, explanations)
        shared: dict[str, Any] = {"understood": understood}
        return [Recommendation(**row, why=why, **shared) for row, why in pairs]

    def parse_wish(self, text: str) -> Wish:
        """What a text says is wanted; a slow language model keeps no other request waiting."""
        wish: Wish | None = None
        if self._recommender.config.language.llm != "builtin":
            with suppress(BusyError), self._model_calls as models:
                (wish,) = models.annotator.read_wishes([text])
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
            if item in self._entries.captions:
                caption = self._entries.captions[item] if self._shows_captions else ""
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
    service: RecommendationService | None = request.app.state.service
    if service is None:
        raise HTTPException(503, "the model is being loaded; try again soon")
    return service
