"""What the extractive model knows of words and meanings, from `vocabulary.json`."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Generic, TypeVar
from unicodedata import combining, normalize

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.types import PRICE_TAGS, PriceTag

__all__ = ["Lexicon", "Phrases", "Words", "ZeroShotScorer", "split_words"]

Meaning = TypeVar("Meaning")
Words = list[str]
"""A sentence in lower case without accents: words, and emoji one by one."""
# Share of all items assumed for a category without a known share.
_DEFAULT_SHARE = 0.1


class Phrases(Generic[Meaning]):
    """Phrases of one to four words and their meanings; finds them in sentences.

    Args:
        meanings: what each phrase means; phrases are normalized as sentences are.
    """

    def __init__(self, meanings: Mapping[str, Meaning]) -> None:
        self._meanings: dict[str, Meaning] = {}
        self._max_length: dict[str, int] = defaultdict(int)  # by first word, in words
        for phrase, meaning in meanings.items():
            words = split_words(phrase)
            self._meanings[" ".join(words)] = meaning
            self._max_length[words[0]] = max(self._max_length[words[0]], len(words))

    def find(self, words: Words) -> list[tuple[int, str, Meaning]]:
        """Position, phrase and meaning of each match, the longest first, without overlaps.

        A phrase also matches with a plural "s".
        """
        matches = []
        start = 0
        while start < len(words):
            first = words[start]
            singular = first.removesuffix("s")
            length = max(self._max_length.get(first, 0), self._max_length.get(singular, 0))
            for end in range(min(start + length, len(words)), start, -1):
                phrase = " ".join(words[start:end])
                if phrase not in self._meanings:
                    phrase = phrase.removesuffix("s")
                if phrase in self._meanings:
                    matches.append((start, phrase, self._meanings[phrase]))
                    start = end - 1
                    break
            start += 1
        return matches


class Lexicon:
    """The vocabulary of `restaurant`, of `film`, or the generic one of any other kind of item.

    Attributes:
        revision: first 12 hexadecimal digits of the SHA-256 of the vocabulary file.
        praise, blame: model sentences on the same subjects.
        price_sentences: model sentences of each price tag.
        margin: standard deviations by which a sentence must be closer to a category than neutral
            ones are, to have it without a keyword.
        labels: names of the categories.
        prompts: a sentence about an item of each category.
        listings: each label and its keywords.
        shares: rough share of all items that have each label, from general knowledge.
        keywords: words and phrases, with the indices of the labels that they suggest.
    """

    def __init__(self, item_kind: str) -> None:
        raw = resources.files("mmrec.llm").joinpath("vocabulary.json").read_bytes()
        vocabulary = json.loads(raw)
        kind = vocabulary["kinds"].get(item_kind.strip().lower(), vocabulary["kinds"]["generic"])
        self.revision = hashlib.sha256(raw).hexdigest()[:12]
        self.praise: list[str] = kind["anchors"]["positive"]
        self.blame: list[str] = kind["anchors"]["negative"]
        self.price_sentences: dict[PriceTag, list[str]] = kind["price"]["anchors"]
        self.margin: float = kind["margin"]
        self.labels = list(kind["categories"])
        self.prompts, self.listings, self.shares = [], [], []
        keywords: dict[str, list[int]] = defaultdict(list)
        for index, (label, category) in enumerate(kind["categories"].items()):
            names = [label, *category["keywords"]]
            self.prompts.append(category["prompt"])
            self.listings.append(", ".join(names))
            self.shares.append(category.get("common", _DEFAULT_SHARE))
            for name in dict.fromkeys(names):
                keywords[name].append(index)
        self.keywords = Phrases(keywords)
        weights = {"strong_positive": 2.0, "positive": 1.0}
        weights |= {"negative": -1.0, "strong_negative": -2.0}
        opinions: dict[str, float] = {}
        for name, weight in weights.items():
            opinions.update(dict.fromkeys(vocabulary["polarity"][name], weight))
        self._opinions = Phrases(opinions)
        self._negations = frozenset(vocabulary["negations"])
        self._price_words = frozenset(kind["price"]["words"])
        tags: dict[str, PriceTag] = {}
        for tag in PRICE_TAGS:
            tags.update(dict.fromkeys(kind["price"]["phrases"].get(tag, []), tag))
        self._price_phrases = Phrases(tags)

    def opinion_score(self, words: Words) -> float:
        """Praise minus blame in a sentence, words of strong opinion counting twice.

        A negation shortly before a word reverses and weakens it.
        """
        score = 0.0
        for position, _, weight in self._opinions.find(words):
            score += -0.6 * weight if self._is_negated(words, position) else weight
        return score

    def price_tags(self, words: Words) -> list[PriceTag]:
        """The price tags that phrases of a sentence state, in order; "not cheap" is overpriced."""
        opposite: dict[PriceTag, PriceTag] = {"overpriced": "fair price"}
        tags: list[PriceTag] = []
        for position, _, tag in self._price_phrases.find(words):
            is_negated = self._is_negated(words, position)
            tags.append(opposite.get(tag, "overpriced") if is_negated else tag)
        return tags

    def mentions_price(self, sentence: str, words: Words) -> bool:
        """Whether a sentence names an amount of money or a word of paying."""
        has_amount = re.search(r"[$₹£€]\s?\d", sentence) is not None
        return has_amount or not self._price_words.isdisjoint(words)

    def _is_negated(self, words: Words, position: int) -> bool:
        """Whether an odd number of negations is among the three words before a position."""
        # Two negations cancel out: "never not good".
        before = words[max(0, position - 3) : position]
        return sum(map(self._negations.__contains__, before)) % 2 == 1


def split_words(sentence: str) -> Words:
    """Normalize a sentence to words that can be looked up: "Crème-brûlée!" is `creme`, `brulee`."""
    text = sentence.replace("’", "'").lower()
    if not text.isascii():
        text = "".join(sign for sign in normalize("NFKD", text) if not combining(sign))
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*|[\U0001F300-\U0001FAFF\u2600-\u27BF\u2B50]", text)


class ZeroShotScorer:
    """Scores sentences by the closeness of their vectors to model sentences of a lexicon.

    All constants come from the lexicon's sentences, never from those that are scored, so that a
    score depends on its sentence alone.
    """

    def __init__(self, encoder: Encoder, lexicon: Lexicon) -> None:
        def encode(texts: Sequence[str]) -> np.ndarray:
            return encoder.encode(texts, "reading the vocabulary").astype(np.float32)

        praise, blame = encode(lexicon.praise), encode(lexicon.blame)
        self._blame, self._praise = blame.mean(0), praise.mean(0)
        # From cheap to overpriced.
        self._tags = np.stack([encode(texts).mean(0) for texts in lexicon.price_sentences.values()])
        labels = _normalize(encode(lexicon.prompts) + encode(lexicon.listings))
        # Cosines of neutral sentences and of the other labels tell what is close to a label.
        neutral = np.concatenate([praise, blame])
        self._labels = _normalize(labels - labels.mean(0))
        self._center = neutral.mean(0)
        background = (np.concatenate([neutral, labels]) - self._center) @ self._labels.T
        # A label is no background of its own.
        np.fill_diagonal(background[len(neutral) :], np.nan)
        self._mean, self._deviation = np.nanmean(background, axis=0), np.nanstd(background, axis=0)
        self._bonus = 0.6 * np.log(np.array(lexicon.shares, np.float32) / _DEFAULT_SHARE)

    def opinions(self, vectors: np.ndarray) -> np.ndarray:
        """Position of sentences (n, d) from mean blame -1 to mean praise 1: (n,)."""
        return _position(vectors.astype(np.float32), self._blame, self._praise)

    def prices(self, vectors: np.ndarray) -> np.ndarray:
        """-1 where sentences (n, d) about prices clearly say cheap, 1 expensive, else 0: (n,)."""
        vectors = vectors.astype(np.float32)
        is_close = (vectors @ _normalize(self._tags).T).max(1, initial=0) > 0.5
        position = _position(vectors, self._tags[0], self._tags[-1])
        verdicts: np.ndarray = np.sign(position) * (is_close & (np.abs(position) > 0.6))
        return verdicts

    def categories(self, vectors: np.ndarray) -> np.ndarray:
        """Standard deviations by which sentences (n, d) are closer to labels: (n, labels).

        Labels that many items have get a bonus, rare ones a malus.
        """
        cosines = (vectors.astype(np.float32) - self._center) @ self._labels.T
        scores: np.ndarray = (cosines - self._mean) / self._deviation + self._bonus
        return scores


def _position(vectors: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where vectors (n, d) lie on the line from `low` (d,) at -1 to `high` (d,) at 1: (n,)."""
    direction = high - low
    positions: np.ndarray = (vectors - (low + high) / 2) @ direction * 2 / (direction @ direction)
    return positions


def _normalize(vectors: np.ndarray) -> np.ndarray:
    units: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units
