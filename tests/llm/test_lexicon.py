"""Sentences lose no word, and the vocabulary of the extractive model is complete and aware of negation."""

import pytest

from mmrec.llm.lexicon import Lexicon, Phrases, split_sentences, split_words
from mmrec.llm.types import PRICE_TAGS


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("One. Two words! Three?", ["One.", "Two words!", "Three?"]),
        ("- good soup\n* bad bread\n2) fair tea", ["good soup", "bad bread", "fair tea"]),
        ("The soup was hot....the tea was cold", ["The soup was hot....", "the tea was cold"]),
        ("Mr. Smith paid Rs. 300 for it.", ["Mr. Smith paid Rs. 300 for it."]),
        ("Great place.The food is good.", ["Great place.", "The food is good."]),
        ("The food was good, but service was slow.", ["The food was good,", "but service was slow."]),
        ("Nothing but good.", ["Nothing but good."]),
        ("Loved it! 5/5 👍", ["Loved it! 5/5 👍"]),
        ("It cost 3.50 at 7 p.m. on a Monday", ["It cost 3.50 at 7 p.m. on a Monday"]),
    ],
)
def test_sentences_end_at_marks_lines_and_contrasts(text, sentences):
    assert split_sentences(text) == sentences


def test_run_on_text_is_cut_and_no_word_is_lost():
    text = "and then we ate some more of it, " * 40
    pieces = split_sentences(text)
    assert max(len(piece.split()) for piece in pieces) <= 60
    assert " ".join(pieces).split() == text.split()
    assert max(map(len, split_sentences("x" * 100_000))) <= 600
    assert max(map(len, split_sentences("!" * 100_000))) <= 600


@pytest.mark.parametrize(
    ("praise", "blame"),
    [
        ("The food was good.", "The food was not good."),
        ("It isn't bad at all.", "It is bad."),
        ("You won't regret it.", "I regret it."),
        ("😋👍⭐", "🤮👎"),
    ],
)
def test_negation_reverses_an_opinion(praise, blame):
    lexicon = Lexicon("restaurant")
    assert lexicon.opinion_score(split_words(praise)) > 0 > lexicon.opinion_score(split_words(blame))


def test_letters_of_a_genitive_are_no_opinion():
    assert Lexicon("restaurant").opinion_score(split_words("my son�s birthday")) == 0


def test_the_longest_phrase_is_found_and_plurals_count():
    phrases = Phrases({"fried rice": 1, "rice": 2, "Crème brûlée": 3})
    words = split_words("Rice, fried rices and creme brulees")
    assert phrases.find(words) == [(0, "rice", 2), (1, "fried rice", 1), (4, "creme brulee", 3)]


@pytest.mark.parametrize("item_kind", ["restaurant", "film", "barber"])
def test_every_vocabulary_is_complete(item_kind):
    lexicon = Lexicon(item_kind)
    anchors, prices = lexicon.vocabulary["anchors"], lexicon.vocabulary["price"]["anchors"]
    assert len(set(lexicon.labels)) >= 15
    assert all(
        category["prompt"] and category["keywords"] for category in lexicon.vocabulary["categories"].values()
    )
    assert min(len(anchors["positive"]), len(anchors["negative"])) >= 15
    assert list(prices) == [tag for tag in PRICE_TAGS if tag != "none"]
