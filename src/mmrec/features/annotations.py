"""What language models read out of the reviews of users and items, added up over views (DESIGN
3.2).

Both strategies end in the same thing, `EvidenceSums`. With `notes` every review is read once, and
the notes are added up over a view; with `summary` (the paper's) the reviews of a view are read as
a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.evidence.views import EvidenceViews
from mmrec.llm.types import PRICE_TAGS, Note, Summary

__all__ = ["EvidenceSums", "NoteArrays", "rating_sums", "summary_sums"]


@dataclass(frozen=True)
class EvidenceSums:
    """What the reviews of every view add up to; features are made of these alone.

    Attributes:
        rating_count, rating_sum: (v,) number of ratings, and their sum.
        vectors: block -> (v, d) mean vectors.
        text_count: block -> (v,) number of texts, or photos, behind each mean.
        price: (v, 4) votes, in the order of `PRICE_TAGS`.
        categories: (v, c) votes, in the order of the vocabulary.
    """

    rating_count: np.ndarray
    rating_sum: np.ndarray
    vectors: dict[str, np.ndarray]
    text_count: dict[str, np.ndarray]
    price: np.ndarray
    categories: np.ndarray

    def __add__(self, other: EvidenceSums) -> EvidenceSums:
        """The sums over the reviews of both, view by view; a block that one lacks is the other's."""
        vectors, text_count = dict(self.vectors), dict(self.text_count)
        for name, mean in other.vectors.items():
            if name in vectors:
                mine, theirs = self.text_count[name], other.text_count[name]
                share = (mine / np.maximum(mine + theirs, 1))[:, None]  # (v, 1)
                mean = share * vectors[name] + (1 - share) * mean
            vectors[name] = mean
        for name, count in other.text_count.items():
            text_count[name] = text_count.get(name, 0) + count
        return EvidenceSums(
            self.rating_count + other.rating_count,
            self.rating_sum + other.rating_sum,
            vectors,
            text_count,
            self.price + other.price,
            self.categories + other.categories,
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


@dataclass(frozen=True)
class NoteArrays:
    """Notes of n reviews as arrays.

    Attributes:
        vectors: `gist`, `likes`, `dislikes` -> (n, d) float16, the mean over a note's sentences.
        present: the same blocks -> (n,) whether the note has any.
        price: (n, 4) float32, one vote by `PRICE_TAGS`.
        categories: (n, c) float32, one vote for each category of the note that is in the
            vocabulary.
    """

    vectors: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    price: np.ndarray
    categories: np.ndarray

    @classmethod
    def from_notes(
        cls, notes: Sequence[Note], encoder: Encoder, vocabulary: Sequence[str]
    ) -> NoteArrays:
        """Embed notes; each different sentence is encoded once."""
        texts = {
            "gist": [[note.gist] if note.gist else [] for note in notes],
            "likes": [note.likes for note in notes],
            "dislikes": [note.dislikes for note in notes],
        }
        vectors = {name: _mean_vectors(groups, encoder) for name, groups in texts.items()}
        present = {name: np.array(list(map(bool, groups))) for name, groups in texts.items()}
        return cls(vectors, present, *_votes(notes, vocabulary))

    def sums(self, views: EvidenceViews) -> EvidenceSums:
        """Add up over every view; ratings are left at zero."""
        vectors, text_count = {}, {}
        for name, values in self.vectors.items():
            present = self.present[name][:, None].astype(np.float32)
            text_count[name] = views.sum(present)[:, 0]
            vectors[name] = views.mean(values, text_count[name])
        zero = np.zeros(len(views))
        votes = views.sum(self.price), views.sum(self.categories)
        return EvidenceSums(zero, zero, vectors, text_count, *votes)


def rating_sums(views: EvidenceViews, rating: np.ndarray) -> EvidenceSums:
    """Number and sum of the ratings of every view, from (n,) stars; NaN for a text without a
    rating."""
    rated = ~np.isnan(rating)
    columns = np.stack([rated, np.where(rated, rating, 0)], axis=1).astype(np.float64)
    count, total = views.sum(columns).T
    no_price = np.zeros((len(views), len(PRICE_TAGS)), dtype=np.float32)
    return EvidenceSums(count, total, {}, {}, no_price, no_price[:, :0])


def summary_sums(
    summaries: Sequence[Summary], encoder: Encoder, vocabulary: Sequence[str]
) -> EvidenceSums:
    """Embed the summary of every view (paper, section 3.2); ratings are left at zero."""
    texts = [[summary.text] if summary.text else [] for summary in summaries]
    vectors = {"summary": _mean_vectors(texts, encoder).astype(np.float32)}
    text_count = {"summary": np.array(list(map(len, texts)), dtype=np.float32)}
    zero = np.zeros(len(summaries))
    return EvidenceSums(zero, zero, vectors, text_count, *_votes(summaries, vocabulary))


def _mean_vectors(groups: Sequence[Sequence[str]], encoder: Encoder) -> np.ndarray:
    """(n, d) float16 mean vector of each group of texts; zero for an empty group."""
    texts = [text for group in groups for text in group]
    size = np.array(list(map(len, groups)), dtype=np.int64)
    vectors = encoder.encode(texts or [""])
    means = np.zeros((len(groups), vectors.shape[1]), dtype=np.float16)
    if texts:
        filled = size > 0
        start = (np.cumsum(size) - size)[filled]
        total = np.add.reduceat(vectors.astype(np.float32), start, axis=0)
        means[filled] = total / size[filled, None]
    return means


def _votes(
    annotations: Sequence[Note] | Sequence[Summary], vocabulary: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) one vote for a price tag, and (n, c) one for each category that the vocabulary has."""
    code = {category: position for position, category in enumerate(vocabulary)}
    price = np.zeros((len(annotations), len(PRICE_TAGS)), dtype=np.float32)
    categories = np.zeros((len(annotations), len(vocabulary)), dtype=np.float32)
    for row, annotation in enumerate(annotations):
        price[row, PRICE_TAGS.index(annotation.price)] = 1
        codes = [code[category] for category in annotation.categories if category in code]
        categories[row, codes] = 1
    return price, categories
