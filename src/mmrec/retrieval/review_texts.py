"""What reviews say of items: words that can be searched, sentences as vectors, categories, prices."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

import numpy as np
import polars as pl

from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.lexicon import split_words
from mmrec.llm.types import PRICE_TAGS, Note

HALF_MENTION = 0.45
"""Cosine, in deviations from the mean sentence, at which a sentence counts half as a mention."""


class ReviewTexts:
    """What reviews, or descriptions, say of items: words, sentences as vectors, labels, prices."""

    def __init__(
        self, item: np.ndarray, texts: Sequence[str], notes: Sequence[Note], encoder: Encoder
    ) -> None:
        self.item, self._encoder = item, encoder  # (n,) codes of the reviewed items
        folded, blamed = [], []
        for text, note in zip(texts, notes, strict=True):
            folded.append(fold(text))
            blamed.append(fold("\n".join(note.dislikes)))
        self._folded, self._blamed = (
            pl.Series(folded, dtype=pl.String),
            pl.Series(blamed, dtype=pl.String),
        )
        self.labels: dict[str, list[int]] = defaultdict(list)  # reviews by folded category
        for row, note in enumerate(notes):
            for label in note.categories:
                self.labels[fold(label)].append(row)
        price = np.array([PRICE_TAGS.index(note.price) for note in notes], dtype=np.int64)
        # Builtin notes take the opposite of cheap for expensive, but "not the cheapest" is fair.
        is_fair = self._folded.str.contains(r"\bnot (?:the cheapest|a bargain)\b").to_numpy()
        is_fair = is_fair & (price == PRICE_TAGS.index("overpriced"))
        self.price = np.where(is_fair, PRICE_TAGS.index("fair price"), price)
        # Of s sentences: (s,) the review, 1 for a like or -1 for a dislike, and (s, d) vectors.
        sentences = [[*note.likes, *note.dislikes] for note in notes]
        signs = [[1.0] * len(note.likes) + [-1.0] * len(note.dislikes) for note in notes]
        self._row = np.repeat(np.arange(len(notes)), [*map(len, sentences)])
        self._sign = np.array([*chain.from_iterable(signs)])
        vectors = encoder.encode([*chain.from_iterable(sentences)], "reading opinions")
        self.mean = vectors.mean(0, dtype=np.float32) if len(vectors) else np.float32(0)
        deviation = vectors - self.mean.astype(np.float16)
        length = np.linalg.norm(deviation.astype(np.float32), axis=1, keepdims=True)
        self._deviation = deviation / np.maximum(length, 1e-3).astype(np.float16)

    def mentions(self, pattern: str) -> tuple[np.ndarray, np.ndarray]:
        """(n,) whether reviews mention a pattern in folded words, and whether they blame it."""
        found = self._folded.str.contains(pattern).to_numpy()
        return found, self._blamed.str.contains(pattern).to_numpy()

    def has_label(self, labels: Sequence[str]) -> np.ndarray:
        """(n,) whether reviews have one of some categories, in folded words."""
        found = np.zeros(len(self.item), dtype=bool)
        for label in labels:
            found[self.labels.get(label, [])] = True
        return found

    def near(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) how surely a like, or a dislike, of each review means a (d,) vector, from 0 to 1."""
        direction = vector - self.mean
        direction /= max(float(np.linalg.norm(direction)), 1e-6)
        cosine = (self._deviation @ direction.astype(np.float16)).astype(np.float32)
        degree = 1 / (1 + np.exp((HALF_MENTION - cosine) / 0.05))
        result = np.zeros((2, len(self.item)))
        for place, sign in enumerate((1, -1)):
            np.maximum.at(result[place], self._row[self._sign == sign], degree[self._sign == sign])
        return result[0], result[1]


def fold(text: str) -> str:
    """Lower-case words without accents and punctuation."""
    return " ".join(split_words(text))


def word_pattern(words: Sequence[str]) -> str:
    """A pattern that finds some words in folded text, also in other forms ("spicy", "spices")."""
    parts = []
    for word in words:
        stem = re.sub(r"(?:ies|es|s|y)$", "", word) if len(word) > 4 else word.removesuffix("s")
        parts.append(rf"{re.escape(stem)}\w{{0,3}}" if len(stem) > 3 else rf"{re.escape(stem)}s?")
    return rf"\b{' '.join(parts)}\b"
