"""What is known in words of users and items: notes read once, or the paper's summaries (DESIGN 3.2).

Both strategies end in the same thing, `Sums`: vectors, price votes and category votes of every view of
one side. With notes they are added up over the view's reviews; with summaries a language model reads the
view's reviews as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.evidence.policies import EvidenceViews
from mmrec.llm.types import PRICE_TAGS, Note, PriceTag, Summary

__all__ = ["EvidenceSums", "NoteArrays", "rating_sums", "summary_sums"]


class Annotation(Protocol):
    """What notes and summaries have in common."""

    @property
    def price(self) -> PriceTag: ...
    @property
    def categories(self) -> list[str]: ...


@dataclass(frozen=True)
class EvidenceSums:
    """What the reviews of every view of one side add up to; features are made of it alone.

    Attributes:
        rating_count, rating_sum: (v,) number of ratings, and their sum.
        vectors: name -> (v, d) means of vectors.
        text_count: name -> (v,) number of texts or photos in them.
        price: (v, 4) votes by `PRICE_TAGS`.
        categories: (v, c) votes by the category vocabulary.
    """

    rating_count: np.ndarray
    rating_sum: np.ndarray
    vectors: dict[str, np.ndarray]
    text_count: dict[str, np.ndarray]
    price: np.ndarray
    categories: np.ndarray

    def __add__(self, more: EvidenceSums) -> EvidenceSums:
        """Both together, view by view; blocks that one of them lacks are the other's."""
        mine, theirs = self.text_count, more.text_count
        both = self.vectors.keys() & more.vectors.keys()
        shared = {
            name: (mine[name] / np.maximum(mine[name] + theirs[name], 1))[:, None] for name in both
        }
        means = {
            name: x * self.vectors[name] + (1 - x) * more.vectors[name]
            for name, x in shared.items()
        }
        voices = {name: mine[name] + theirs[name] for name in mine.keys() & theirs.keys()}
        return EvidenceSums(
            self.rating_count + more.rating_count,
            self.rating_sum + more.rating_sum,
            self.vectors | more.vectors | means,
            mine | theirs | voices,
            self.price + more.price,
            self.categories + more.categories,
        )

    def zeros(self) -> EvidenceSums:
        """Of as many views, of which nobody has said anything."""
        vectors, voices = (
            {name: np.zeros_like(x) for name, x in own.items()}
            for own in (self.vectors, self.text_count)
        )
        rest = (np.zeros_like(x) for x in (self.price, self.categories))
        return EvidenceSums(
            np.zeros_like(self.rating_count), np.zeros_like(self.rating_sum), vectors, voices, *rest
        )

    def take(self, views: np.ndarray) -> EvidenceSums:
        """Those of some of the views."""
        vectors, voices = (
            {name: values[views] for name, values in named.items()}
            for named in (self.vectors, self.text_count)
        )
        return EvidenceSums(
            self.rating_count[views],
            self.rating_sum[views],
            vectors,
            voices,
            self.price[views],
            self.categories[views],
        )


@dataclass(frozen=True)
class NoteArrays:
    """Notes of n reviews as arrays.

    Attributes:
        vectors: `gist`, `likes`, `dislikes` -> (n, d) float16, the mean over a note's sentences.
        present: the same names -> (n,) whether the note has any.
        price: (n, 4) float32 one vote by `PRICE_TAGS`.
        categories: (n, c) float32 one vote for each category of the note that is in the vocabulary.
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
        parts = {
            "gist": [[note.gist] if note.gist else [] for note in notes],
            "likes": [note.likes for note in notes],
            "dislikes": [note.dislikes for note in notes],
        }
        vectors = {name: _mean_vectors(texts, encoder) for name, texts in parts.items()}
        spoken = {name: np.array([bool(text) for text in texts]) for name, texts in parts.items()}
        price, categories = _votes(notes, vocabulary)
        return cls(vectors, spoken, price, categories)

    def sums(self, side: EvidenceViews) -> EvidenceSums:
        """Add up over every view of a side; ratings are not in it."""
        voices = {
            name: side.sum(x[:, None].astype(np.float32))[:, 0] for name, x in self.present.items()
        }
        vectors = {name: side.mean(values, voices[name]) for name, values in self.vectors.items()}
        nothing = np.zeros(len(side))
        return EvidenceSums(
            nothing, nothing, vectors, voices, side.sum(self.price), side.sum(self.categories)
        )


def rating_sums(side: EvidenceViews, rating: np.ndarray) -> EvidenceSums:
    """Number and sum of the ratings of every view, from (n,) stars; NaN where a text came without one."""
    rated = ~np.isnan(rating)
    columns = np.stack([rated, np.where(rated, rating, 0)], axis=1).astype(np.float64)
    ratings, stars = side.sum(columns).T
    price, votes = (np.zeros((len(side), size), dtype=np.float32) for size in (len(PRICE_TAGS), 0))
    return EvidenceSums(ratings, stars, {}, {}, price, votes)


def summary_sums(
    summaries: Sequence[Summary], encoder: Encoder, vocabulary: Sequence[str]
) -> EvidenceSums:
    """Embed what was written of every view of a side (paper, section 3.2)."""
    written = [[summary.text] if summary.text else [] for summary in summaries]
    price, categories = _votes(summaries, vocabulary)
    nothing = np.zeros(len(summaries))
    vectors = {"summary": _mean_vectors(written, encoder).astype(np.float32)}
    voices = {"summary": np.array([len(text) for text in written], dtype=np.float32)}
    return EvidenceSums(nothing, nothing, vectors, voices, price, categories)


def _mean_vectors(groups: Sequence[Sequence[str]], encoder: Encoder) -> np.ndarray:
    """(n, d) float16 mean vector of each group of texts; zero for an empty group."""
    flat = [text for group in groups for text in group]
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    encoded = encoder.encode(flat or [""])
    out = np.zeros((len(groups), encoded.shape[1]), dtype=np.float16)
    if flat:
        starts = np.cumsum(sizes) - sizes
        some = sizes > 0
        sums = np.add.reduceat(encoded.astype(np.float32), starts[some], axis=0)
        out[some] = sums / sizes[some, None]
    return out


def _votes(
    answers: Sequence[Annotation], vocabulary: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    code = {category: at for at, category in enumerate(vocabulary)}
    price = np.zeros((len(answers), len(PRICE_TAGS)), dtype=np.float32)
    categories = np.zeros((len(answers), len(vocabulary)), dtype=np.float32)
    for row, answer in enumerate(answers):
        price[row, PRICE_TAGS.index(answer.price)] = 1
        for category in answer.categories:
            if category in code:
                categories[row, code[category]] = 1
    return price, categories
