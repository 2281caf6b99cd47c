"""Takes live reviews and items of the database into a recommender, in the order in which they were stored."""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from mmrec.encoder.known_vectors import InformedEncoder
from mmrec.errors import ModelError, StoreError
from mmrec.llm.types import Note
from mmrec.recommender.live_reviews import LiveReview
from mmrec.recommender.recommender import Recommender
from mmrec.service.live_store import Entry, LiveStore, StoredItem, StoredReview

log = logging.getLogger("mmrec.service")


def encoded_texts(text: str, note: Note) -> list[str]:
    """All that is encoded of a review."""
    return list(dict.fromkeys([text, *filter(None, _sentences(note))]))


def _sentences(note: Note) -> list[str]:
    return [note.gist, *note.likes, *note.dislikes]


class LiveEntries:
    """The entries of a database that a recommender, which `lock` guards, has taken in.

    Models read what is new before the lock is held, for a moment.

    Attributes:
        last_numbers: of the entries that were taken in. Items come first: their descriptions count even
            if a review of them was stored before.
        captions: by live item, where it has a photo.
        encoder_name: which encoder's vectors are those of the recommender.
    """

    def __init__(self, recommender: Recommender, store: LiveStore, lock: threading.RLock) -> None:
        self._recommender, self._store, self._lock = recommender, store, lock
        self._models = recommender.models
        encoder = json.dumps(self._models.encoder.provenance, sort_keys=True)
        self.encoder_name = hashlib.sha256(encoder.encode()).hexdigest()
        self.captions: dict[str, str] = {}
        self.last_numbers: dict[type[Entry], int] = {StoredItem: 0, StoredReview: 0}

    def take_in_new(self) -> None:
        """Take in what any process has stored; only one thread does so."""
        while items := self._store.since(StoredItem, self.last_numbers[StoredItem]):
            for item in items:
                self._take_in_item(item)
                self.last_numbers[StoredItem] = item.number
        while reviews := self._store.since(StoredReview, self.last_numbers[StoredReview]):
            self._take_in_reviews(reviews)
            self.last_numbers[StoredReview] = reviews[-1].number

    def _take_in_item(self, entry: StoredItem) -> None:
        with self._leave_out_broken([entry]):
            note = Note.model_validate_json(entry.note)
            texts = [entry.description, *_sentences(note)]
            self._models.encoder.encode(texts)  # what takes long goes before the lock
            options: dict[str, Any] = {"name": entry.name, "description": entry.description}
            with self._lock:
                if entry.caption is not None:
                    self.captions[entry.item] = entry.caption
                    options["captions"] = [entry.caption]
                self._recommender.add_item(entry.item, note=note, **options)

    def _take_in_reviews(self, entries: Sequence[StoredReview]) -> None:
        outcome: dict[tuple[str, str], LiveReview | None] = {}
        known: dict[str, np.ndarray] = {}
        for entry in entries:
            with self._leave_out_broken([entry]):
                pair, review = (entry.user, entry.item), None
                if entry.rating is not None:
                    note = Note.model_validate_json(entry.note)
                    content = entry.rating, entry.text, entry.review_id
                    review = LiveReview(entry.user, entry.item, *content, note, entry.day)
                    known |= self._stored_vectors(entry, note)
                outcome[pair] = review
        with self._leave_out_broken(entries):
            models = self._models
            informed = replace(models, encoder=InformedEncoder(models.encoder, known))
            changes = self._recommender.read_changes(outcome, informed)
            with self._lock:
                self._recommender.apply(changes)

    def _stored_vectors(self, entry: StoredReview, note: Note) -> dict[str, np.ndarray]:
        """Vectors by text, if those that are stored are of the same encoder."""
        texts = encoded_texts(entry.text, note)
        if entry.vectors is None or entry.encoder != self.encoder_name:
            return {}
        vectors = np.frombuffer(entry.vectors, np.float16)
        if len(vectors) % len(texts):
            return {}
        return dict(zip(texts, vectors.reshape(len(texts), -1), strict=True))

    @contextmanager
    def _leave_out_broken(self, entries: Sequence[Entry]) -> Iterator[None]:
        try:
            yield
        except (ModelError, StoreError):
            raise  # not the entry's fault: the next read tries again
        except Exception as error:  # a broken entry must not keep out those after it
            # The message is not logged, since it may quote the review.
            numbers = f"number {entries[0].number}"
            if len(entries) > 1:
                numbers = f"numbers {entries[0].number} to {entries[-1].number}"
            table, reason = entries[0].__tablename__, type(error).__name__
            log.error("%s: %s was left out: %s", table, numbers, reason)
