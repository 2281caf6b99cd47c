"""Reviews, with what models have read out of them; each result is computed once, on first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.cache.store import Store
from mmrec.config import Config
from mmrec.data import files
from mmrec.data.schema import NO_TIME, EntityKind, Interactions, Reviews
from mmrec.encoder.text_encoder import Encoder
from mmrec.evidence.policies import EvidenceViews
from mmrec.features.mixed_effects import RatedTexts
from mmrec.features.tables import EvidenceSums
from mmrec.llm.annotator import Annotator
from mmrec.llm.types import PRICE_TAGS, Note, Review, Summary
from mmrec.vision.captioner import Captioner
from mmrec.vision.image_features import Captions, ImageEncoder, PhotoAnnotator

_Names = Sequence[Sequence[str]]  # of photos, by review or by item


@dataclass(frozen=True)
class Models:
    """The models that turn reviews and photos into annotations and vectors, and their store."""

    store: Store
    encoder: Encoder
    annotator: Annotator
    quote_annotator: Annotator  # its likes and dislikes are sentences of the reviews
    captioner: Captioner
    image_encoder: ImageEncoder  # of the paper's baseline


@dataclass(eq=False)
class Dataset:
    """n reviews of m items, and what was read out of them; photos without captions have empty lists."""

    models: Models
    data: Interactions  # who rated what
    texts: list[str]
    review_ids: list[str]
    photos: list[list[str]]  # paths, by review
    item_photos: list[list[str]]  # of the m items themselves
    review_captions: list[list[str]]
    item_captions: list[list[str]]
    max_pixels: int = 0  # photos with more are refused
    earlier_notes: list[Note] | None = None  # of reviews annotated before
    given_summary: Summary | None = None  # of all reviews together

    def __post_init__(self) -> None:
        # (n,) the part of the data that each review is annotated with: its fold, if any.
        self.part = np.zeros(len(self.texts), dtype=np.int64)
        self._photo_annotator = PhotoAnnotator(self.models.store, self.max_pixels)
        self._note_sums: dict[tuple[str, ...], EvidenceSums] = {}

    @classmethod
    def from_reviews(
        cls, reviews: Reviews, models: Models, config: Config, notes: list[Note] | None = None
    ) -> Dataset:
        """All reviews of a table, and their notes where these are known."""
        table, data = reviews.table, Interactions.from_table(reviews.table)
        texts, ids = table["text"].to_list(), table["review_id"].to_list()
        lists: dict[str, tuple[list[list[str]], list[list[str]]]] = {}
        for name in ("photos", "captions"):
            cells: list[list[list[str]]] = []
            for rows in (table, reviews.items):
                has_column = name in rows.columns
                cells.append(rows[name].fill_null([]).to_list() if has_column else [[]] * len(rows))
            of_item = dict(zip(reviews.items["item"], cells[1], strict=True))
            lists[name] = cells[0], [of_item.get(item, []) for item in data.items]
        photos, captions = lists["photos"], lists["captions"]
        return cls(models, data, texts, ids, *photos, *captions, config.read.max_pixels, notes)

    @classmethod
    def unnamed(
        cls, texts: Sequence[str], ratings: Sequence[float], notes: Sequence[Note], models: Models
    ) -> Dataset:
        """Reviews that are each of an unnamed user and item of its own; no summary of them is known."""
        # Not from a table, which would take most of the time of a request.
        codes, size = np.arange(len(texts)), len(texts)
        times, names = np.full(size, NO_TIME), [""] * size
        data = Interactions(codes, codes, np.array(ratings, np.float32), times, names, names)
        none: list[list[str]] = [[]] * size
        lists = none, none, none, none
        return cls(models, data, [*texts], names, *lists, 0, [*notes], Summary())

    @classmethod
    def description(
        cls, text: str, note: Note, models: Models, captions: Sequence[str] = ()
    ) -> Dataset:
        """A text without a rating, which is its own summary, and captions of the item that it is about."""
        dataset = cls.unnamed([text], [np.nan], [note], models)
        return replace(dataset, item_captions=[[*captions]], given_summary=Summary(text=text))

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
        """(n) notes; each review is read by itself. A ModelError if most could not be."""
        if self.earlier_notes:
            return self.earlier_notes
        notes = self.models.annotator.write_notes(self.texts)
        self.models.annotator.insist_on_answers()
        return notes

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
        """A summary of the reviews of every view; a ModelError if most could not be written."""
        if self.given_summary is not None:
            return [self.given_summary] * len(views)
        ratings, times = self.data.rating.tolist(), self.data.time.tolist()
        reviews = list(map(Review, self.texts, ratings, times, self.part.tolist()))
        groups = [[reviews[row] for row in rows] for rows in views.review_sets()]
        summaries = self.models.annotator.write_summaries(kind, groups)
        self.models.annotator.insist_on_answers()
        return summaries

    def has_photos(self, evidence_rows: np.ndarray, *, captions: bool) -> bool:
        """Whether an item or an evidence review has a photo, or (if `captions`) a caption."""
        shown = [*self.item_photos, *(self.photos[row] for row in evidence_rows)]
        if captions:
            shown += [*self.item_captions, *(self.review_captions[row] for row in evidence_rows)]
        return any(shown)

    @cached_property
    def captions(self) -> Captions:
        """Captions of photos that came without; a ModelError if most could not be captioned."""
        captioner = self.models.captioner
        captions = self._photo_annotator.caption_photos(self._uncaptioned(), captioner)
        captions.insist()
        return captions

    @property
    def captions_missing(self) -> int:
        """Number of photos that the captioner has not seen yet."""
        return self._photo_annotator.count_uncaptioned(self._uncaptioned(), self.models.captioner)

    def _photo_groups(self) -> Iterator[tuple[list[str], list[str]]]:
        """Captions that came with the data, and photos: of the n reviews, then of the m items."""
        captions = chain(self.review_captions, self.item_captions)
        return zip(captions, chain(self.photos, self.item_photos), strict=True)

    def _uncaptioned(self) -> list[str]:
        groups = (photos for captions, photos in self._photo_groups() if not captions)
        return list(chain.from_iterable(groups))

    @cached_property
    def caption_vectors(self) -> PhotoVectors:
        """Captions as vectors of the text encoder (paper, section 3.2)."""
        groups: list[list[str]] = []
        for captions, photos in self._photo_groups():
            # The captions that came with the data, else those of the photos that have one.
            of_photos = filter(None, map(self.captions.texts.get, photos))
            groups.append(captions or list(of_photos))
        unique = sorted({*chain.from_iterable(groups)})
        vectors = self.models.encoder.encode(unique or [""], "encoding captions")
        by_caption = dict(zip(unique, vectors, strict=False))
        reviews, items = groups[: len(self)], groups[len(self) :]
        return PhotoVectors.build(reviews, items, by_caption, vectors.shape[1])

    @cached_property
    def image_vectors(self) -> PhotoVectors:
        """Photos as vectors of the image model (paper, section 4: the baseline)."""
        encoder = self.models.image_encoder
        paths = chain.from_iterable((*self.photos, *self.item_photos))
        vectors = self._photo_annotator.encode_photos(paths, encoder)
        return PhotoVectors.build(self.photos, self.item_photos, vectors, encoder.width)


def annotation_sums(
    annotations: Sequence[Note | Summary], encoder: Encoder, vocabulary: Sequence[str]
) -> EvidenceSums:
    """Notes of n reviews, or (the paper) summaries of n views, as vectors, which are means over
    sentences, and votes; categories by their place in `vocabulary`; no ratings."""
    blocks: dict[str, list[list[str]]] = {}
    code = dict(zip(vocabulary, range(len(vocabulary)), strict=True))
    price = np.zeros((len(annotations), len(PRICE_TAGS)), dtype=np.float32)
    categories = np.zeros((len(annotations), len(vocabulary)), dtype=np.float32)
    for row, annotation in enumerate(annotations):
        if isinstance(annotation, Summary):
            texts = {"summary": [annotation.text]}
        else:
            likes, dislikes = annotation.likes, annotation.dislikes
            texts = {"gist": [annotation.gist], "likes": likes, "dislikes": dislikes}
        for name, sentences in texts.items():
            blocks.setdefault(name, []).append(list(filter(None, sentences)))
        price[row, PRICE_TAGS.index(annotation.price)] = 1
        categories[row, [code[name] for name in annotation.categories if name in code]] = 1
    zero = np.zeros(len(annotations))
    vectors, present = {}, {}
    for name, groups in blocks.items():
        size = np.array([*map(len, groups)], dtype=np.int64)  # (n,)
        encoded = encoder.encode(list(chain.from_iterable(groups)) or [""])
        vectors[name] = np.zeros((len(groups), encoded.shape[1]), dtype=np.float16)
        if (filled := size > 0).any():
            start = (np.cumsum(size) - size)[filled]  # of every group's sentences
            total = np.add.reduceat(encoded.astype(np.float32), start, axis=0)
            vectors[name][filled] = total / size[filled, None]
        present[name] = filled.astype(np.float32)
    return EvidenceSums(zero, zero, vectors, present, price, categories)


@dataclass(frozen=True)
class PhotoVectors:
    """Vectors of what k photos show, and how often reviews, and items themselves, show each photo."""

    vectors: np.ndarray  # (k, d) float16
    counts: csr_matrix  # (n + m, k): of n reviews, then of m items
    reviews: int  # n

    @classmethod
    def build(
        cls, reviews: _Names, items: _Names, vectors: Mapping[str, np.ndarray], width: int
    ) -> PhotoVectors:
        """Build from names of photos and their vectors; photos without one are left out."""
        columns = dict(zip(vectors, range(len(vectors)), strict=True))
        stacked = np.stack([*vectors.values()]) if vectors else np.zeros((0, width), np.float16)
        cells: list[tuple[int, int]] = []
        for row, group in enumerate((*reviews, *items)):
            cells += [(row, columns[name]) for name in group if name in columns]
        indices = np.array(cells, dtype=np.int64).reshape(-1, 2).T
        ones, size = np.ones(len(cells), dtype=np.float32), len(reviews) + len(items)
        # The constructor adds up equal cells.
        counts = csr_matrix((ones, indices), shape=(size, len(columns)))
        return cls(stacked, counts, len(reviews))

    def view_means(self, views: EvidenceViews) -> tuple[np.ndarray, np.ndarray]:
        """(v, d) float16 means over the photos of each view of items (of its reviews, and the item's
        own), and (v,) numbers of photos."""
        reviews_have_photos = self.counts.indptr[self.reviews] > 0

        def total(values: np.ndarray) -> np.ndarray:
            """(v, c) sums of (k, c) values over the photos of each view."""
            shown: np.ndarray = self.counts @ values  # (n + m, c)
            sums = shown[self.reviews + views.entity]
            return sums + views.sum(shown) if reviews_have_photos else sums

        (photos, width), columns_at_once = self.vectors.shape, 128
        counts = total(np.ones((photos, 1), dtype=np.float32))[:, 0]
        means = files.allocate((len(views), width), np.float16)
        for start in range(0, width, columns_at_once):
            columns = slice(start, start + columns_at_once)
            sums = total(self.vectors[:, columns].astype(np.float32))
            means[:, columns] = sums / np.maximum(counts, 1)[:, None]
        return means, counts
