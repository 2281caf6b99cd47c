"""The grammar of Sample City: turns what a user thinks of an item into sentences.

The phrase bank is `phrases.json`. In a template, `[a|b]` is a choice and `{dish}` a slot; an opinion's
bank is named by its subject and polarity (`service-`), and for matters of taste by what the place is and
how the user takes it (`quiet-disliked`: it is loud, and that bothers).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TypedDict

import numpy as np

__all__ = [
    "PHRASES",
    "Opinion",
    "WritingHabits",
    "choose",
    "expand",
    "restaurant_names",
    "write_review",
]


class Cuisine(TypedDict):
    """One cuisine: its food in words, what it pairs with, its share of fiery kitchens, scenes and names."""

    food: str
    near: list[str]
    heat: float
    interiors: list[str]
    plates: list[str]
    names: list[str]
    dishes: list[str]


class PhraseBank(TypedDict):
    """The phrase bank as it is in `phrases.json`."""

    cuisines: dict[str, Cuisine]
    names: dict[str, list[str]]
    slots: dict[str, list[str]]
    openers: list[str]
    small_talk: list[str]
    turns: dict[str, list[str]]
    overall: dict[str, list[str]]
    one_word: dict[str, list[str]]
    emoji: dict[str, list[str]]
    opinions: dict[str, list[str]]


@dataclass(frozen=True)
class Opinion:
    """One thing that a user may say.

    Attributes:
        bank: name of the templates, a key of `Words.opinions`.
        stars: what it adds to the rating, signed.
        cuisine: the one cuisine that is meant; without it any of the restaurant's may be named.
    """

    bank: str
    stars: float
    cuisine: str | None = None


@dataclass(frozen=True)
class WritingHabits:
    """How a user writes: opinions a review, and chances in 0..1 of each quirk."""

    opinions: int
    sloppy: float
    exclaims: float
    emoji: float
    lowercase: bool


PHRASES: PhraseBank = json.loads(
    (files("mmrec.data.synthetic") / "phrases.json").read_text(encoding="utf-8")
)
"""The phrase bank that ships with the package."""


def choose(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def expand(template: str, slots: dict[str, list[str]], rng: np.random.Generator) -> str:
    """Resolve every `[a|b]` and then every `{slot}`; two dishes in one sentence are two different ones."""
    used: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        options = [option for option in slots[match[1]] if option not in used] or slots[match[1]]
        used.add(chosen := choose(options, rng))
        return chosen

    chosen = re.sub(r"\[([^\]]*)\]", lambda match: choose(match[1].split("|"), rng), template)
    return re.sub(r"\{(\w+)\}", fill, chosen)


def restaurant_names(cuisines: Sequence[str], rng: np.random.Generator) -> list[str]:
    """An invented name for each restaurant, given its main cuisine; all different."""
    names: list[str] = []
    for cuisine in cuisines:
        template = choose(PHRASES["cuisines"][cuisine]["names"], rng)
        name = expand(template, PHRASES["names"], rng)
        while name in names:  # a longer name each time, so this ends in towns of any size
            name = (
                f"{name}, {choose(PHRASES['names']['street'], rng)}"
                if "," not in name
                else f"{name} II"
            )
        names.append(name)
    return names


def write_review(
    rating: int,
    opinions: Sequence[Opinion],
    cuisines: Sequence[str],
    habits: WritingHabits,
    rng: np.random.Generator,
) -> str:
    """A review of one to five sentences that agrees with the rating; rarely empty or a single word.

    Args:
        rating: 1..5 stars.
        opinions: what there is to say; the stronger ones are likelier to be said.
        cuisines: the restaurant's cuisines, whose dishes are spoken of.
        habits: how the user writes.
        rng: source of all choices.
    """
    short = rng.random()
    if short < 0.03:
        return "" if short < 0.01 else choose(PHRASES["one_word"][str(rating)], rng)
    slots = _slots(cuisines)
    sentences = _say(_choose(rating, opinions, habits, rng), cuisines, rng)
    if rng.random() < 0.25:
        sentences.insert(0, _capital(expand(choose(PHRASES["openers"], rng), slots, rng)))
    if len(sentences) < 2 or (len(sentences) < 5 and rng.random() < 0.6):
        sentences.append(expand(choose(PHRASES["overall"][str(rating)], rng), slots, rng))
    if len(sentences) < 5 and rng.random() < 0.1:
        sentences.append(_capital(expand(choose(PHRASES["small_talk"], rng), slots, rng)))
    return _hand(sentences, "good" if rating >= 4 else "bad", habits, rng)


def _slots(cuisines: Sequence[str]) -> dict[str, list[str]]:
    """Every slot's words in a restaurant of these cuisines."""
    banks = [PHRASES["cuisines"][cuisine] for cuisine in cuisines]
    dishes = [dish for bank in banks for dish in bank["dishes"]]
    return PHRASES["slots"] | {"dish": dishes, "food": [bank["food"] for bank in banks]}


