"""The vocabulary of the extractive model: complete, and aware of negation."""

from __future__ import annotations

import pytest

from mmrec.llm.lexicon import Lexicon, Phrases, split_words
from mmrec.llm.types import PRICE_TAGS


@pytest.mark.parametrize(
    ("praise", "blame"),
    [
        ("The food was good.", "The food was not good."),
        ("It isn't bad at all.", "It is bad."),
        ("You won't regret it.", "I regret it."),
        ("😋👍⭐", "🤮👎"),
    ],
)
def test_negation_reverses_an_opinion(praise: str, blame: str) -> None:
    lexicon = Lexicon("restaurant")
    assert lexicon.opinion_score(split_words(praise)) > 0 > lexicon.opinion_score(split_words(blame))


def test_letters_of_a_genitive_are_no_opinion() -> None:
    assert Lexicon("restaurant").opinion_score(split_words("my son�s birthday")) == 0


def test_the_longest_phrase_is_found_and_plurals_count() -> None:
    phrases = Phrases({"fried rice": 1, "rice": 2, "Crème brûlée": 3})
    words = split_words("Rice, fried rices and creme brulees")
    assert phrases.find(words) == [(0, "rice", 2), (1, "fried rice", 1), (4, "creme brulee", 3)]


@pytest.mark.parametrize("item_kind", ["restaurant", "film", "barber"])
def test_every_vocabulary_is_complete(item_kind: str) -> None:
    lexicon = Lexicon(item_kind)
    assert len(set(lexicon.labels)) == len(lexicon.labels) >= 15
    assert len(lexicon.prompts) == len(lexicon.listings) == len(lexicon.shares) == len(lexicon.labels)
    assert min(len(lexicon.praise), len(lexicon.blame)) >= 15
    assert set(lexicon.price_sentences) == set(PRICE_TAGS) - {"none"}
    assert list(lexicon.price_sentences)[::2] == ["cheap price", "overpriced"]
