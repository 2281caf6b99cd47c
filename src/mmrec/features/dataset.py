"""Reviews, with what models have read out of them; each result is computed once, on first use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import polars as pl

from mmrec.cache.store import Store
from mmrec.config import Config
from mmrec.data.schema import NO_TIME, EntityKind, Interactions, Reviews
from mmrec.encoder.text_encoder import Encoder
from mmrec.evidence.views import EvidenceViews
from mmrec.features.annotations import EvidenceSums, PhotoVectors, annotation_sums
from mmrec.features.text_regression import RatedTexts
from mmrec.llm.annotator import Annotator
from mmrec.llm.lexicon import split_query
from mmrec.llm.types import Note, Review, Summary
from mmrec.vision.captioner import Captioner
from mmrec.vision.image_features import Captions, ImageEncoder, PhotoAnnotator

__all__ = ["Dataset", "Models"]


@dataclass(frozen=True)
class Models:
    """The models that turn reviews and photos into annotations and vectors, and the store of their
    results; `mmrec.pipeline.open_models` opens them."""

    store: Store
    encoder: Encoder
    annotator: Annotator
    quote_annotator: Annotator
    """Writes notes whose likes and dislikes are the reviews' own sentences."""
    captioner: Captioner
    image_encoder: ImageEncoder
    """Photos to vectors (the paper's baseline)."""


