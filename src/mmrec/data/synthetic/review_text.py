"""Review texts of the synthetic city: what a user thinks of an item, in sentences.

In a template of `phrases.json`, `[a|b]` is a choice and `{dish}` a slot. Templates of an opinion stand
under its subject, its polarity, and how the user takes a matter of taste (`quiet-disliked`).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.random import Generator

PHRASES: dict[str, Any] = json.loads(
    (files("mmrec.data.synthetic") / "phrases.json").read_text(encoding="utf-8")
)
"""The phrase bank; of each cuisine also its share of fiery kitchens (`heat`) and its photos' scenes."""


@dataclass(frozen=True)
class Opinion:
    """A point that a user may mention, on one cuisine or on any of the restaurant's."""

    bank: str  # a key of the phrase bank's `opinions`
    stars: float  # what it adds to the rating, signed
    cuisine: str | None = None


@dataclass(frozen=True)
class WritingHabits:
    """How a user writes: opinions per review, and the chance in 0..1 of each quirk."""

    opinions: int
    sloppy: float
    exclaims: float
    emoji: float
    lowercase: bool


def choose(options: Sequence[str], rng: Generator) -> str:
    """Return one of the options at random."""
    return options[int(rng.integers(len(options)))]


def expand(template: str, slots: dict[str, list[str]], rng: Generator) -> str:
    """Resolve each `[a|b]` and then each `{slot}`; a sentence never names a dish twice."""
    used: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        unused = [option for option in slots[match[1]] if option not in used]
        word = choose(unused or slots[match[1]], rng)
        used.add(word)
        return word

    chosen = re.sub(r"\[([^\]]*)\]", lambda options: choose(options[1].split("|"), rng), template)
    return re.sub(r"\{(\w+)\}", fill, chosen)


def write_review(
    rating: int, opinions: list[Opinion], cuisines: list[str], habits: WritingHabits, rng: Generator
) -> str:
    """Return a review of one to five sentences that agrees with the rating; rarely a word or nothing."""
    short = rng.random()
    if short < 0.03:
        return "" if short < 0.01 else choose(PHRASES["one_word"][str(rating)], rng)
    slots = _slots(cuisines)
    sign = 1 if rating >= 4 else -1
    stars = np.array([opinion.stars for opinion in opinions])
    weights = abs(stars) * np.where(stars * sign > 0, 3, 1) + 0.02
    # The smallest of exponential times: a draw without replacement, in proportion to the weights.
    times = rng.exponential(size=len(opinions)) / weights**1.5
    agreeing: list[Opinion] = []
    contrary: list[Opinion] = []  # at most one or two are mentioned, after the others
    for row in np.argsort(times)[: habits.opinions]:
        (agreeing if stars[row] * sign > 0 else contrary).append(opinions[row])
    limit = 1 if 1 < rating < 5 or agreeing else 0
    chosen = agreeing + contrary[: 2 if rating == 3 else limit]
    sentences = _write_opinions(chosen, cuisines, rng)
    if rng.random() < 0.25:
        sentences.insert(0, _capitalize(expand(choose(PHRASES["openers"], rng), slots, rng)))
    if len(sentences) < 2 or (len(sentences) < 5 and rng.random() < 0.6):
        sentences.append(expand(choose(PHRASES["overall"][str(rating)], rng), slots, rng))
    if len(sentences) < 5 and rng.random() < 0.1:
        sentences.append(_capitalize(expand(choose(PHRASES["small_talk"], rng), slots, rng)))
    return _type_text(sentences, "good" if rating >= 4 else "bad", habits, rng)


def _slots(cuisines: list[str]) -> dict[str, list[str]]:
    slots = PHRASES["slots"] | {"dish": [], "food": []}
    for cuisine in cuisines:
        slots["dish"] += PHRASES["cuisines"][cuisine]["dishes"]
        slots["food"].append(PHRASES["cuisines"][cuisine]["food"])
    return slots


def _write_opinions(opinions: list[Opinion], cuisines: list[str], rng: Generator) -> list[str]:
    """Return a sentence for each opinion, with a turn of phrase where the mood changes."""
    sentences: list[str] = []
    previous = 0.0
    for opinion in opinions:
        template = choose(PHRASES["opinions"][opinion.bank], rng)
        slots = _slots([opinion.cuisine] if opinion.cuisine else cuisines)
        sentence = expand(template, slots, rng)
        if not sentences or previous * opinion.stars > 0:
            sentences.append(_capitalize(sentence))
        else:
            if not template.startswith("{") and not re.match(r"I\b", sentence):
                sentence = sentence[0].lower() + sentence[1:]
            turns = PHRASES["turns"]["good" if opinion.stars > 0 else "bad"]
            sentences.append(choose(turns, rng) + sentence)
        previous = opinion.stars
    return sentences


def _type_text(sentences: list[str], mood: str, habits: WritingHabits, rng: Generator) -> str:
    """Return the text as this user types it: exclamation marks, slips, lower case, emoji."""
    typed = []
    for sentence in sentences:
        if sentence.endswith(".") and rng.random() < habits.exclaims:
            sentence = sentence[:-1] + "!" * int(rng.choice([1, 1, 2, 3]))
        typed += sentence.split()
    for position, word in enumerate(typed):
        if rng.random() < habits.sloppy and len(word) > 4 and word.isalpha():
            start = int(rng.integers(1, len(word) - 2))
            first, second = word[start], word[start + 1]
            slip = choose([second + first, second, first * 2 + second], rng)
            typed[position] = word[:start] + slip + word[start + 2 :]
    text = " ".join(typed)
    if rng.random() < habits.emoji:
        text += " " + choose(PHRASES["emoji"][mood], rng) * int(rng.integers(1, 3))
    return text.lower() if habits.lowercase else text


def _capitalize(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
