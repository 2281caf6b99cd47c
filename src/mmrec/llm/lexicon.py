"""What the extractive model knows of language: sentences, words of `vocabulary.json`, meanings."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from itertools import chain
from typing import Any, Generic, TypeVar
from unicodedata import combining, normalize

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.types import MAX_WISH_WORDS, PriceTag

Meaning = TypeVar("Meaning")
Words = list[str]
"""A sentence in lower case without accents: words, and emoji one by one."""
_MAX_CHARACTERS = 600
_SENTENCE_END = re.compile(
    r"(?<=[.!?…][\"'”’)\]])\s+"
    r"|(?<=[.!?…।])\s+"
    r"|(?<=[。！？])(?![。！？])"
    r"|(?<=[!?])(?=\w)"  # no space after the mark
    r"|(?<=[.\s]\.)(?=[^\W\d_])"
    r"|(?<=[^\W\d_A-Z]{2}\.)(?=[A-Z][a-z])"  # no space after the full stop
)
_CONTRAST = re.compile(
    r"(?:(?<=,)\s*|\s+)(?=but\s(?!also\b))"
    r"|(?<=,)\s*(?=(?:however|although|though|yet|whereas)\b)"
    r"|(?<=;)\s+"
    r"|\s+(?=however\s)",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """Split a review into sentences, in order, each verbatim but for runs of white space.

    Line breaks, bullets, sentence ends and contrasts (", but", "however", ";") separate; what has
    no letter joins its neighbour. No sentence has more than 60 words or 600 characters.
    """
    unprintable = r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]"
    bullet = r"^\s*(?:[-–—*•●▪◦·>✓✔➤➡️]+|\(?\d{1,2}[.)](?!\d))\s*"
    letter = re.compile(r"[^\W\d_]")
    sentences: list[str] = []
    for line in re.split(r"[\r\n\v\f\x85\u2028\u2029]+", re.sub(unprintable, " ", text)):
        for sentence in _split_line(re.sub(bullet, "", line, count=1)):
            last = sentences[-1] if sentences else ""
            has_words = letter.search(sentence) and letter.search(last)
            if last and not has_words and len(last) + len(sentence) < _MAX_CHARACTERS // 2:
                sentences[-1] = f"{last} {sentence}"
            else:
                sentences.append(sentence)
    return list(chain.from_iterable(map(_limit_length, sentences)))


def _split_line(line: str) -> list[str]:
    """The sentences and clauses of one line; abbreviations do not end them."""
    never_last = r"\b(?:mr|mrs|ms|dr|st|vs|jr|sr|rs|approx|prof|mt|ft|inc|e\.g|i\.e|[a-z])\.$"
    maybe_last = r"\b(?:etc|[ap]\.m|co|min|mins)\.$"
    sentences: list[str] = []
    for piece in _SENTENCE_END.split(line):
        piece = " ".join(piece.split())
        if not piece:
            continue
        ending = sentences[-1][-16:] if sentences else ""
        goes_on = re.search(never_last, ending, re.IGNORECASE)
        if not goes_on and piece[0].islower():
            goes_on = re.search(maybe_last, ending, re.IGNORECASE)
        if goes_on:
            sentences[-1] = f"{sentences[-1]} {piece}"
        else:
            sentences.append(piece)
    clauses: list[str] = []
    for sentence in sentences:
        first, *later = _CONTRAST.split(sentence)
        clauses.append(first)
        for clause in later:
            if _count_words(clause) < 3 or _count_words(clauses[-1]) < 2:
                clauses[-1] = f"{clauses[-1]} {clause}"
            else:
                clauses.append(clause)
    return clauses


def _count_words(text: str) -> int:
    return sum(re.search(r"[^\W_]", word) is not None for word in text.split())


def _limit_length(sentence: str, max_words: int = 60) -> list[str]:
    """Cut run-on text at its last comma within 60 words, else after 60; endless words by length."""
    pieces = []
    words = sentence.split(" ")
    while words:
        end = max_words
        if len(words) > end:
            positions = range(end, end // 2 + 1, -1)
            end = next((stop for stop in positions if words[stop - 1][-1] in ",;:-"), end)
        piece, words = " ".join(words[:end]), words[end:]
        for start in range(0, len(piece), _MAX_CHARACTERS):
            pieces.append(piece[start : start + _MAX_CHARACTERS].strip())
    return list(filter(None, pieces))


def split_words(sentence: str) -> Words:
    """Normalize a sentence to words that can be looked up: "Crème-brûlée!" is `creme`, `brulee`."""
    text = sentence.replace("’", "'").lower()
    if not text.isascii():
        text = "".join(sign for sign in normalize("NFKD", text) if not combining(sign))
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*|[\U0001F300-\U0001FAFF\u2600-\u27BF\u2B50]", text)


def is_wish(text: str) -> bool:
    """Whether a text is short enough to state a wish; a longer one describes a taste."""
    return len(split_words(text)) <= MAX_WISH_WORDS


class Phrases(Generic[Meaning]):
    """Phrases of some words, normalized as sentences are, and what each of them means."""

    def __init__(self, meanings: Mapping[str, Meaning]) -> None:
        self._meanings: dict[str, Meaning] = {}
        self._longest: dict[str, int] = defaultdict(int)  # by first word, in words
        for phrase, meaning in meanings.items():
            words = split_words(phrase)
            self._meanings[" ".join(words)] = meaning
            self._longest[words[0]] = max(self._longest[words[0]], len(words))

    @classmethod
    def by_meaning(cls, phrases: Mapping[Meaning, Iterable[str]]) -> Phrases[Meaning]:
        """From all phrases of each meaning."""
        meanings: dict[str, Meaning] = {}
        for meaning, names in phrases.items():
            meanings |= dict.fromkeys(names, meaning)
        return cls(meanings)

    def find(self, words: Words) -> list[tuple[int, str, Meaning]]:
        """Position, phrase and meaning of the longest matches, also with a plural "s"."""
        matches = []
        start = 0
        while start < len(words):
            first = words[start]
            singular = first.removesuffix("s")
            length = max(self._longest.get(first, 0), self._longest.get(singular, 0))
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

    It has model sentences (anchors) that praise and blame the same subjects, and of each price tag;
    words of prices; and of every category (label) a model sentence, keywords, and its rough share
    of all items, from general knowledge. `keywords` suggest indices of labels.
    """

    def __init__(self, item_kind: str) -> None:
        raw = resources.files("mmrec.llm").joinpath("vocabulary.json").read_bytes()
        content = json.loads(raw)
        kinds: dict[str, dict[str, Any]] = content["kinds"]
        self.revision = hashlib.sha256(raw).hexdigest()[:12]
        self.vocabulary = kinds.get(item_kind.strip().lower(), kinds["generic"])
        self.labels = list(self.vocabulary["categories"])
        keywords: dict[str, list[int]] = defaultdict(list)
        for index, (label, category) in enumerate(self.vocabulary["categories"].items()):
            for name in dict.fromkeys([label, *category["keywords"]]):
                keywords[name].append(index)
        self.keywords = Phrases(keywords)
        weights = {
            "strong_positive": 2.0,
            "positive": 1.0,
            "negative": -1.0,
            "strong_negative": -2.0,
        }
        opinions = {weight: content["polarity"][name] for name, weight in weights.items()}
        self._opinions = Phrases.by_meaning(opinions)
        self._negations = frozenset(content["negations"])
        prices = self.vocabulary["price"]
        self._price_phrases: Phrases[PriceTag] = Phrases.by_meaning(prices["phrases"])
        self._price_words = frozenset(prices["words"])

    def opinion_score(self, words: Words) -> float:
        """Praise minus blame, strong words counting twice; a negation reverses and weakens one."""
        score = 0.0
        for position, _, weight in self._opinions.find(words):
            score += -0.6 * weight if self._is_negated(words, position) else weight
        return score

    def price_phrases(self, words: Words) -> list[tuple[int, str, PriceTag]]:
        """Position, phrase and tag of what a sentence says of prices, whether negated or not."""
        return self._price_phrases.find(words)

    def price_tags(self, words: Words) -> list[PriceTag]:
        """The price tags that phrases of a sentence state, in order; "not cheap" is overpriced."""
        opposite: dict[PriceTag, PriceTag] = {"overpriced": "fair price"}
        tags: list[PriceTag] = []
        for position, _, tag in self.price_phrases(words):
            is_negated = self._is_negated(words, position)
            tags.append(opposite.get(tag, "overpriced") if is_negated else tag)
        return tags

    def mentions_price(self, sentence: str, words: Words) -> bool:
        """Whether a sentence names an amount of money or a word of paying."""
        return bool(re.search(r"[$₹£€]\s?\d", sentence) or self._price_words.intersection(words))

    def _is_negated(self, words: Words, position: int) -> bool:
        # By an odd number of the three words before: two cancel out ("never not good").
        before = words[max(0, position - 3) : position]
        return sum(map(self._negations.__contains__, before)) % 2 == 1


