"""What the builtin reader knows of words: opinion, price and category terms, from `vocabulary.json`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar
from unicodedata import combining, normalize

from mmrec.llm.types import PRICE_TAGS, PriceTag

__all__ = [
    "UNKNOWN_SHARE",
    "Category",
    "Lexicon",
    "Phrases",
    "Words",
    "load_lexicon",
    "split_words",
]

UNKNOWN_SHARE = 0.1
"""Share of all items taken for a category of which nothing is known."""
Meaning = TypeVar("Meaning")
Words = list[str]
"""A sentence in lower case without accents: words, and emoji one by one."""
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[\U0001F300-\U0001FAFF\u2600-\u27BF]")
_MONEY = re.compile(r"[$₹£€]\s?\d")
_WEIGHTS = {"strong_positive": 2.0, "positive": 1.0, "negative": -1.0, "strong_negative": -2.0}
_REACH = 3
_NEGATED = -0.6
_OPPOSITE: dict[PriceTag, PriceTag] = {
    "cheap price": "overpriced",
    "fair price": "overpriced",
    "overpriced": "fair price",
    "none": "none",
}


@dataclass(frozen=True)
class Category:
    """A label, and what stands for it where texts are compared by meaning."""

    label: str
    prompt: str
    """A sentence about an item of the category."""
    listing: str
    """The label and its keywords."""
    common: float
    """Rough share of all items that have the label, from general knowledge."""


class Phrases(Generic[Meaning]):
    """Phrases of one to four words and what each means; finds them in sentences.

    Args:
        meanings: what each phrase means; phrases are folded like sentences.
    """

    def __init__(self, meanings: Mapping[str, Meaning]) -> None:
        self._meanings = {
            " ".join(split_words(phrase)): meaning for phrase, meaning in meanings.items()
        }
        self._longest: dict[str, int] = {}
        for phrase in self._meanings:
            first, *others = phrase.split(" ")
            self._longest[first] = max(self._longest.get(first, 0), 1 + len(others))

    def find(self, words: Words) -> list[tuple[int, str, Meaning]]:
        """Place, phrase and meaning of each, the longest at a place, without overlaps; plurals count."""
        found = []
        free = 0
        for at, word in enumerate(words):
            longest = max(self._longest.get(word, 0), self._longest.get(word.removesuffix("s"), 0))
            if at < free:
                continue
            for size in range(min(longest, len(words) - at), 0, -1):
                phrase = " ".join(words[at : at + size])
                if phrase not in self._meanings:
                    phrase = phrase.removesuffix("s")
                if phrase in self._meanings:
                    found.append((at, phrase, self._meanings[phrase]))
                    free = at + size
                    break
        return found


@dataclass(frozen=True)
class Lexicon:
    """The vocabulary of one kind of item."""

    revision: str
    """First 12 hexadecimal digits of the sha256 of the vocabulary file."""
    opinion: Phrases[float]
    """Words and phrases that praise (up to 2) or blame (down to -2)."""
    negations: frozenset[str]
    praise: tuple[str, ...]
    """Model sentences of praise."""
    blame: tuple[str, ...]
    """Model sentences of blame, on the same subjects as `praise`."""
    price_phrases: Phrases[PriceTag]
    price_words: frozenset[str]
    """Words that tell that a sentence speaks of price at all."""
    price_anchors: dict[PriceTag, tuple[str, ...]]
    """Model sentences of each tag."""
    margin: float
    """Deviations by which a sentence must be nearer to a category than neutral ones, without a keyword."""
    categories: tuple[Category, ...]
    keywords: Phrases[tuple[int, ...]]
    """Words and phrases to the places in `categories` that they speak for."""

    def opinion_score(self, words: Words) -> float:
        """Praise minus blame in a sentence; a negation shortly before a word turns it, weakened."""
        total = 0.0
        for at, _, weight in self.opinion.find(words):
            total += weight * _NEGATED if self._negated(words, at) else weight
        return total

    def price_tags(self, words: Words) -> list[PriceTag]:
        """The price tags that a sentence's phrases state, in order; "not cheap" is overpriced."""
        tags: list[PriceTag] = []
        for at, _, tag in self.price_phrases.find(words):
            tags.append(_OPPOSITE[tag] if self._negated(words, at) else tag)
        return tags

    def mentions_price(self, sentence: str, words: Words) -> bool:
        """Whether a sentence names a sum of money or a word of paying."""
        return not self.price_words.isdisjoint(words) or bool(_MONEY.search(sentence))

    def _negated(self, words: Words, at: int) -> bool:
        before = words[max(0, at - _REACH) : at]
        return sum(word in self.negations for word in before) % 2 == 1


def split_words(sentence: str) -> Words:
    """Fold a sentence to words that can be looked up: "Crème-brûlée!" is `creme`, `brulee`."""
    text = sentence.replace("’", "'").lower()
    if not text.isascii():
        text = "".join(sign for sign in normalize("NFKD", text) if not combining(sign))
    return _WORD.findall(text)


@cache
def load_lexicon(item_kind: str) -> Lexicon:
    """The vocabulary for a kind of item (`restaurant`, `film`); any other kind gets the generic one."""
    raw = resources.files("mmrec.llm").joinpath("vocabulary.json").read_bytes()
    everything = json.loads(raw)
    kinds = everything["kinds"]
    kind = kinds.get(item_kind.strip().lower(), kinds["generic"])
    price = kind["price"]
    labels = list(kind["categories"])
    keywords: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        for keyword in dict.fromkeys([label, *kind["categories"][label]["keywords"]]):
            keywords.setdefault(keyword, []).append(place)
    tags = [tag for tag in PRICE_TAGS if tag != "none"]
    return Lexicon(
        revision=hashlib.sha256(raw).hexdigest()[:12],
        opinion=Phrases(
            {w: weight for name, weight in _WEIGHTS.items() for w in everything["polarity"][name]}
        ),
        negations=frozenset(everything["negations"]),
        praise=tuple(kind["anchors"]["positive"]),
        blame=tuple(kind["anchors"]["negative"]),
        price_phrases=Phrases({phrase: tag for tag in tags for phrase in price["phrases"][tag]}),
        price_words=frozenset(price["words"]),
        price_anchors={tag: tuple(price["anchors"][tag]) for tag in tags},
        margin=kind["margin"],
        categories=tuple(_category(label, kind["categories"][label]) for label in labels),
        keywords=Phrases({keyword: tuple(places) for keyword, places in keywords.items()}),
    )


def _category(label: str, entry: dict[str, Any]) -> Category:
    listing = ", ".join([label, *entry["keywords"]])
    return Category(label, entry["prompt"], listing, entry.get("common", UNKNOWN_SHARE))
