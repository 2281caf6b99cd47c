"""Wishes in free words, read by rules, and names of items in them."""

import pytest

from mmrec.llm.lexicon import Lexicon
from mmrec.llm.name_index import NameIndex
from mmrec.llm.wishes import WishParser

NAMES = ["Saddle Ramen House", "Cedar & Fig", "The White Poppy", "Ramen", "Phở Linh", "Thai Otter"]
DISHES = {"fish and chips", "mac and cheese", "pad thai"}


@pytest.fixture(scope="module")
def parser():
    return WishParser(Lexicon("restaurant"), NameIndex(NAMES), DISHES.__contains__)


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        ("cheap ramen, no seafood", "cheap; not seafood; ramen"),
        ("I hate Italian food", "not italian"),
        ("Never Indian!", "not indian"),
        ("not too expensive", "not expensive"),
        ("It shouldn't break the bank", "not expensive"),
        ("I don't want to spend a lot of money", "not expensive"),
        ("expensive fine dining", "expensive"),
        ("somewhere fancy, not cheap", "expensive; not cheap"),
        ("anything but Chinese", "not chinese"),
        ("Thai but not Vietnamese", "not vietnamese; thai"),
        ("no seafood, Thai or Indian", "not seafood; not thai; not indian"),
        ("no seafood, cheap", "cheap; not seafood"),
        ("no seafood and cheap", "cheap; not seafood"),
        ("I hate French and Greek food. Korean is great", "not french; not greek; korean"),
        ("crazy about Indian food, no fan of French", "not french; indian"),
        ("I can't stand barbecue, love vegan food", "not barbecue; vegan"),
        ("I can't get enough of pho", "pho"),
        ("seafood is not my thing, I prefer tacos", "not seafood; tacos"),
        ("I’m allergic to shellfish", "not shellfish"),
        ("really spicy Thai food", "spicy; thai"),
        ("fish and chips and a cold beer", "fish and chips; cold; beer"),
        ("fast food", "fast food"),
        ("saddle ramen house", "Saddle Ramen House"),
        ("I want to try the Sadle Ramen Hose", "Saddle Ramen House"),
        ("pho linh, please", "Phở Linh"),
        ("a place like Cedar and Fig, but cheaper", "cheap; like Cedar & Fig"),
        ("I loved the White Poppy", "like The White Poppy"),
        ("The White Poppy was great, something similar?", "like The White Poppy"),
        ("not Thai Otter", "not Thai Otter"),
        ("something like ramen", "ramen"),
        ("I want Thai Food", "thai"),
        ("please show me something good to eat", ""),
        ("", ""),
    ],
)
def test_what_is_wanted_and_what_is_not(parser, text, understood):
    assert str(parser.parse(text)) == understood


def test_any_text_is_parsed(parser):
    for text in (
        "no " * 500,
        "\x02" + "9" * 30 + "\x02",
        "((((",
        "not not not",
        "🍜🍜",
        "a" * 5000,
        "no, or; but",
    ):
        assert len(str(parser.parse(text))) < 2000


def test_a_text_of_more_than_60_words_describes_a_taste(parser):
    for word, separator in (("ramen", " "), ("ramen", "/"), ("🍜", "")):
        assert not parser.parse(separator.join([word] * 60)).description
        assert parser.parse(separator.join([word] * 61)).description
    assert not parser.parse(" ".join("." * 100)).description


def test_names_that_are_nearly_right_are_found():
    names = NameIndex([*NAMES, "Saddle Ramen House, Third Avenue"])
    assert names.near("saddle ramen house")[0] == "Saddle Ramen House"
    assert len(names.near("saddle ramen")) == 2
    assert names.near("wite poppy") == names.near("white popy") == ["The White Poppy"]
    assert names.near("pizza palace") == names.near("") == []
    assert names.near("saddle ramen house third avenue")[0] == "Saddle Ramen House, Third Avenue"