class ZeroShotScorer:
    """Scores sentences, each alone, by closeness to a lexicon's model sentences."""

    def __init__(self, encoder: Encoder, lexicon: Lexicon) -> None:
        def encode(texts: Sequence[str]) -> np.ndarray:
            return encoder.encode(texts, "reading the vocabulary").astype(np.float32)

        vocabulary = lexicon.vocabulary
        anchors, tags = vocabulary["anchors"], vocabulary["price"]["anchors"]
        praise, blame = encode(anchors["positive"]), encode(anchors["negative"])
        self._blame, self._praise = blame.mean(0), praise.mean(0)
        self._tags = np.stack([encode(texts).mean(0) for texts in tags.values()])  # cheap first
        prompts, listings, shares = [], [], []
        default_share = 0.1  # of items, for a category without a known share
        for label, category in vocabulary["categories"].items():
            prompts.append(category["prompt"])
            listings.append(", ".join([label, *category["keywords"]]))
            shares.append(category.get("common", default_share))
        labels = _normalize(encode(prompts) + encode(listings))
        # Cosines of neutral sentences and other labels tell what is close to a label.
        neutral = np.concatenate([praise, blame])
        self._labels = _normalize(labels - labels.mean(0))
        self._center = neutral.mean(0)
        background = (np.concatenate([neutral, labels]) - self._center) @ self._labels.T
        np.fill_diagonal(background[len(neutral) :], np.nan)  # each label itself
        self._mean = np.nanmean(background, axis=0)
        self._deviation = np.nanstd(background, axis=0)
        self._bonus = 0.6 * np.log(np.array(shares, np.float32) / default_share)

    def opinions(self, vectors: np.ndarray) -> np.ndarray:
        """Position of sentences (n, d) from mean blame -1 to mean praise 1: (n,)."""
        return _position(vectors.astype(np.float32), self._blame, self._praise)

    def prices(self, vectors: np.ndarray) -> np.ndarray:
        """-1 where sentences (n, d) about prices clearly say cheap, 1 expensive, else 0: (n,)."""
        vectors = vectors.astype(np.float32)
        is_close = (vectors @ _normalize(self._tags).T).max(1, initial=0) > 0.5
        position = _position(vectors, self._tags[0], self._tags[-1])
        return np.asarray(np.sign(position) * (is_close & (np.abs(position) > 0.6)))

    def categories(self, vectors: np.ndarray) -> np.ndarray:
        """Standard deviations by which sentences (n, d) are closer to labels: (n, labels)."""
        # Labels that many items have get a bonus, rare ones a malus.
        cosines = (vectors.astype(np.float32) - self._center) @ self._labels.T
        return np.asarray((cosines - self._mean) / self._deviation + self._bonus)


def _position(vectors: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where vectors (n, d) lie on the line from `low` (d,) at -1 to `high` (d,) at 1: (n,)."""
    direction, middle = high - low, (low + high) / 2
    return np.asarray((vectors - middle) @ direction * 2 / (direction @ direction))


def _normalize(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
