"""From what servers really answer to notes: what is taken, what is refused and why, and in what time."""

from __future__ import annotations

import json
import time
import unicodedata
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.llm.parsing import (
    UnusableAnswer,
    parse_categories,
    parse_note,
    parse_price,
    parse_summary,
    parse_text,
)
from mmrec.llm.types import PRICE_TAGS, Answer, Note, Summary

GOOD: dict[str, Any] = {
    "gist": "Good soup.",
    "likes": ["the soup"],
    "dislikes": [],
    "price": "fair price",
    "categories": ["ramen"],
}
NOTE = Note(**GOOD)
JSON = json.dumps(GOOD)


def changed(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def note(text: str, finish: str = "stop") -> Note:
    return parse_note(Answer(text=text, finish=finish), 5)


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        json.dumps(GOOD, indent=2),
        f"\ufeff {JSON}\n\n",
        f"```json\n{JSON}\n```",
        f"```\n{JSON}```",
        f"Sure! Here it is:\n\n{JSON}\n\nTell me if I can help {{further}}.",
        f"<think>\nMaybe {changed(gist='draft')}? No.\n</think>\n\n{JSON}",
        f"<thinking>{{</thinking>{JSON}",
        f"<THINK>a</THINK><think>b</think>{JSON}",
        f"so {changed(gist='draft')} or so</think>{JSON}",
        f"First {changed(gist='draft')}, on second thought:\n{JSON}",
        f'{{"plan": "read"}} {JSON}',
        f"{JSON} {{}} {{1}} {{'a': 1}}",
        f"[{JSON}]",
        JSON.replace("]", ",]").replace('"ramen"', '"ramen" '),
        JSON[:-1] + ",\n}",
        json.dumps({name.upper(): value for name, value in GOOD.items()}),
        json.dumps({f" {name.title()} ": value for name, value in GOOD.items()}),
        json.dumps(dict(reversed(GOOD.items()))),
        changed(price="Fair Price "),
        changed(likes="the soup"),
        changed(dislikes=None),
        changed(dislikes=""),
        changed(categories="Ramen"),
        changed(categories=["ramen", "Ramen", " ramen ", ""]),
        changed(likes=["the soup", "the  soup", "", "\u200b", "the\nsoup"]),
        changed(gist=" Good\n\tsoup.\u202e "),
        changed(gist="Good soup\ud83d."),
        changed(entity="all", price_of="x", nested={"gist": "other"}),
        changed(extra=[{"gist": "inner", "likes": []}]),
        "{" * 90 + JSON,
    ],
)
def test_what_servers_answer_is_taken(text: str) -> None:
    assert note(text) == NOTE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", 'no JSON object with the field "gist"'),
        (" \n", 'no JSON object with the field "gist"'),
        ("Good soup.", 'no JSON object with the field "gist"'),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ("{}", "no JSON object"),
        ('["gist", "likes"]', "no JSON object"),
        (JSON[:40], "no JSON object"),
        (json.dumps({"note": GOOD}), "no JSON object"),
        (JSON.replace('"', "'"), "no JSON object"),
        (JSON.replace('"', "“"), "no JSON object"),
        (f"<think>{JSON}", "no JSON object"),
        (json.dumps(JSON), "no JSON object"),
        (changed(gist=None), 'the field "gist" is no text'),
        (changed(gist=""), 'the field "gist" is no text'),
        (changed(gist=" \u200b\u0000"), 'the field "gist" is no text'),
        (changed(gist="\ud83d"), 'the field "gist" is no text'),
        (changed(gist=7), 'the field "gist" is no text'),
        (changed(gist=["Good soup."]), 'the field "gist" is no text'),
        (changed(gist={"text": "Good"}), 'the field "gist" is no text'),
        (changed(likes=7), 'the field "likes" is no list of texts'),
        (changed(likes=True), 'the field "likes" is no list of texts'),
        (changed(likes={"soup": 1}), 'the field "likes" is no list of texts'),
        (changed(likes=[1, 2]), 'the field "likes" is no list of texts'),
        (changed(likes=["soup", None]), 'the field "likes" is no list of texts'),
        (changed(categories=[["ramen"]]), 'the field "categories" is no list of texts'),
        (changed(price="cheap"), "must be one of cheap price, fair price, overpriced, none"),
        (changed(price=["fair price"]), "must be one of"),
        (changed(price=12.5), "must be one of"),
        (changed(price=True), "must be one of"),
        (changed(price=float("nan")), "must be one of"),
        (changed(likes=float("inf")), "no list of texts"),
        (json.dumps({"gist": "", **dict.fromkeys(GOOD, "x")} | {"dislike": []}), "must be one of"),
        (JSON.replace("dislikes", "dislike"), '"dislikes" is missing'),
        (json.dumps({"gist": "Good."}), '"likes" is missing'),
        (JSON + "x" * 60_000, "far too long"),
    ],
)
def test_what_is_refused_has_a_reason_to_tell(text: str, why: str) -> None:
    with pytest.raises(UnusableAnswer) as told:
        note(text)
    assert why in str(told.value)
    assert len(str(told.value)) < 120


