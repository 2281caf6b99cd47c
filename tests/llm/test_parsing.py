"""Answers of language models: which are accepted, which are rejected and why, and in what time."""

import json
import re
import unicodedata
from contextlib import suppress
from functools import partial

import json_repair
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.llm import parsing
from mmrec.llm.parsing import UnusableAnswer, check_supported, parse_annotation, parse_price, parse_text
from mmrec.llm.types import PRICE_TAGS, Answer, Note, Summary

GOOD = {"gist": "Good soup.", "likes": ["the soup"], "dislikes": [], "price": "fair price"}
GOOD["categories"] = ["ramen"]
NOTE = Note(**GOOD)
JSON = json.dumps(GOOD)
PARSERS = (
    *(partial(parse_annotation, result_type=Note, max_categories=5), parse_text, parse_price),
    partial(parsing.parse_categories, max_categories=11),
)


def changed(**changes):
    return json.dumps({**GOOD, **changes})


def note(text, finish="stop"):
    return parse_annotation(Answer(text=text, finish=finish), Note, 5)


def check_unusable(parse, *texts, reason=""):
    for text in texts:
        with pytest.raises(UnusableAnswer, match=re.escape(reason) or None) as error:
            parse(Answer(text=text))
        assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    "text",
    [
        *(JSON, json.dumps(GOOD, indent=2), f"\ufeff {JSON}\n\n", f"```\n{JSON}```", f"[{JSON}]"),
        f"```json\n{JSON}\n```",
        f"Sure! Here it is:\n\n{JSON}\n\nTell me if I can help {{further}}.",
        f"<think>\nMaybe {changed(gist='draft')}? No.\n</think>\n\n{JSON}",
        f"<thinking>{{</thinking>{JSON}",
        f"<THINK>a</THINK><think>b</think>{JSON}",
        f"so {changed(gist='draft')} or so</think>{JSON}",
        f"First {changed(gist='draft')}, on second thought:\n{JSON}",
        f'{{"plan": "read"}} {JSON}',
        f"{JSON} {{}} {{1}} {{'a': 1}}",
        JSON.replace("]", ",]").replace('"ramen"', '"ramen" '),
        *(JSON[:-1] + ",\n}", JSON[:-1], JSON.replace('"', "'"), JSON.replace(", ", "\n"), "{" * 90 + JSON),
        f"```json\n{JSON[:-2]}\n```",
        JSON.replace('"price"', "price").replace("[]", "None"),
        "Read as: " + JSON.replace("{", "{ // as asked\n"),
        json.dumps({name.upper(): value for name, value in GOOD.items()}),
        json.dumps({f" {name.title()} ": value for name, value in GOOD.items()}),
        json.dumps(dict(reversed(GOOD.items()))),
        *(changed(price="Fair Price "), changed(likes="the soup"), changed(categories="Ramen")),
        *(changed(dislikes=None), changed(dislikes="")),
        changed(categories=["ramen", "Ramen", " ramen ", ""]),
        changed(likes=["the soup", "the  soup", "", "\u200b", "the\nsoup"]),
        *(changed(gist=" Good\n\tsoup.\u202e "), changed(gist="Good soup\ud83d.")),
        changed(entity="all", price_of="x", nested={"gist": "other"}),
        changed(extra=[{"gist": "inner", "likes": []}]),
    ],
)
def test_usual_forms_of_an_answer_are_accepted(text):
    assert note(text) == NOTE


