"""Hidden characters and markup of chat templates are removed; honest text stays as it is."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile import HOSTILE
from mmrec.llm.sanitize import sanitize

_CHARACTERS = (
    "ab <>|[]/1#*_INST\n\t\r\u2028\u200c\u200d\ufe0f\ufe0e\u202e\x00\ud800\U000e0041\u034f\u0301é😊ك"
)
NASTY = st.text(st.sampled_from(_CHARACTERS))
"""Texts of all that `sanitize` looks for, side by side."""
HIDDEN = (
    "\u202e\u2066\u200b\ufeff\u00ad\x00\x1b\x7f\x9b\ud800\ue000\U000e0041\U000e0100\ufe00\u034f\u3164"
    "\u180e\u2065\uffff\u200d\ufe0f"
)
_TEMPLATE_TOKENS = """
<|im_start|> <|im_end|> <|endoftext|> <|eot_id|> <|start_header_id|> <|begin_of_text|> <s> </s> <bos> <eos>
<unk> <pad> <start_of_turn> <end_of_turn> [INST] [/INST] [SYSTEM_PROMPT] [TOOL_CALLS] [gMASK] <<SYS>>
<</SYS>> <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜> <|start|> <|channel|> <|message|> <|end|> <|user|>
<|system|> [|user|] <|START_OF_TURN_TOKEN|> [|endofturn|] <think> </think> <tool_call> <|turn> <turn|>
<extra_id_0> <image> <end_of_utterance> <|reserved_special_token_250|>
"""
TEMPLATE_TOKENS = _TEMPLATE_TOKENS.split()


@pytest.mark.parametrize(
    "text",
    [
        "Great ramen & friendly staff!\n\nWe'll be back — 10/10 (really). $12.50 <3 a < b > c [sic]",
        "Crème brûlée, jalapeño, smörgåsbord, Straße, cafe\u0301",
        "می\u200cخواهم دوباره بیایم؛ کتاب\u200cها هم بود",
        "భోజనం చాలా బాగుంది, క్\u200cషణం",
        "खाना बहुत स्वादिष्ट था, क्\u200dष",
        "ශ්\u200dරී ලංකා",
        "อาหารอร่อยมาก",
        "המסעדה הזאת מצוינת",
        "الطعام لذيذ جدًّا",
        "料理は美味しい。「最高」　また来ます",
        "음식이 정말 맛있어요",
        "👨\u200d👩\u200d👧\u200d👦 ❤️\u200d🔥 🏳️\u200d🌈 1️⃣ #️⃣ ☎︎ 👍🏽 🫨 🇮🇹",
        "tab\there, e\u0308 and n\u0303",
        "x² ≤ ½ µm © ™ ® ° № …",
    ],
)
def test_honest_text_is_left_as_it_is(text: str) -> None:
    assert sanitize(text) == text


def test_runs_of_empty_lines_become_one() -> None:
    assert sanitize("a\r\nb\rc\u2028d\x0be\x85f") == "a\nb\nc\nd\ne\nf"
    assert sanitize("\n\na\n \n\n\t\nb\n\n") == "a\n\nb"


@pytest.mark.parametrize(
    "hidden", [*HIDDEN, "\ufe01\ufe02", "\u200c\u200d\u200c", "\ufe0f\u200d\ufe0f"], ids=ascii
)
def test_hidden_characters_are_removed(hidden: str) -> None:
    assert sanitize(f"so{hidden}up") == "soup"
    assert sanitize(hidden) == sanitize(f" {hidden}\n") == ""


def test_runs_of_joiners_carry_no_message() -> None:
    assert sanitize("ش\u200c\u200d\u200c\u200cش") == "ش\u200cش"
    assert sanitize("❤\ufe0f\u200d\ufe0f\u200c🔥") == "❤\ufe0f\u200d🔥"
    for name in ("tag characters", "variation selectors", "joiners"):
        assert len(sanitize(HOSTILE[name])) <= len("Good soup. 😊")


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("a<|im_end|>b", "a< |im_end|>b"),
        ("</s><s>", "< /s>< s>"),
        ("<\u200b|im_end|\u202e>", "< |im_end|>"),
        ("<|im_<|im_end|>end|>", "<|im_< |im_end|>end|>"),
        ("[INST] [/INST] [|user|] [gMASK]", "[ INST] [ /INST] [ |user|] [ gMASK]"),
        ("[review 1 abcdef012345 ends]", "[ review 1 abcdef012345 ends]"),
        ("[REVIEW 12 x begins]", "[ REVIEW 12 x begins]"),
        ("<script>x</script>", "< script>x< /script>"),
        ("</think>", "< /think>"),
    ],
)
def test_markup_of_chat_templates_gets_a_space(text: str, harmless: str) -> None:
    assert sanitize(text) == harmless


def test_a_tokenizer_finds_no_control_tokens_in_a_review() -> None:
    """As in a server that fills its chat template and tokenizes the result as a whole."""
    pytest.importorskip("transformers")
    from tiny_models import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": TEMPLATE_TOKENS})
    added = set(tokenizer.convert_tokens_to_ids(TEMPLATE_TOKENS))
    special = added | set(tokenizer.all_special_ids)

    def control_tokens(text: str) -> set[int]:
        return special & set(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert control_tokens("".join(TEMPLATE_TOKENS)) >= added
    nested = [f"{outer[:2]}{inner}{outer[2:]}" for outer in TEMPLATE_TOKENS for inner in TEMPLATE_TOKENS[:4]]
    for text in (*TEMPLATE_TOKENS, *nested, *HOSTILE.values()):
        assert not control_tokens(sanitize(text)), text[:80]


@given(NASTY | st.text())
def test_the_result_holds_nothing_hidden_and_does_not_change_again(text: str) -> None:
    result = sanitize(text)
    assert sanitize(result) == result == result.strip()
    categories = {unicodedata.category(sign) for sign in result if sign not in "\n\t\u200c\u200d"}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert not re.search(r"<\S{1,40}>", result) or re.search(r"<[^\s<>]*<", result)
    result.encode()


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="<[")))
def test_plain_text_loses_only_the_space_around_it(text: str) -> None:
    assert sanitize(text) == text.strip()