def test_an_answer_that_was_cut_is_told_so() -> None:
    with pytest.raises(UnusableAnswer, match="it was cut off"):
        note(JSON[:-9], "length")
    assert note(JSON, "length") == NOTE


def test_what_is_not_said_is_none() -> None:
    for price in (None, "", "none", "None", []):
        assert note(changed(price=price)).price == "none"
    assert note(changed(likes=None, dislikes=None, categories=None, price=None)) == Note(gist="Good soup.")


def test_lists_and_texts_have_bounds() -> None:
    long = note(
        changed(
            gist="word " * 1000,
            likes=[f"like {at}" for at in range(10_000 // 10)],
            dislikes=["x" * 1000],
            categories=[f"kind {at}" for at in range(1000)],
        )
    )
    assert len(long.gist) <= 400
    assert len(long.likes) == 8
    assert [len(one) for one in long.dislikes] == [160]
    assert long.categories == [f"kind {at}" for at in range(5)]


def test_categories_are_well_formed_or_dropped() -> None:
    odd = ["Cafe\u0301", "Café", "fish & chips", "", "<b>x</b>", "a|b", "../x", "x" * 41, "24-hour diner"]
    said = parse_note(Answer(text=changed(categories=[*odd, "it's", "\u202eok", "$$"])), 11).categories
    assert said == ["café", "fish & chips", "24-hour diner", "it's", "ok"]


def test_summaries_are_read_as_notes_are() -> None:
    said = {**GOOD, "text": "They like the soup."}
    del said["gist"]
    assert parse_summary(Answer(text=f"```json\n{json.dumps(said)}\n```"), 11) == Summary(**said)
    with pytest.raises(UnusableAnswer, match='"text"'):
        parse_summary(Answer(text=JSON), 11)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(PRICE_TAGS),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "x"]) | st.text(), inner),
    max_leaves=20,
)
SHAPED = st.fixed_dictionaries({name: JUNK | st.just(value) for name, value in GOOD.items()}).map(json.dumps)
_PIECES = (*'{}[]":,\\\n', "gist", "<think>", "</think>", "NaN", JSON, JSON[:50])
PIECES = st.lists(st.sampled_from(_PIECES)).map("".join)


@given(st.text() | PIECES | JUNK.map(json.dumps) | SHAPED, st.sampled_from(["stop", "length"]))
def test_any_answer_is_a_note_in_bounds_or_unusable(text: str, finish: str) -> None:
    said = None
    with suppress(UnusableAnswer):
        said = note(text, finish)
    if said is None:
        return
    assert 0 < len(said.gist) <= 400
    assert said.price in PRICE_TAGS
    assert len(said.likes) <= 8
    assert len(said.dislikes) <= 8
    assert len(said.categories) <= 5
    for one in (said.gist, *said.likes, *said.dislikes, *said.categories):
        assert one
        assert len(one) <= 400
        assert not {unicodedata.category(letter) for letter in one} & {"Cc", "Cs", "Co", "Zl", "Zp"}
    Note.model_validate_json(said.model_dump_json())


@given(st.text() | PIECES)
def test_any_plain_answer_is_in_bounds_or_unusable(text: str) -> None:
    answer = Answer(text=text)
    for parse in (parse_text, parse_price, lambda one: parse_categories(one, 11)):
        try:
            said = parse(answer)
        except UnusableAnswer:
            continue
        assert isinstance(said, list) or 0 < len(said) <= 1500


SLOW = (
    *("{", "{\n", '{"a":', '{"', '{"a', "[", "{}", "}{", ",  ", '{"gist":', '{"gist": "', " ", "'", "\\"),
    *("<think>", "</think>", "<think></think>", "not ", "no price ", "'a", "is a ", "a:", "1. ", "\n\n \n"),
)


