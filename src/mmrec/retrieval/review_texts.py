"""What reviews say of items: words that can be searched, sentences as vectors, categories, prices."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
import torch
from sklearn.preprocessing import normalize

from mmrec.encoder.known_vectors import InformedEncoder
from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.lexicon import split_words
from mmrec.llm.types import PRICE_TAGS, Note

# Cosine, in deviations from the mean sentence, at which a sentence counts half as a mention.
_HALF_MENTION = 0.45
_MENTION_WIDTH = 0.05  # of cosines, over which a sentence turns from no mention into one
_INNER_FILLERS = frozenset(
    ["a", "an", "the", "of", "to", "for", "in", "on", "at", "by", "from", "as"]
)
_CHUNK_ROWS = 65_536  # sentences that are in memory as float32
_PART_REVIEWS = 1000  # live ones, up to which a part is read again with those that come after


class ReviewTexts:
    """What reviews, or descriptions, say of items: words, sentences as vectors, labels, prices."""

    def __init__(
        self, item: np.ndarray, texts: Sequence[str], notes: Sequence[Note], encoder: Encoder
    ) -> None:
        self.item, self._encoder = item, encoder  # (n,) codes of the reviewed items
        plain, blamed, price = list[str](), list[str](), list[int]()
        self.labels: dict[str, list[int]] = defaultdict(list)  # reviews by category
        # Of s sentences: the review, 1 for a like or -1 for a dislike, and below (s, d) vectors.
        sentences, row_of, sign = list[str](), list[int](), list[int]()
        for row, (text, note) in enumerate(zip(texts, notes, strict=True)):
            plain.append(plain_words(text))
            blamed.append(plain_words("\n".join(note.dislikes)))
            price.append(PRICE_TAGS.index(note.price))
            for label in map(plain_words, note.categories):
                self.labels[label].append(row)
            sentences += [*note.likes, *note.dislikes]
            row_of += [row] * (len(note.likes) + len(note.dislikes))
            sign += [1] * len(note.likes) + [-1] * len(note.dislikes)
        self._texts = pl.Series(plain, dtype=pl.String)
        self._blamed = pl.Series(blamed, dtype=pl.String)
        self._row, self._sign = np.array(row_of, dtype=np.int64), np.array(sign)
        # Builtin notes take the opposite of cheap for expensive, but "not the cheapest" is fair.
        is_fair = self._texts.str.contains(r"\bnot (?:the cheapest|a bargain)\b")
        self.price = np.array(price, dtype=np.int64)
        is_fair = is_fair.to_numpy() & (self.price == PRICE_TAGS.index("overpriced"))
        self.price[is_fair] = PRICE_TAGS.index("fair price")
        vectors = encoder.encode(sentences, "reading opinions")
        self.mean = vectors.mean(0, dtype=np.float32) if len(vectors) else np.float32(0)
        deviation = vectors - self.mean.astype(np.float16)
        for block in np.array_split(deviation, 1 + len(deviation) // _CHUNK_ROWS):
            length = np.linalg.norm(block.astype(np.float32), axis=1, keepdims=True)
            block /= np.maximum(length, 1e-3).astype(np.float16)  # a part of `deviation`
        self._deviation = torch.from_numpy(deviation)  # whose float16 products are faster
        self.weight = np.ones(len(plain))  # (n,) 0 for reviews that no longer count

    def withdraw(self, row: int) -> None:
        """Let a review count no longer."""
        self.weight[row] = 0

    def mentions(self, pattern: str, *, blamed: bool = True) -> np.ndarray:
        """(n,) whether reviews mention a pattern in plain words; those that blame it, if wanted."""
        mentions = self._texts.str.contains(pattern).to_numpy()
        if blamed:
            return mentions
        return mentions & ~self._blamed.str.contains(pattern).to_numpy()

    def speaks_of(self, phrase: str, texts: Sequence[str]) -> np.ndarray:
        """(n,) whether other texts mention a phrase or, if none does, mean it."""
        pattern = re.compile(next(phrase_patterns(content_words(phrase)), plain_words(phrase)))
        matches = map(pattern.search, map(plain_words, texts))
        mentions = np.array([*map(bool, matches)], dtype=bool)
        if mentions.any() or not len(texts):
            return mentions
        vectors = self._encoder.encode([phrase, *texts]).astype(np.float32) - self.mean
        vectors = normalize(vectors)
        return np.asarray(vectors[1:] @ vectors[0] > _HALF_MENTION)

    def has_label(self, label: str) -> np.ndarray:
        """(n,) whether reviews have a category, in plain words."""
        return np.isin(np.arange(len(self.item)), self.labels.get(label, []))

    def meaning(self, vector: np.ndarray, blame: float) -> np.ndarray:
        """(n,) how surely a like of each review means a (d,) vector, from 0 to 1, plus the same of a
        dislike times `blame`."""
        direction = vector - self.mean
        direction /= max(float(np.linalg.norm(direction)), 1e-6)
        cosine = (self._deviation @ torch.from_numpy(direction).half()).float().numpy()
        degree = 1 / (1 + np.exp((_HALF_MENTION - cosine) / _MENTION_WIDTH))
        result = np.zeros((2, len(self.item)))
        for total, sign in zip(result, (1, -1), strict=True):
            np.maximum.at(total, self._row[self._sign == sign], degree[self._sign == sign])
        return np.asarray(result[0] + blame * result[1])


class GrowingTexts:
    """The texts of a fit, which are read on first use, and live ones, which come and go by their keys."""

    def __init__(self, read_fitted: Callable[[], ReviewTexts], encoder: Encoder) -> None:
        self._read_fitted, self._encoder = read_fitted, encoder
        self._parts: list[ReviewTexts] = []  # the first is that of the fit
        self._withdrawn: list[int] = []  # rows of the fit that no longer count
        # By key: item, text and note; those that no part has yet, and those of the last part.
        self._waiting: dict[object, tuple[int, str, Note]] = {}
        self._latest: dict[object, tuple[int, str, Note]] = {}
        self._places: dict[object, tuple[int, int]] = {}  # by key: part and row
        self._vectors: dict[str, np.ndarray] = {}  # of sentences of waiting notes

    @property
    def parts(self) -> list[ReviewTexts]:
        """All texts that count; live ones are read now, those of the last part a second time."""
        if not self._parts:
            self._parts.append(self._read_fitted())
        for row in self._withdrawn:
            self._parts[0].withdraw(row)
        self._withdrawn = []
        if self._waiting:
            if len(self._parts) > 1 and len(self._latest) < _PART_REVIEWS:
                self._parts.pop()
                self._waiting = {**self._latest, **self._waiting}
            self._add_part(InformedEncoder(self._encoder, self._vectors))
        return self._parts

    def _add_part(self, encoder: Encoder) -> None:
        items, texts, notes = zip(*self._waiting.values(), strict=True)
        part = len(self._parts)
        self._parts.append(ReviewTexts(np.array(items), texts, notes, encoder))
        for row, key in enumerate(self._waiting):
            self._places[key] = part, row
        self._latest, self._waiting, self._vectors = self._waiting, {}, {}

    def add(self, key: object, item: int, text: str, note: Note, encoder: Encoder) -> None:
        """Add a text about an item; `encoder` may know the vectors of its note."""
        self._waiting[key] = item, text, note
        if isinstance(encoder, InformedEncoder):
            known = encoder.known
            sentences = (*note.likes, *note.dislikes)
            self._vectors |= {name: known[name] for name in sentences if name in known}
        if len(self._waiting) >= _PART_REVIEWS:
            _ = self.parts

    def withdraw(self, key: object) -> None:
        """Let a live text count no longer."""
        self._waiting.pop(key, None)
        self._latest.pop(key, None)
        if key in self._places:
            part, row = self._places.pop(key)
            self._parts[part].withdraw(row)

    def withdraw_fitted(self, row: int) -> None:
        """Let a text of the fit count no longer."""
        self._withdrawn.append(row)


def plain_words(text: str) -> str:
    """Lower-case words without accents and punctuation."""
    return " ".join(split_words(text))


def content_words(phrase: str) -> list[str]:
    """The words of a phrase without articles and prepositions."""
    return [word for word in split_words(phrase) if word not in _INNER_FILLERS]


def phrase_patterns(words: Sequence[str]) -> Iterator[str]:
    """Patterns of a phrase, or all its parts of five words, then of ever shorter parts of it."""
    for size in range(min(len(words), 5), 0, -1):
        starts = range(len(words) - size + 1)
        yield "|".join(_word_pattern(words[start : start + size]) for start in starts)


def _word_pattern(words: Sequence[str]) -> str:
    """A pattern that finds some words in plain text, also in other forms ("spicy", "spices")."""
    parts = []  # not \w, which is so large a class that few words would fill all memory
    for word in words:
        stem = re.sub(r"(?:ies|es|s|y)$", "", word) if len(word) > 4 else word.removesuffix("s")
        parts.append(rf"{re.escape(stem)}\S{{0,3}}" if len(stem) > 3 else rf"{re.escape(stem)}s?")
    return rf"\b{' '.join(parts)}\b"
