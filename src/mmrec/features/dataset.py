"""Reviews with all that models have read out of them, each thing on first use and once ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from mmrec.cache.store import Store
from mmrec.config import Config
from mmrec.data.schema import NO_TIME, EntityKind, Interactions, Reviews
from mmrec.encoder.text_encoder import Encoder
from mmrec.evidence.policies import EvidenceViews
from mmrec.features.annotations import NoteArrays
from mmrec.features.photos import PhotoVectors
from mmrec.features.text_regression import RatedTexts
from mmrec.llm.annotator import Annotator
from mmrec.llm.sentences import split_query
from mmrec.llm.types import Note, Review, Summary
from mmrec.vision.image_features import Captions, PhotoAnnotator
from mmrec.vision.resnet import ImageEncoder
from mmrec.vision.types import Captioner

__all__ = ["Dataset", "Models"]


@dataclass(frozen=True)
class Models:
    """The models that turn reviews and photos into words and vectors, and the store of their answers."""

    store: Store
    encoder: Encoder
    annotator: Annotator
    quote_annotator: Annotator
    captioner: Captioner
    image_encoder: ImageEncoder


class Dataset:
    """Reviews (n of them, of m items) and what was read out of them.

    Args:
        data: who rated what; codes of users and items.
        texts: (n) review texts.
        photos: (n) paths of each review's photos.
        item_photos: (m) paths of each item's own photos.
        models: what reads.
        max_pixels: limit for photos.
        notes: (n) what each review says, where it has been read before.
        summary: what all of these reviews say together, where that is known.
        captions: (n) captions that came with each review, in place of its photos; () where none did.
        item_captions: (m) the same of items.

    Attributes:
        part: (n,) the part of the data that each review is read with; the folds, where there are any.
        review_ids: (n) id of each review, where they are known.
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
        summary: Summary | None = None,
        captions: Sequence[Sequence[str]] = (),
        item_captions: Sequence[Sequence[str]] = (),
    ) -> None:
        self.data = data
        self.texts = list(texts)
        self.photos = photos
        self.item_photos = item_photos
        self.models = models
        self.review_captions = captions or [[]] * len(photos)
        self.item_captions = item_captions or [[]] * len(item_photos)
        self._pictures = PhotoAnnotator(models.store, max_pixels)
        self._notes = notes
        self._summary = summary
        self.part = np.zeros(len(self.texts), dtype=np.int64)
        self.review_ids: list[str] = []
        self._note_arrays: dict[tuple[str, ...], NoteArrays] = {}

    @classmethod
    def from_reviews(
        cls, reviews: Reviews, models: Models, config: Config, notes: list[Note] | None = None
    ) -> Dataset:
        """All of some reviews, and what was read out of them if that is known."""
        data = Interactions.from_table(reviews.table)
        row = {item: at for at, item in enumerate(reviews.items["item"])}

        def own(column: str) -> list[list[str]]:
            values = _lists(reviews.items, column)
            return [values[row[item]] if item in row else [] for item in data.items]

        corpus = cls(
            data,
            reviews.table["text"].to_list(),
            _lists(reviews.table, "photos"),
            own("photos"),
            models,
            config.read.max_pixels,
            notes,
            captions=_lists(reviews.table, "captions"),
            item_captions=own("captions"),
        )
        corpus.review_ids = reviews.table["review_id"].to_list()
        return corpus

    @classmethod
    def single_review(
        cls,
        text: str,
        rating: float,
        models: Models,
        note: Note,
        summary: Summary | None = None,
        captions: Sequence[str] = (),
    ) -> Dataset:
        """One review that has been read, by nobody of nothing; its rating may be nan.

        Captions are of photos of the item.
        """
        data = Interactions(
            user=np.zeros(1, dtype=np.int64),
            item=np.zeros(1, dtype=np.int64),
            rating=np.array([rating], dtype=np.float32),
            time=np.array([NO_TIME]),
            users=[""],
            items=[""],
        )
        told = summary or Summary(text=text)
        return cls(data, [text], [[]], [[]], models, 0, [note], told, item_captions=[captions])

    @classmethod
    def from_description(cls, text: str, models: Models) -> Dataset:
        """A stranger's own words, as one review without a rating; each part of a list is a like."""
        likes = list(dict.fromkeys([text, *split_query(text)]))
        return cls.single_review(text, np.nan, models, Note(gist=text, likes=likes))

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def text_vectors(self) -> np.ndarray:
        """(n, d) float16 vectors of whole reviews."""
        return self.models.encoder.encode(self.texts, "encoding reviews")

    @property
    def rated_texts(self) -> RatedTexts:
        """What effects are made of."""
        length = np.array([len(text) for text in self.texts])
        return RatedTexts(self.data, self.text_vectors, length)

    @cached_property
    def notes(self) -> list[Note]:
        """(n) what each review says, read alone."""
        if self._notes is not None:
            return self._notes
        return self.models.annotator.write_notes(self.texts)

    def quotable_notes(self, rows: np.ndarray) -> list[Note]:
        """Notes of some reviews whose likes and dislikes are sentences of the review, word for word."""
        if self.models.annotator is self.models.quote_annotator:
            return [self.notes[row] for row in rows]
        return self.models.quote_annotator.write_notes([self.texts[row] for row in rows])

    def summaries(self, of: EntityKind, side: EvidenceViews) -> list[Summary]:
        """What the reviews of every view of a side say together."""
        if self._summary is not None:
            return [self._summary] * len(side)
        groups = [[self._reviews[row] for row in rows] for rows in side.review_sets()]
        return self.models.annotator.write_summaries(of, groups)

    @cached_property
    def _reviews(self) -> list[Review]:
        columns = (
            self.texts,
            self.data.rating.tolist(),
            self.data.time.tolist(),
            self.part.tolist(),
        )
        return [Review(*row) for row in zip(*columns, strict=True)]

    def note_arrays(self, vocabulary: Sequence[str]) -> NoteArrays:
        """Notes as arrays, with their categories coded by a vocabulary."""
        key = tuple(vocabulary)
        if key not in self._note_arrays:
            self._note_arrays = {
                key: NoteArrays.from_notes(self.notes, self.models.encoder, vocabulary)
            }
        return self._note_arrays[key]

    def has_photos(self, known: np.ndarray, *, captions: bool) -> bool:
        """Whether some item or known review has a photo, or a caption where that will do."""
        groups = [(self.photos, self.item_photos), (self.review_captions, self.item_captions)][
            : 1 + captions
        ]
        return any(
            any(map(len, own)) or any(len(shown[row]) for row in known) for shown, own in groups
        )

    @cached_property
    def captions(self) -> Captions:
        """What the captioner says of the photos of reviews and items that came without captions."""
        return self._pictures.caption_photos(self._uncaptioned, self.models.captioner)

    @property
    def captions_missing(self) -> int:
        """Captions that the captioner would be asked for now."""
        return self._pictures.count_uncaptioned(self._uncaptioned, self.models.captioner)

    @property
    def _uncaptioned(self) -> list[str]:
        given, photos = (
            (*self.review_captions, *self.item_captions),
            (*self.photos, *self.item_photos),
        )
        return [path for own, group in zip(given, photos, strict=True) if not own for path in group]

    @cached_property
    def caption_vectors(self) -> PhotoVectors:
        """Captions in the encoder's space (paper, section 3.2)."""
        said = (
            self._said(self.review_captions, self.photos),
            self._said(self.item_captions, self.item_photos),
        )
        unique = sorted({caption for groups in said for group in groups for caption in group})
        vectors = self.models.encoder.encode(unique or [""], "encoding captions")
        return PhotoVectors.build(*said, dict(zip(unique, vectors, strict=False)), vectors.shape[1])

    @cached_property
    def image_vectors(self) -> PhotoVectors:
        """Photos as the image model's features (paper, section 4: the baseline)."""
        image = self.models.image_encoder
        paths = [path for group in (*self.photos, *self.item_photos) for path in group]
        vectors = self._pictures.encode_photos(paths, image)
        return PhotoVectors.build(self.photos, self.item_photos, vectors, image.width)

    def _said(
        self, given: Sequence[Sequence[str]], photos: Sequence[Sequence[str]]
    ) -> list[Sequence[str]]:
        text = self.captions.texts
        pairs = zip(given, photos, strict=True)
        return [own or [said for path in group if (said := text[path])] for own, group in pairs]


def _lists(table: pl.DataFrame, column: str) -> list[list[str]]:
    """A column of lists; empty ones where a table has none."""
    return table[column].to_list() if column in table.columns else [[]] * table.height