@pytest.mark.parametrize("text", SLOW, ids=ascii)
def test_no_answer_takes_long(text: str) -> None:
    for size in (45_000, 1_000_000):
        answer = Answer(text=text * (size // len(text)))
        begin = time.process_time()
        for parse in (
            lambda one: parse_note(one, 5),
            parse_text,
            parse_price,
            lambda one: parse_categories(one, 11),
        ):
            with suppress(UnusableAnswer):
                parse(answer)
        assert time.process_time() - begin < 3


def test_deep_and_wide_answers_do_not_take_long() -> None:
    begin = time.process_time()
    for depth in (100, 450, 900, 6000):
        wide = "[" + "1," * (24_000 - 4 * depth)
        with pytest.raises(UnusableAnswer):
            note('{"gist":' * depth + wide)
    assert time.process_time() - begin < 5


def test_plain_answers_come_without_their_thoughts() -> None:
    assert parse_text(Answer(text="<think>hm</think>\n\nThey like soup.")) == "They like soup."
    assert parse_text(Answer(text="hm, hm</think>They like soup.")) == "They like soup."
    assert len(parse_text(Answer(text="soup " * 1000))) <= 1500
    for text in ("", " \n", "\u200b", "<think>They like soup.", "<think>x</think>"):
        with pytest.raises(UnusableAnswer, match="it is empty"):
            parse_text(Answer(text=text))


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("fair price", "fair price"),
        ("Fair price.", "fair price"),
        ("'fair price'", "fair price"),
        ("**Low price**", "cheap price"),
        ("low-price", "cheap price"),
        ("over-rice", "overpriced"),
        ("Over-priced", "overpriced"),
        ("overpriced", "overpriced"),
        ("The price category is: low price", "cheap price"),
        ("Based on the reviews, the restaurant is overpriced.", "overpriced"),
        ("The price is not overpriced, it is fair", "fair price"),
        ("The price is not overpriced but low price", "cheap price"),
        ("It isn't overpriced. Fair price", "fair price"),
        ("None of them call it overpriced: fair price", "fair price"),
        ("It is not cheap, it's expensive", "overpriced"),
        ("neither cheap nor expensive, just average", "fair price"),
        ("Reviewers don't find it expensive; reasonable", "fair price"),
        ("Fair price rather than overpriced", "fair price"),
        ("Some find it expensive, but most say fair price", "fair price"),
        ("inexpensive", "cheap price"),
        ("Fairly expensive", "overpriced"),
        ("fairly priced", "fair price"),
        ("Cheap prices and large portions", "cheap price"),
        ("affordable", "cheap price"),
        ("Moderate", "fair price"),
        ("mid-range", "fair price"),
        ("high price", "overpriced"),
        ("pricey", "overpriced"),
        ("none", "none"),
        ("None mentioned.", "none"),
        ("N/A", "none"),
        ("Unknown", "none"),
        ("The price is not mentioned in the reviews.", "none"),
        ("The reviews do not explicitly mention the price.", "none"),
        ("There is no mention of price, so I can't say if it is overpriced.", "none"),
        ("I cannot determine whether it is a fair price or a low price.", "none"),
        ("It is difficult to determine the price category.", "none"),
        ("There is no information on prices", "none"),
        ("<think>overpriced? no</think>low price", "cheap price"),
    ],
)
def test_prices_in_plain_words(text: str, tag: str) -> None:
    assert parse_price(Answer(text=text)) == tag


@pytest.mark.parametrize("text", ["", "Italian", "The food is great.", "not cheap", "I can't assist.", "42"])
def test_words_without_a_price_are_no_price(text: str) -> None:
    with pytest.raises(UnusableAnswer):
        parse_price(Answer(text=text))


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("'Italian'", ["italian"]),
        ("Type: 'Thai'", ["thai"]),
        ("'type': 'Thai'", ["type", "thai"]),
        ("'Italian', 'Pizza'", ["italian", "pizza"]),
        ('"Women\'s wear"', ["women's wear"]),
        ("‘Ramen’ and “Sushi”", ["ramen", "sushi"]),
        ("Italian, Pizza; Wine bar", ["italian", "pizza", "wine bar"]),
        ("1. Italian\n2) Pizza\n- Wine bar\n* Café\n• Bar", ["italian", "pizza", "wine bar", "café", "bar"]),
        ("American/Mexican", ["american/mexican"]),
        ("American / Mexican | Bar & Grill", ["american", "mexican", "bar & grill"]),
        ("Category: Thai", ["thai"]),
        ("The type of restaurant is: Thai", ["thai"]),
        ("This is an Italian restaurant.", ["italian restaurant"]),
        ("It's hard to put into a few words what this place would be", None),
        ("none", []),
        ("'none'", []),
        ("Not mentioned in the reviews.", []),
        ("Unknown", []),
        ("Italian, italian, ITALIAN", ["italian"]),
        ("!!!", None),
        ("", None),
        ("unagi", ["unagi"]),
    ],
)
def test_categories_in_plain_words(text: str, categories: list[str] | None) -> None:
    if categories is None:
        with pytest.raises(UnusableAnswer):
            parse_categories(Answer(text=text), 11)
    else:
        assert parse_categories(Answer(text=text), 11) == categories


def test_plain_categories_have_bounds() -> None:
    kinds = [f"kind {at}" for at in range(99)]
    assert parse_categories(Answer(text=", ".join(kinds)), 11) == kinds[:11]
