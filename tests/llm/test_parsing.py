"""Answers of language models: which are accepted, which are rejected and why, and in what time."""

from __future__ import annotations

import json
import unicodedata
from contextlib import suppress
from functools import partial
from typing import Any

import json_repair
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.llm.parsing import (
    UnusableAnswer,
    check_supported,
    parse_categories,
    parse_note,
    parse_price,
    parse_sentence,
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
        JSON[:-1],
        f"```json\n{JSON[:-2]}\n```",
        JSON.replace('"', "'"),
        JSON.replace('"price"', "price").replace("[]", "None"),
        JSON.replace(", ", "\n"),
        "Read as: " + JSON.replace("{", "{ // as asked\n"),
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
def test_usual_forms_of_an_answer_are_accepted(text: str) -> None:
    assert note(text) == NOTE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", 'no JSON object with the field "gist"'),
        (" \n", 'no JSON object with the field "gist"'),
        ("Good soup.", 'no JSON object with the field "gist"'),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ("{}", "no JSON object"),
        ('["gist", "likes"]', "no JSON object"),
        (JSON[:40], '"dislikes" is missing'),
        (json.dumps({"note": GOOD}), "no JSON object"),
        (JSON.replace("{", "").replace("}", ""), "no JSON object"),
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
def test_wrong_answers_are_rejected_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(UnusableAnswer) as error:
        note(text)
    assert reason in str(error.value)
    assert len(str(error.value)) < 120


def test_an_answer_that_was_cut_off_is_not_repaired() -> None:
    for cut in (JSON[:-9], JSON[:-1]):
        with pytest.raises(UnusableAnswer, match="it was cut off"):
            note(cut, "length")
    assert note(JSON, "length") == NOTE


def test_missing_values_are_none_or_empty() -> None:
    for price in (None, "", "none", "None", []):
        assert note(changed(price=price)).price == "none"
    assert note(changed(likes=None, dislikes=None, categories=None, price=None)) == Note(gist="Good soup.")


def test_lists_and_texts_have_limits() -> None:
    long = note(
        changed(
            gist="word " * 1000,
            likes=[f"like {number}" for number in range(1000)],
            dislikes=["x" * 1000],
            categories=[f"kind {number}" for number in range(1000)],
        )
    )
    assert len(long.gist) <= 400
    assert len(long.likes) == 8
    assert [len(phrase) for phrase in long.dislikes] == [160]
    assert long.categories == [f"kind {number}" for number in range(5)]


def test_malformed_categories_are_dropped() -> None:
    labels = ["Cafe\u0301", "Café", "fish & chips", "", "<b>x</b>", "a|b", "../x", "x" * 41, "24-hour diner"]
    note = parse_note(Answer(text=changed(categories=[*labels, "it's", "\u202eok", "$$"])), 11)
    assert note.categories == ["café", "fish & chips", "24-hour diner", "it's", "ok"]


def test_summaries_are_parsed_as_notes_are() -> None:
    fields = {"text": "They like the soup.", **GOOD}
    del fields["gist"]
    assert parse_summary(Answer(text=f"```json\n{json.dumps(fields)}\n```"), 11) == Summary(**fields)
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
def test_any_answer_is_a_note_within_limits_or_unusable(text: str, finish: str) -> None:
    try:
        result = note(text, finish)
    except UnusableAnswer:
        return
    assert 0 < len(result.gist) <= 400
    assert result.price in PRICE_TAGS
    assert max(len(result.likes), len(result.dislikes)) <= 8
    assert len(result.categories) <= 5
    for phrase in (result.gist, *result.likes, *result.dislikes, *result.categories):
        assert 0 < len(phrase) <= 400
        assert not {unicodedata.category(letter) for letter in phrase} & {"Cc", "Cs", "Co", "Zl", "Zp"}
    Note.model_validate_json(result.model_dump_json())


@given(st.text() | PIECES)
def test_any_plain_answer_is_within_limits_or_unusable(text: str) -> None:
    answer = Answer(text=text)
    for parse in (parse_text, parse_price, partial(parse_categories, max_categories=11)):
        with suppress(UnusableAnswer):
            result = parse(answer)
            assert isinstance(result, list) or 0 < len(result) <= 1500


SLOW = (
    *("{", "{\n", '{"a":', '{"', '{"a', "[", "{}", "}{", ",  ", '{"gist":', '{"gist": "', " ", "'", "\\"),
    *("<think>", "</think>", "<think></think>", "not ", "no price ", "'a", "is a ", "a:", "1. ", "\n\n \n"),
    *('{"a":["', "{'", "/*", '{"gist" "', "cheap ", "not cheap "),
)


@pytest.mark.parametrize("text", SLOW, ids=ascii)
def test_long_answers_of_repeated_text_are_parsed_in_linear_time(text: str) -> None:
    """With quadratic work in the length of the text this would take hours."""
    for size in (4_000, 45_000, 1_000_000):
        answer = Answer(text=text * (size // len(text)))
        for parse in (partial(parse_note, max_categories=5), parse_text, parse_price):
            with suppress(UnusableAnswer):
                parse(answer)
        with suppress(UnusableAnswer):
            parse_categories(answer, 11)


def test_deep_and_wide_answers_are_tried_a_limited_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    decode = json.JSONDecoder.raw_decode
    monkeypatch.setattr(
        json.JSONDecoder, "raw_decode", lambda *arguments: tries.append(1) or decode(*arguments)
    )
    for depth in (100, 450, 900, 6000):
        with pytest.raises(UnusableAnswer):
            note('{"gist":' * depth + "[" + "1," * (24_000 - 4 * depth))
    assert 4 <= len(tries) <= 4 * 100


def test_long_answers_are_not_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repair takes quadratic time."""
    lengths: list[int] = []
    loads = json_repair.loads
    monkeypatch.setattr(json_repair, "loads", lambda text: lengths.append(len(text)) or loads(text))
    assert note("a" * 3_000 + JSON[:-1]) == NOTE
    with pytest.raises(UnusableAnswer):
        note("a" * 4_000 + JSON[:-1])
    assert len(lengths) == 1


def test_plain_answers_are_stripped_of_thoughts() -> None:
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
def test_plain_answers_name_prices(text: str, tag: str) -> None:
    assert parse_price(Answer(text=text)) == tag


@pytest.mark.parametrize("text", ["", "Italian", "The food is great.", "not cheap", "I can't assist.", "42"])
def test_plain_answers_without_a_price_are_rejected(text: str) -> None:
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
def test_plain_answers_list_categories(text: str, categories: list[str] | None) -> None:
    if categories is None:
        with pytest.raises(UnusableAnswer):
            parse_categories(Answer(text=text), 11)
    else:
        assert parse_categories(Answer(text=text), 11) == categories


def test_plain_categories_have_a_limit() -> None:
    kinds = [f"kind {number}" for number in range(99)]
    assert parse_categories(Answer(text=", ".join(kinds)), 11) == kinds[:11]


SOURCES = ["The ramen was rich and cheap.", "Slow service on Fridays, 40 minutes.", "Friendly cook, Mr Sato!"]


@pytest.mark.parametrize(
    "sentence",
    [
        "Rich, cheap ramen and a friendly cook, though service is slow on Fridays.",
        "Somebody says that “the ramen was rich and cheap”.",
        "Mr Sato is a friendly cook, but service was slow, 40 minutes.",
        "Friendly.",
    ],
)
def test_a_sentence_may_state_what_its_sources_do(sentence: str) -> None:
    check_supported(sentence, SOURCES)


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Guests say “the best ramen in town”.", "quotes"),
        ('They wrote "rich and very cheap".', "quotes"),
        ("Rich and cheap ramen, 30 minutes.", "30"),
        ("Cheap ramen by Chef Tanaka.", "chef"),
        ("Sushi, rich and cheap.", "sushi"),
        ("Rich and cheap ramen, and a rooftop bar.", "rooftop"),
        ("The ramen was not rich.", "not"),
        ("Bad ramen.", "bad"),
        ("Five stars: rich ramen.", "five"),
    ],
)
def test_a_sentence_may_state_nothing_else(sentence: str, reason: str) -> None:
    with pytest.raises(UnusableAnswer, match=reason):
        check_supported(sentence, SOURCES)


def test_spaces_do_not_matter_in_a_quote() -> None:
    check_supported("Somebody says “the ramen was rich”.", ["The  ramen\nwas rich."])


def test_a_reason_is_parsed_from_its_field() -> None:
    assert parse_sentence(Answer(text='Sure: {"sentence": " Good  ramen. "}')) == "Good ramen."
    for text in ("Good ramen.", '{"sentence": ""}', '{"sentence": 3}', "{}"):
        with pytest.raises(UnusableAnswer):
            parse_sentence(Answer(text=text))
