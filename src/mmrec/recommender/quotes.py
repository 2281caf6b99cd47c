"""What can be quoted of items: sentences of reviews, and captions of photos; with live ones."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmrec.config import Config
from mmrec.data.schema import NO_TIME, EntityKind
from mmrec.features.dataset import Dataset
from mmrec.llm.types import Note
from mmrec.recommender.live_reviews import LiveReviews

_QUOTED_REVIEWS = 100


@dataclass(frozen=True)
class Quote:
    """A like or dislike of a review, word for word, or the caption of a photo."""

    text: str
    review_id: str  # "" for a photo of the item itself
    liked: bool
    photo: bool = False  # whether it is a caption
    user: str = ""  # the reviewer; "" for a photo of the item itself
    rating: float | None = None
    date: str = ""  # YYYY-MM-DD; "" if unknown

    @property
    def signature(self) -> str:
        """Who says so, as in "ann, 4 stars, 1 May 2024"."""
        parts = ["photo"] if self.photo else []
        parts += [self.user] if self.user else []
        if self.rating is not None:
            parts.append(f"{self.rating:.3g} star{'' if self.rating == 1 else 's'}")
        if self.date:
            day = date.fromisoformat(self.date)
            parts.append(f"{day.day} {day:%b %Y}")
        return ", ".join(parts)


class SignedNote(NamedTuple):
    """A note with the review that it is of."""

    note: Note
    review_id: str
    user: str
    rating: float
    date: str  # as in a `Quote`

    def quote(self, text: str, *, liked: bool, photo: bool = False) -> Quote:
        """A sentence of the review, or a caption of its photo."""
        return Quote(text, self.review_id, liked, photo, self.user, self.rating, self.date)


class QuoteSource:
    """Notes of reviews, and photos with captions, of items by code."""

    def __init__(self, dataset: Dataset, live: LiveReviews, config: Config) -> None:
        self._dataset, self._live = dataset, live
        # The builtin captioner names colours, which are not worth quoting.
        self._quote_captions = config.vision.captioner != "builtin"
        self._live_captions: dict[int, list[str]] = defaultdict(list)  # of live photos by item

    def add_captions(self, item: int, captions: Sequence[str]) -> None:
        """Add captions of live photos of an item."""
        self._live_captions[item].extend(captions)

    def photos(self, item: int) -> list[tuple[str, str]]:
        """Path and caption, or "", of a dozen photos of the item itself, then of its reviews."""
        if item >= len(self._dataset.data.items):
            return []
        photos: dict[str, str] = {}
        rows = self._live.fitted_rows("item", item)
        groups = map(self._dataset.photos.__getitem__, rows)
        for path in chain(self._dataset.item_photos[item], *groups):
            if len(photos) < 12 and Path(path).is_file():
                photos[path] = self.captions.get(path, "")
        return list(photos.items())

    @cached_property
    def captions(self) -> dict[str, str]:
        """Captions by path, for visitors; none are made while a page waits."""
        if not self._quote_captions or self._dataset.captions_missing:
            return {}
        return self._dataset.captions.texts

    def quotes(self, item: int) -> list[Quote]:
        """Sentences of the latest reviews of an item, and captions of its photos."""
        quotes: list[Quote] = []
        notes = self.notes("item", item)
        for signed in notes:
            quotes += [signed.quote(text, liked=True) for text in signed.note.likes]
            quotes += [signed.quote(text, liked=False) for text in signed.note.dislikes]
        if not self._quote_captions:
            return quotes
        dataset, captions = self._dataset, self._live_captions.get(item, [])
        # Captions that came with the data, or else those of the photos.
        if item < len(dataset.data.items):
            texts = dataset.item_captions[item] or self._captions_of(dataset.item_photos[item])
            captions = texts + captions
        quotes += [Quote(text, "", liked=True, photo=True) for text in captions]
        # Live reviews, whose notes come last, have no photos.
        for row, signed in zip(self._latest_rows("item", item), notes, strict=False):
            texts = dataset.review_captions[row] or self._captions_of(dataset.photos[row])
            for text in filter(None, texts):
                quotes.append(signed.quote(text, liked=True, photo=True))
        return quotes

    def _captions_of(self, photos: Sequence[str]) -> list[str]:
        return list(filter(None, map(self.captions.get, photos)))

    def _latest_rows(self, kind: EntityKind, code: int) -> np.ndarray:
        return self._live.fitted_rows(kind, code)[-_QUOTED_REVIEWS:]

    def _sign(self, rows: np.ndarray) -> list[SignedNote]:
        dataset, data, signed = self._dataset, self._dataset.data, []
        for row, note in zip(rows.tolist(), dataset.quotable_notes(rows), strict=True):
            time, day = int(data.time[row]), ""
            if time != NO_TIME:
                day = str(np.datetime64(time, "us").astype("datetime64[D]"))
            user, rating = data.users[data.user[row]], float(data.rating[row])
            signed.append(SignedNote(note, dataset.review_ids[row], user, rating, day))
        return signed

    def notes(self, kind: EntityKind, code: int) -> list[SignedNote]:
        """Notes of the latest reviews by a user or of an item, live ones last."""
        signed = self._sign(self._latest_rows(kind, code))
        reviews = self._live.reviews(kind, code)[-_QUOTED_REVIEWS:]
        notes, models = [review.note for review in reviews], self._dataset.models
        if models.quote_annotator is not models.annotator:
            notes = models.quote_annotator.write_notes([review.text for review in reviews])
        for review, note in zip(reviews, notes, strict=True):
            signature = review.review_id, review.user, review.rating, review.date
            signed.append(SignedNote(note, *signature))
        return signed