class Dataset:
    """n reviews of m items, and what was read out of them.

    Args:
        data: who rated what.
        texts, photos: (n) texts of reviews, and paths of their photos.
        item_photos: (m) paths of each item's own photos.
        models: the models to use.
        max_pixels: photos with more pixels are refused.
        notes: (n) notes, where the reviews have been annotated before.
        summary: the summary of all reviews together, where that is known.
        captions: (n) captions that came with each review, in place of its photos; or ().
        item_captions: (m) the same of items.

    Attributes:
        part: (n,) the part of the data that each review is annotated with: its fold, if any.
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
        self.part = np.zeros(len(self.texts), dtype=np.int64)
        self.review_ids: list[str] = []
        self._photo_annotator = PhotoAnnotator(models.store, max_pixels)
        self._notes = notes
        self._summary = summary
        self._note_sums: dict[tuple[str, ...], EvidenceSums] = {}

    @classmethod
    def from_reviews(
        cls, reviews: Reviews, models: Models, config: Config, notes: list[Note] | None = None
    ) -> Dataset:
        """All reviews of a table, and their notes where these are known."""
        data = Interactions.from_table(reviews.table)
        # Items in the order of their codes; those without a row have neither photos nor captions.
        items = pl.DataFrame({"item": data.items}, schema={"item": pl.String})
        items = items.join(reviews.items, on="item", how="left", maintain_order="left")
        dataset = cls(
            data,
            reviews.table["text"].to_list(),
            _lists(reviews.table, "photos"),
            _lists(items, "photos"),
            models,
            config.read.max_pixels,
            notes,
            captions=_lists(reviews.table, "captions"),
            item_captions=_lists(items, "captions"),
        )
        dataset.review_ids = reviews.table["review_id"].to_list()
        return dataset

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
        """One annotated review of an unnamed user and item, with captions of the item.

        Its rating may be NaN.
        """
        zero = np.zeros(1, dtype=np.int64)
        ratings, times = np.array([rating], dtype=np.float32), np.array([NO_TIME])
        data = Interactions(zero, zero, ratings, times, users=[""], items=[""])
        summary = summary or Summary(text=text)
        return cls(data, [text], [[]], [[]], models, 0, [note], summary, item_captions=[captions])

    @classmethod
    def from_description(cls, text: str, models: Models) -> Dataset:
        """A new user's words as a review without a rating; each part of a list counts as a like."""
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
        """The reviews as the mixed effects need them."""
        return RatedTexts(self.data, self.text_vectors, np.array([*map(len, self.texts)]))

    @cached_property
    def notes(self) -> list[Note]:
        """(n) notes; each review is read by itself."""
        return self.models.annotator.write_notes(self.texts) if self._notes is None else self._notes

    def quotable_notes(self, rows: np.ndarray) -> list[Note]:
        """Notes of some reviews whose likes and dislikes are sentences of the review itself."""
        if self.models.annotator is self.models.quote_annotator:
            return [self.notes[row] for row in rows]
        return self.models.quote_annotator.write_notes([self.texts[row] for row in rows])

    def note_sums(self, vocabulary: Sequence[str]) -> EvidenceSums:
        """The notes of single reviews as vectors and votes; the last result is kept."""
        key = tuple(vocabulary)
        if key not in self._note_sums:
            self._note_sums = {key: annotation_sums(self.notes, self.models.encoder, key)}
        return self._note_sums[key]

    def summaries(self, kind: EntityKind, views: EvidenceViews) -> list[Summary]:
        """A summary of the reviews of every view."""
        if self._summary is not None:
            return [self._summary] * len(views)
        groups = [[self._reviews[row] for row in rows] for rows in views.review_sets()]
        return self.models.annotator.write_summaries(kind, groups)

    @cached_property
    def _reviews(self) -> list[Review]:
        rating, time, part = self.data.rating.tolist(), self.data.time.tolist(), self.part.tolist()
        return list(map(Review, self.texts, rating, time, part))

    def has_photos(self, evidence_rows: np.ndarray, *, captions: bool) -> bool:
        """Whether an item or an evidence review has a photo, or (if `captions`) a caption."""
        groups = [*self.item_photos, *(self.photos[row] for row in evidence_rows)]
        if captions:
            groups += [*self.item_captions, *(self.review_captions[row] for row in evidence_rows)]
        return any(map(len, groups))

    @cached_property
    def captions(self) -> Captions:
        """Captions of the photos of reviews and items that came without captions."""
        return self._photo_annotator.caption_photos(self._uncaptioned, self.models.captioner)

    @property
    def captions_missing(self) -> int:
        """Number of photos that the captioner has not seen yet."""
        return self._photo_annotator.count_uncaptioned(self._uncaptioned, self.models.captioner)

    @property
    def _photo_groups(self) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
        """Captions that came with the data, and photos: of the n reviews, then of the m items."""
        captions = chain(self.review_captions, self.item_captions)
        return zip(captions, chain(self.photos, self.item_photos), strict=True)

    @property
    def _uncaptioned(self) -> list[str]:
        groups = (photos for captions, photos in self._photo_groups if not captions)
        return list(chain.from_iterable(groups))

    @cached_property
    def caption_vectors(self) -> PhotoVectors:
        """Captions as vectors of the text encoder (paper, section 3.2)."""
        groups: list[Sequence[str]] = []
        for captions, photos in self._photo_groups:
            # The captions that came with the data, else those of the photos that have one.
            groups.append(captions or list(filter(None, map(self.captions.texts.get, photos))))
        unique = sorted({*chain.from_iterable(groups)})
        vectors = self.models.encoder.encode(unique or [""], "encoding captions")
        by_caption = dict(zip(unique, vectors, strict=False))
        reviews, items = groups[: len(self)], groups[len(self) :]
        return PhotoVectors.build(reviews, items, by_caption, vectors.shape[1])

    @cached_property
    def image_vectors(self) -> PhotoVectors:
        """Photos as vectors of the image model (paper, section 4: the baseline)."""
        image_encoder = self.models.image_encoder
        paths = chain.from_iterable((*self.photos, *self.item_photos))
        vectors = self._photo_annotator.encode_photos(paths, image_encoder)
        return PhotoVectors.build(self.photos, self.item_photos, vectors, image_encoder.width)


def _lists(table: pl.DataFrame, column: str) -> list[list[str]]:
    """A column of lists; empty lists where the table has none."""
    if column not in table.columns:
        return [[]] * table.height
    return table[column].fill_null([]).to_list()