INFINITY, NAN = float("inf"), float("nan")
WRONG = {
    'no JSON object with the field "gist"': (
        *("", " \n", "Good soup.", "[]", "null", "{}", '["gist", "likes"]', json.dumps({"note": GOOD})),
        *(JSON.replace("{", "").replace("}", ""), JSON.replace('"', "“"), f"<think>{JSON}", json.dumps(JSON)),
    ),
    'the field "gist" is no text': [
        changed(gist=gist)
        for gist in (None, "", " \u200b\u0000", "\ud83d", 7, ["Good soup."], {"text": "Good"})
    ],
    'the field "likes" is no list of texts': [
        changed(likes=likes) for likes in (7, True, {"soup": 1}, [1, 2], ["soup", None], INFINITY)
    ],
    'the field "categories" is no list of texts': [changed(categories=[["ramen"]])],
    "must be one of cheap price, fair price, overpriced, none": (
        *(changed(price=price) for price in ("cheap", ["fair price"], 12.5, True, NAN)),
        json.dumps({"gist": "", **dict.fromkeys(GOOD, "x")} | {"dislike": []}),
    ),
    '"dislikes" is missing': (JSON[:40], JSON.replace("dislikes", "dislike")),
    '"likes" is missing': [json.dumps({"gist": "Good."})],
    "far too long": [JSON + "x" * 60_000],
}


@pytest.mark.parametrize("reason", WRONG)
def test_wrong_answers_are_rejected_with_a_reason(reason):
    check_unusable(PARSERS[0], *WRONG[reason], reason=reason)


def test_an_answer_that_was_cut_off_is_not_repaired():
    for cut in (JSON[:-9], JSON[:-1]):
        with pytest.raises(UnusableAnswer, match="it was cut off"):
            note(cut, "length")
    assert note(JSON, "length") == NOTE


def test_values_may_be_missing_and_have_limits():
    for price in (None, "", "none", "None", []):
        assert note(changed(price=price)).price == "none"
    assert note(changed(likes=None, dislikes=None, categories=None, price=None)) == Note(gist="Good soup.")
    many = [f"kind {number}" for number in range(1000)]
    long = note(changed(gist="word " * 1000, likes=many, dislikes=["x" * 1000], categories=many))
    assert len(long.gist) <= 400
    assert len(long.likes) == 8
    assert [len(phrase) for phrase in long.dislikes] == [160]
    assert long.categories == many[:5]


def test_malformed_categories_are_dropped():
    labels = ["Cafe\u0301", "Café", "fish & chips", "", "<b>x</b>", "a|b", "../x", "x" * 41, "24-hour diner"]
    answer = Answer(text=changed(categories=[*labels, "it's", "\u202eok", "$$"]))
    note = parse_annotation(answer, Note, 11)
    assert note.categories == ["café", "fish & chips", "24-hour diner", "it's", "ok"]


def test_summaries_are_parsed_as_notes_are():
    fields = {"text": "They like the soup.", **GOOD}
    del fields["gist"]
    answer = Answer(text=f"```json\n{json.dumps(fields)}\n```")
    assert parse_annotation(answer, Summary, 11) == Summary(**fields)
    with pytest.raises(UnusableAnswer, match='"text"'):
        parse_annotation(Answer(text=JSON), Summary, 11)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(PRICE_TAGS),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "x"]) | st.text(), inner),
    max_leaves=20,
)
SHAPED = st.fixed_dictionaries({name: JUNK | st.just(value) for name, value in GOOD.items()}).map(json.dumps)
_PIECES = (*'{}[]":,\\\n', "gist", "<think>", "</think>", "NaN", JSON, JSON[:50])
PIECES = st.lists(st.sampled_from(_PIECES)).map("".join)


@given(st.text() | PIECES | JUNK.map(json.dumps) | SHAPED, st.sampled_from(["stop", "length"]))
def test_any_answer_is_a_note_within_limits_or_unusable(text, finish):
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
def test_any_plain_answer_is_within_limits_or_unusable(text):
    for parse in PARSERS[1:]:
        with suppress(UnusableAnswer):
            result = parse(Answer(text=text))
            assert isinstance(result, list) or 0 < len(result) <= 1500


SLOW = (
    *("{", "{\n", '{"a":', '{"', '{"a', "[", "{}", "}{", ",  ", '{"gist":', '{"gist": "', " ", "'", "\\"),
    *("<think>", "</think>", "<think></think>", "not ", "no price ", "'a", "is a ", "a:", "1. ", "\n\n \n"),
    *('{"a":["', "{'", "/*", '{"gist" "', "cheap ", "not cheap "),
)


