"""Reviews with all that models have read out of them, each thing on first use and once ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmrec.config import Config
from mmrec.encode import Encoder
from mmrec.language.base import LanguageModel, Note
from mmrec.language.builtin import BuiltinLanguage
from mmrec.profiles import NoteArrays, caption_photos, read_notes
from mmrec.reviews.table import NO_TIME, Interactions, Reviews
from mmrec.search import wishes
from mmrec.store import Store, default_store
from mmrec.vision.base import Captioner
from mmrec.vision.builtin import PaletteCaptioner

__all__ = ["Corpus", "Models"]


@dataclass(frozen=True)
class Models:
    """The models that turn reviews and photos into words and vectors, and the store of their answers."""

    store: Store
    encoder: Encoder
    language: LanguageModel
    captioner: Captioner

    @classmethod
    def open(cls, config: Config) -> Models:
        """Name the configured models; weights are loaded when first needed."""
        store = Store(config.store or default_store())
        encoder = Encoder(config.encoder, store)
        profile = config.profile
        language = BuiltinLanguage(encoder, profile.item_kind, profile.summary_tokens)
        return cls(store, encoder, language, PaletteCaptioner())


@dataclass(frozen=True)
class PhotoVectors:
    """Captions of photos as vectors.

    Attributes:
        total: (n, d) float32 sum over the captions of each row.
        count: (n,) photos of each row.
    """

    total: np.ndarray
    count: np.ndarray


class Corpus:
    """Reviews (n of them, of m items) and what was read out of them.

    Args:
        data: who rated what; codes of users and items.
        texts: (n) review texts.
        photos: (n) paths of each review's photos.
        item_photos: (m) paths of each item's own photos.
        models: what reads.
        max_pixels: limit for photos.
        notes: (n) what each review says, where it has been read before.
    """

    def __init__(
        self,
        data: Interactions,
        texts: Sequence[str],
        photos: Sequence[Sequence[str]],
        item_photos: Sequence[Sequence[str]],
        models: Models,
        max_pixels: int,
        notes: list[Note] | None = None,
    ) -> None:
        self.data = data
        self.texts = list(texts)
        self.photos = photos
        self.item_photos = item_photos
        self.models = models
        self._max_pixels = max_pixels
        self._notes = notes
        self._note_arrays: dict[tuple[str, ...], NoteArrays] = {}

    @classmethod
    def of(cls, reviews: Reviews, models: Models, config: Config, notes: list[Note] | None = None) -> Corpus:
        """All of some reviews, and what was read out of them if that is known."""
        data = Interactions.of(reviews.table)
        own = dict(zip(reviews.items["item"].to_list(), reviews.items["photos"].to_list(), strict=True))
        return cls(
            data,
            reviews.table["text"].to_list(),
            reviews.table["photos"].to_list(),
            [own.get(item, []) for item in data.items],
            models,
            config.read.max_pixels,
            notes,
        )

    @classmethod
    def described(cls, text: str, models: Models) -> Corpus:
        """A stranger's own words, as one review without a rating; each part of a list is a like."""
        likes = list(dict.fromkeys([text, *wishes(text)]))
        data = Interactions(
            user=np.zeros(1, dtype=np.int64),
            item=np.zeros(1, dtype=np.int64),
            rating=np.array([np.nan], dtype=np.float32),
            time=np.array([NO_TIME]),
            users=[""],
            items=[""],
        )
        return cls(data, [text], [[]], [[]], models, 0, [Note(gist=text, likes=likes)])

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def text_vectors(self) -> np.ndarray:
        """(n, d) float16 vectors of whole reviews."""
        return self.models.encoder.encode(self.texts, "encoding reviews")

    @cached_property
    def notes(self) -> list[Note]:
        """(n) what each review says, read alone."""
        if self._notes is not None:
            return self._notes
        return read_notes(self.texts, self.models.language, self.models.store)

    def note_arrays(self, vocabulary: Sequence[str]) -> NoteArrays:
        """Notes as arrays, with their categories coded by a vocabulary."""
        key = tuple(vocabulary)
        if key not in self._note_arrays:
            self._note_arrays = {key: NoteArrays.of(self.notes, self.models.encoder, vocabulary)}
        return self._note_arrays[key]

    @cached_property
    def captions(self) -> dict[str, str]:
        """Caption of every photo, by path."""
        paths = [path for group in (*self.photos, *self.item_photos) for path in group]
        return caption_photos(paths, self.models.captioner, self.models.store, self._max_pixels)

    @cached_property
    def review_photos(self) -> PhotoVectors:
        """Captions of the reviews' photos."""
        return self._photo_vectors(self.photos)

    @cached_property
    def own_photos(self) -> PhotoVectors:
        """Captions of the items' own photos."""
        return self._photo_vectors(self.item_photos)

    def _photo_vectors(self, groups: Sequence[Sequence[str]]) -> PhotoVectors:
        said = [[caption for path in group if (caption := self.captions[path])] for group in groups]
        unique = sorted({caption for group in said for caption in group})
        vectors = self.models.encoder.encode(unique or [""], "encoding captions").astype(np.float32)
        at = {caption: row for row, caption in enumerate(unique)}
        total = np.zeros((len(groups), vectors.shape[1]), dtype=np.float32)
        for row, group in enumerate(said):
            for caption in group:
                total[row] += vectors[at[caption]]
        return PhotoVectors(total, np.array([len(group) for group in said], dtype=np.float32))