def _choose(
    rating: int, opinions: Sequence[Opinion], habits: WritingHabits, rng: np.random.Generator
) -> list[Opinion]:
    """Opinions worth a sentence: those on the rating's side first, then at most one or two of the others."""
    side = 1 if rating >= 4 else -1
    weights = np.array([abs(o.stars) * (3 if o.stars * side > 0 else 1) for o in opinions]) + 0.02
    keys = rng.exponential(size=len(opinions)) / weights**1.5
    said = [opinions[i] for i in np.argsort(keys)[: habits.opinions]]
    with_side = [o for o in said if o.stars * side > 0]
    against = [o for o in said if o.stars * side <= 0]
    return with_side + against[: 2 if rating == 3 else 1 if 1 < rating < 5 or with_side else 0]


def _say(said: Sequence[Opinion], cuisines: Sequence[str], rng: np.random.Generator) -> list[str]:
    """One sentence per opinion, with a turn of phrase where the mood changes."""
    sentences: list[str] = []
    for before, opinion in zip([None, *said], said, strict=False):
        template = choose(PHRASES["opinions"][opinion.bank], rng)
        sentence = expand(template, _slots([opinion.cuisine] if opinion.cuisine else cuisines), rng)
        if before is None or before.stars * opinion.stars > 0:
            sentences.append(_capital(sentence))
            continue
        if not template.startswith("{") and not re.match(
            r"I\b", sentence
        ):  # slots keep their own case
            sentence = sentence[0].lower() + sentence[1:]
        sentences.append(
            choose(PHRASES["turns"]["good" if opinion.stars > 0 else "bad"], rng) + sentence
        )
    return sentences


def _hand(
    sentences: Sequence[str], mood: str, habits: WritingHabits, rng: np.random.Generator
) -> str:
    """The text as this user types it: exclamation marks, slips, lower case, emoji."""
    typed = [
        sentence[:-1] + "!" * int(rng.choice([1, 1, 2, 3]))
        if sentence.endswith(".") and rng.random() < habits.exclaims
        else sentence
        for sentence in sentences
    ]
    text = " ".join(
        _slip(word, rng) if rng.random() < habits.sloppy else word
        for word in " ".join(typed).split()
    )
    if rng.random() < habits.emoji:
        text += " " + choose(PHRASES["emoji"][mood], rng) * int(rng.integers(1, 3))
    return text.lower() if habits.lowercase else text


def _slip(word: str, rng: np.random.Generator) -> str:
    """The word with two inner letters swapped, or one dropped or doubled; short words stay."""
    if len(word) < 5 or not word.isalpha():
        return word
    at = int(rng.integers(1, len(word) - 2))
    return (
        word[:at]
        + choose([word[at + 1] + word[at], word[at + 1], word[at] * 2 + word[at + 1]], rng)
        + word[at + 2 :]
    )


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