@pytest.mark.parametrize("text", SLOW, ids=ascii)
def test_long_answers_of_repeated_text_are_parsed_in_linear_time(text):
    """With quadratic work in the length of the text this would take hours."""
    for size in (4_000, 45_000, 1_000_000):
        for parse in PARSERS:
            with suppress(UnusableAnswer):
                parse(Answer(text=text * (size // len(text))))


def test_deep_and_wide_answers_are_tried_a_limited_number_of_times(monkeypatch):
    tries, decode = [], json.JSONDecoder.raw_decode
    monkeypatch.setattr(json.JSONDecoder, "raw_decode", lambda *args: tries.append(1) or decode(*args))
    for depth in (100, 450, 900, 6000):
        with pytest.raises(UnusableAnswer):
            note('{"gist":' * depth + "[" + "1," * (24_000 - 4 * depth))
    assert 4 <= len(tries) <= 4 * 100


def test_long_answers_are_not_repaired(monkeypatch):
    """Repair takes quadratic time."""
    lengths, loads = [], json_repair.loads
    monkeypatch.setattr(json_repair, "loads", lambda text: lengths.append(len(text)) or loads(text))
    assert note("a" * 3_000 + JSON[:-1]) == NOTE
    with pytest.raises(UnusableAnswer):
        note("a" * 4_000 + JSON[:-1])
    assert len(lengths) == 1


def test_plain_answers_are_stripped_of_thoughts():
    assert parse_text(Answer(text="<think>hm</think>\n\nThey like soup.")) == "They like soup."
    assert parse_text(Answer(text="hm, hm</think>They like soup.")) == "They like soup."
    assert len(parse_text(Answer(text="soup " * 1000))) <= 1500
    empty = ("", " \n", "\u200b", "<think>They like soup.", "<think>x</think>")
    check_unusable(parse_text, *empty, reason="it is empty")


PLAIN_PRICES = {
    "cheap price": """**Low price**|low-price|The price category is: low price|inexpensive|affordable
        The price is not overpriced but low price|Cheap prices and large portions
        <think>overpriced? no</think>low price""",
    "fair price": """fair price|Fair price.|'fair price'|fairly priced|Moderate|mid-range
        The price is not overpriced, it is fair|It isn't overpriced. Fair price
        None of them call it overpriced: fair price|neither cheap nor expensive, just average
        Reviewers don't find it expensive; reasonable|Fair price rather than overpriced
        Some find it expensive, but most say fair price""",
    "overpriced": """over-rice|Over-priced|overpriced|high price|pricey|Fairly expensive
        Based on the reviews, the restaurant is overpriced.|It is not cheap, it's expensive""",
    "none": """none|None mentioned.|N/A|Unknown|The price is not mentioned in the reviews.
        The reviews do not explicitly mention the price.|There is no information on prices
        There is no mention of price, so I can't say if it is overpriced.
        I cannot determine whether it is a fair price or a low price.
        It is difficult to determine the price category.""",
    None: "|Italian|The food is great.|not cheap|I can't assist.|42",
}


@pytest.mark.parametrize("tag", PLAIN_PRICES)
def test_plain_answers_name_prices(tag):
    texts = [text.strip() for text in re.split(r"[|\n]", PLAIN_PRICES[tag])]
    if tag:
        assert {text: parse_price(Answer(text=text)) for text in texts} == dict.fromkeys(texts, tag)
    else:
        check_unusable(parse_price, *texts)


PLAIN_CATEGORIES = {
    **{text: [] for text in ("none", "'none'", "Not mentioned in the reviews.", "Unknown")},
    "'Italian'": ["italian"],
    "Type: 'Thai'": ["thai"],
    "'type': 'Thai'": ["type", "thai"],
    "'Italian', 'Pizza'": ["italian", "pizza"],
    '"Women\'s wear"': ["women's wear"],
    "‘Ramen’ and “Sushi”": ["ramen", "sushi"],
    "Italian, Pizza; Wine bar": ["italian", "pizza", "wine bar"],
    "1. Italian\n2) Pizza\n- Wine bar\n* Café\n• Bar": ["italian", "pizza", "wine bar", "café", "bar"],
    "American/Mexican": ["american/mexican"],
    "American / Mexican | Bar & Grill": ["american", "mexican", "bar & grill"],
    "Category: Thai": ["thai"],
    "The type of restaurant is: Thai": ["thai"],
    "This is an Italian restaurant.": ["italian restaurant"],
    "Italian, italian, ITALIAN": ["italian"],
    "unagi": ["unagi"],
    ", ".join(f"kind {number}" for number in range(99)): [f"kind {number}" for number in range(11)],
}


def test_plain_answers_list_categories_or_say_that_there_are_none_and_do_not_ramble():
    for text, categories in PLAIN_CATEGORIES.items():
        assert parsing.parse_categories(Answer(text=text), 11) == categories
    check_unusable(PARSERS[3], "", "!!!", "It's hard to put into a few words what this place would be")


SOURCES = ["The ramen was rich and cheap.", "Slow\n service on Fridays, 40 minutes."]
SOURCES += ["Friendly cook, Mr Sato!"]
SUPPORTED = """
Rich, cheap ramen and a friendly cook, though service is slow on Fridays.
Somebody says that “the ramen was rich and cheap”.
Somebody says “slow service”.
Mr Sato is a friendly cook, but service was slow, 40 minutes.
Friendly.
"""
UNSUPPORTED = """
quotes: Guests say “the best ramen in town”.
quotes: They wrote "rich and very cheap".
30: Rich and cheap ramen, 30 minutes.
chef: Cheap ramen by Chef Tanaka.
sushi: Sushi, rich and cheap.
rooftop: Rich and cheap ramen, and a rooftop bar.
not: The ramen was not rich.
bad: Bad ramen.
five: Five stars, rich ramen.
"""


def test_a_sentence_may_state_what_its_sources_do_and_nothing_else():
    for sentence in SUPPORTED.strip().splitlines():
        check_supported(sentence, SOURCES)
    for reason, sentence in (line.split(": ") for line in UNSUPPORTED.strip().splitlines()):
        with pytest.raises(UnusableAnswer, match=reason):
            check_supported(sentence, SOURCES)


def test_a_reason_is_parsed_from_its_field_and_checked():
    answer = Answer(text='Sure: {"sentence": " Good  ramen. "}')
    assert parsing.parse_sentence(answer, ["Such good ramen"]) == "Good ramen."
    check_unusable(partial(parsing.parse_sentence, sources=["ramen"]), answer.text, reason="good")
    for text in ("Good ramen.", '{"sentence": ""}', '{"sentence": 3}', "{}"):
        check_unusable(partial(parsing.parse_sentence, sources=[text]), text)


WISH = {"wanted": ["ramen"], "unwanted": ["seafood"], "prices": ["cheap price"], "unwanted_prices": []}
WISH |= {"items": [], "similar_to": ["Noodle Bar"]}


def test_a_wish_names_nothing_but_what_its_text_does():
    texts = ["Cheap ramen, no seafood, like at the Noodle Bar."]
    wish = parsing.parse_wish(Answer(text=json.dumps(WISH)), texts)
    assert str(wish) == "cheap; not seafood; ramen; like Noodle Bar"
    for changes in (
        {"wanted": ["pizza"]},
        {"items": ["Pizza Palace"]},
        {"prices": ["none"]},
        {"prices": ["low"]},
    ):
        with pytest.raises(UnusableAnswer):
            parsing.parse_wish(Answer(text=json.dumps(WISH | changes)), texts)
    with pytest.raises(UnusableAnswer, match="missing"):
        parsing.parse_wish(Answer(text='{"wanted": []}'), texts)
