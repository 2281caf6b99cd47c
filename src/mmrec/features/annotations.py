"""Ratings and annotations of reviews, added up over views (DESIGN 3.2).

Both strategies end in `EvidenceSums`. With `notes`, every review is read once, and views add up
the notes of their reviews; with `summary` (the paper's), the reviews of a view are read together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from scipy.sparse import csr_matrix

from mmrec.data.files import allocate
from mmrec.encoder.text_encoder import Encoder
from mmrec.evidence.views import EvidenceViews
from mmrec.llm.types import PRICE_TAGS, Note, Summary

__all__ = ["EvidenceSums", "PhotoVectors", "annotation_sums", "rating_sums"]


@dataclass(frozen=True)
class EvidenceSums:
    """What the reviews of every view add up to; features are made of these alone.

    The same for n single reviews, before they are added up: then v is n.

    Attributes:
        rating_count, rating_sum: (v,) number of ratings, and their sum.
        vectors: block -> (v, d) mean vectors.
        text_count: block -> (v,) number of texts, or photos, behind each mean.
        price, categories: (v, 4) and (v, c) votes, as in `PRICE_TAGS` and the vocabulary.
    """

    rating_count: np.ndarray
    rating_sum: np.ndarray
    vectors: Mapping[str, np.ndarray]
    text_count: Mapping[str, np.ndarray]
    price: np.ndarray
    categories: np.ndarray

    def over(self, views: EvidenceViews) -> EvidenceSums:
        """The sums of views, from those of single reviews."""

        def total(values: np.ndarray) -> np.ndarray:
            return views.sum(values) if values.ndim > 1 else views.sum(values[:, None])[:, 0]

        sums = replace(self, vectors={})._map(total)
        vectors = {}
        for name, values in self.vectors.items():
            vectors[name] = views.mean(values, sums.text_count[name])
        return replace(sums, vectors=vectors)

    def __add__(self, more: EvidenceSums) -> EvidenceSums:
        """The sums over the reviews of both, view by view; blocks may be missing in either."""
        vectors = {**self.vectors, **more.vectors}
        count = {**self.text_count, **more.text_count}
        for name in self.vectors.keys() & more.vectors.keys():
            count[name] = self.text_count[name] + more.text_count[name]
            # The mean of two means, weighted by the number of texts behind each.
            share = (self.text_count[name] / np.maximum(count[name], 1))[:, None]  # (v, 1)
            vectors[name] = share * self.vectors[name] + (1 - share) * more.vectors[name]
        return EvidenceSums(
            self.rating_count + more.rating_count,
            self.rating_sum + more.rating_sum,
            vectors,
            count,
            self.price + more.price,
            self.categories + more.categories,
        )

    def zeros(self) -> EvidenceSums:
        """The sums of as many views without reviews."""
        return self._map(np.zeros_like)

    def take(self, views: np.ndarray) -> EvidenceSums:
        """The sums of some of the views."""
        return self._map(lambda values: values[views])

    def _map(self, change: Callable[[np.ndarray], np.ndarray]) -> EvidenceSums:
        return EvidenceSums(
            change(self.rating_count),
            change(self.rating_sum),
            {name: change(values) for name, values in self.vectors.items()},
            {name: change(values) for name, values in self.text_count.items()},
            change(self.price),
            change(self.categories),
        )


def rating_sums(rating: np.ndarray) -> EvidenceSums:
    """Single reviews as (n,) ratings only; NaN where a text came without one."""
    rated = ~np.isnan(rating)
    no_votes = np.zeros((len(rating), len(PRICE_TAGS)), dtype=np.float32)
    stars = np.where(rated, rating, 0).astype(np.float64)
    return EvidenceSums(rated.astype(np.float64), stars, {}, {}, no_votes, no_votes[:, :0])


def annotation_sums(
    annotations: Sequence[Note | Summary], encoder: Encoder, vocabulary: Sequence[str]
) -> EvidenceSums:
    """Notes of n reviews, or summaries of n views, as vectors and votes; without ratings.

    Each different sentence is encoded once, and a block is the mean of its sentences. Categories
    are coded by their place in `vocabulary`; others are ignored.
    """
    blocks: dict[str, list[list[str]]] = {}
    code = {category: column for column, category in enumerate(vocabulary)}
    price = np.zeros((len(annotations), len(PRICE_TAGS)), dtype=np.float32)
    categories = np.zeros((len(annotations), len(vocabulary)), dtype=np.float32)
    for row, annotation in enumerate(annotations):
        if isinstance(annotation, Summary):
            texts = {"summary": [annotation.text] if annotation.text else []}
        else:
            gist = [annotation.gist] if annotation.gist else []
            texts = {"gist": gist, "likes": annotation.likes, "dislikes": annotation.dislikes}
        for name, sentences in texts.items():
            blocks.setdefault(name, []).append(sentences)
        price[row, PRICE_TAGS.index(annotation.price)] = 1
        categories[row, [code[name] for name in annotation.categories if name in code]] = 1
    zero = np.zeros(len(annotations))
    vectors, present = {}, {}
    for name, groups in blocks.items():
        vectors[name] = _mean_vectors(groups, encoder)
        present[name] = np.array([*map(bool, groups)], np.float32)
    return EvidenceSums(zero, zero, vectors, present, price, categories)


def _mean_vectors(groups: Sequence[Sequence[str]], encoder: Encoder) -> np.ndarray:
    """(n, d) float16 mean vector of each group of texts; zero for an empty group."""
    texts = list(chain.from_iterable(groups))
    size = np.array([*map(len, groups)], dtype=np.int64)
    vectors = encoder.encode(texts or [""])
    means = np.zeros((len(groups), vectors.shape[1]), dtype=np.float16)
    filled = size > 0
    if filled.any():
        start = (np.cumsum(size) - size)[filled]  # of every group's texts
        total = np.add.reduceat(vectors.astype(np.float32), start, axis=0)
        means[filled] = total / size[filled, None]
    return means


@dataclass(frozen=True)
class PhotoVectors:
    """Vectors of what k photos show, and which reviews and items show them.

    Attributes:
        vectors: (k, d) float16.
        review_counts: (n, k) how often each review shows each photo.
        item_counts: (m, k) how often each item does so itself.
    """

    vectors: np.ndarray
    review_counts: csr_matrix
    item_counts: csr_matrix

    @classmethod
    def build(
        cls,
        reviews: Sequence[Sequence[str]],
        items: Sequence[Sequence[str]],
        vectors: Mapping[str, np.ndarray],
        width: int,
    ) -> PhotoVectors:
        """Build from the names of photos of (n) reviews and (m) items, and (width,) vectors.

        Names without a vector are left out.
        """
        columns = {name: column for column, name in enumerate(vectors)}
        stacked = np.zeros((0, width), dtype=np.float16)
        if vectors:
            stacked = np.stack(list(vectors.values()))
        return cls(stacked, _count_photos(reviews, columns), _count_photos(items, columns))

    def view_means(
        self, views: EvidenceViews, columns_at_once: int = 128
    ) -> tuple[np.ndarray, np.ndarray]:
        """(v, d) float16 means over the photos of each view of items, and (v,) numbers of photos.

        A view has the photos of its reviews and the item's own. Only `columns_at_once` columns are
        in memory as a dense sum over reviews.
        """
        photos, width = self.vectors.shape
        counts = self._sum(views, np.ones((photos, 1), dtype=np.float32))[:, 0]
        means = allocate((len(views), width), np.float16)
        for start in range(0, width, columns_at_once):
            columns = slice(start, start + columns_at_once)
            sums = self._sum(views, self.vectors[:, columns].astype(np.float32))
            means[:, columns] = sums / np.maximum(counts, 1)[:, None]
        return means, counts

    def _sum(self, views: EvidenceViews, values: np.ndarray) -> np.ndarray:
        """Sums (v, c) of values (k, c) over the photos of each view."""
        sums: np.ndarray = (self.item_counts @ values)[views.entity]
        if self.review_counts.nnz:
            sums = sums + views.sum(self.review_counts @ values)
        return sums


def _count_photos(groups: Sequence[Sequence[str]], columns: Mapping[str, int]) -> csr_matrix:
    """How often each group (row) names each photo (column)."""
    cells: list[tuple[int, int]] = []
    for row, group in enumerate(groups):
        cells += [(row, columns[name]) for name in group if name in columns]
    indices = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones(indices.shape[1], dtype=np.float32)
    # Entries at the same place are added up.
    return csr_matrix((ones, indices), shape=(len(groups), len(columns)))
