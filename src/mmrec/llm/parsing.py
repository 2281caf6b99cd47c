"""Checked notes, summaries, prices and categories from the answers of language models."""

import json
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import json_repair

from mmrec.console import single_line
from mmrec.llm.prompts import PROMPT_TEXTS, sanitize
from mmrec.llm.types import PRICE_TAGS, Answer, Note, PriceTag, StatedWish, Summary, Wish

_MAX_CHARACTERS = {"gist": 400, "text": 1500, "phrase": 160, "sentence": 400}
# What names a price tag, from the beginning of a word: the paper's names come first.
_PRICE_NAMES: tuple[dict[PriceTag, str], ...] = (
    {
        "overpriced": r"over[- ]?p?ric(?:e|ed|ey|ing)\b",
        "cheap price": r"(?:low|cheap)(?:er)?[- ]pric",
        "fair price": r"fair[- ]pric",
    },
    {
        "overpriced": r"expensive|pric[ei]y|costly|high(?:er|ly)?[- ]pric",
        "cheap price": r"cheap|inexpensive|bargain|affordabl",
        "fair price": r"fair(?:ly[- ]pric|\b)|reasonabl|moderate|average|mid-?range",
    },
)
AnnotationT = TypeVar("AnnotationT", Note, Summary)


class UnusableAnswer(ValueError):
    """An answer that cannot be used; the message is the reason, worded to be sent to the model."""


def parse_annotation(
    answer: Answer, result_type: type[AnnotationT], max_categories: int
) -> AnnotationT:
    """Read a note or a summary, cut to its limits, from an answer; or UnusableAnswer."""
    name = "gist" if result_type is Note else "text"
    fields = _find_object(answer, name)
    text = _text_field(fields, name)
    for required in ("likes", "dislikes", "price", "categories"):
        if required not in fields:
            raise UnusableAnswer(f'the field "{required}" is missing')
    price = str(fields["price"] or "none").strip().lower()
    if price not in PRICE_TAGS:
        raise UnusableAnswer(f'the field "price" must be one of {", ".join(PRICE_TAGS)}')
    result: dict[str, Any] = {name: text, "price": price}
    for opinions in ("likes", "dislikes"):
        # Eight, as the prompt of a summary allows.
        result[opinions] = _phrases(fields, opinions)[:8]
    categories = _normalize_categories(_phrases(fields, "categories"))
    return result_type(**result, categories=categories[:max_categories])


def parse_sentence(answer: Answer, sources: Sequence[str]) -> str:
    """Read a sentence that states nothing but its sources from a structured answer."""
    sentence = _text_field(_find_object(answer, "sentence"), "sentence")
    check_supported(sentence, sources)
    return sentence


def parse_wish(answer: Answer, texts: Sequence[str]) -> Wish:
    """Read a wish that names nothing but what its text does, from a structured answer."""
    fields = _find_object(answer, "wanted")
    values: dict[str, list[str]] = {}
    for name in StatedWish.model_fields:
        if name not in fields:
            raise UnusableAnswer(f'the field "{name}" is missing')
        values[name] = _phrases(fields, name)[:20]
    for name in ("prices", "unwanted_prices"):
        values[name] = [tag.strip().lower() for tag in values[name]]
        if not {*values[name]} <= {*PRICE_TAGS} - {"none"}:
            raise UnusableAnswer(
                f'the field "{name}" must list some of {", ".join(PRICE_TAGS[:-1])}'
            )
    for name in ("wanted", "unwanted", "items", "similar_to"):
        for phrase in values[name]:
            check_supported(phrase, texts)
    return Wish.model_validate(values)


def check_supported(sentence: str, sources: Sequence[str]) -> None:
    """Raise UnusableAnswer where a generated sentence states what its sources do not.

    Quotations must stand in a source word for word. Every other word, but for function words, must
    have the stem (here: the first five letters) of a word of the sources.
    """
    evidence = "\n".join(map(single_line, sources)).casefold()
    for quotation in re.findall(r"[“\"«„]([^“”\"«»„]{3,})[”\"»“]", sentence):
        if single_line(quotation).casefold().strip(" .,!?") not in evidence:
            raise UnusableAnswer("it quotes words that are in no review")
    word, stem_length = re.compile(r"[^\W_]+"), 5
    function_words = set(PROMPT_TEXTS["function_words"].split())
    stems = {match[:stem_length] for match in word.findall(evidence)}
    for token in word.findall(sentence.casefold()):
        if token[:stem_length] not in stems and token not in function_words:
            raise UnusableAnswer(f'it says "{token}", which is in no review')


def parse_text(answer: Answer) -> str:
    """Read a plain text (the paper's prompts); an empty one is an `UnusableAnswer`."""
    text = sanitize(_without_thoughts(answer))[: _MAX_CHARACTERS["text"]]
    if not text:
        raise UnusableAnswer("it is empty")
    return text


def parse_price(answer: Answer) -> PriceTag:
    """Read the first price tag that a plain answer names and does not deny; `none` if unknown.

    The paper's names of the tags take precedence over other words. Raises UnusableAnswer.
    """
    text = single_line(parse_text(answer).lower())
    # One word may stand between, as in "not explicitly mentioned".
    negation = r"(?:\bno[tr]?\b|n['’]t\b|\bwithout\b)"
    mention = r"(?:mention|stat|specif|discuss|provid|information)"
    inability = r"\b(?:cannot|can['’]t|(?:unable|difficult|hard|impossible|not possible) to)"
    judgement = r"(?:tell|determin|say|infer|assess|categori|classif|identif|judge)"
    if re.search(rf"{negation}(?: \w+)? {mention}|{inability}(?: \w+)? {judgement}", text):
        return "none"
    denials = r"not|nor|never|neither|none|nobody|no one|hardly|rather than|instead of"
    denial = rf"\b(?:{denials})\b|n['’]t\b"
    for patterns in _PRICE_NAMES:
        mentions: list[tuple[int, PriceTag]] = []
        for tag, pattern in patterns.items():
            for match in re.finditer(rf"\b(?:{pattern})", text):
                mentions.append((match.start(), tag))
        for start, tag in sorted(mentions):
            # A denial may stand at most four words before, in the same clause.
            before = re.sub(r"\s\W*\Z", "", text[max(start - 60, 0) : start])
            clause = re.split(r"[^\w\s'’-]|\bbut\b", before)[-1]
            if not re.search(denial, " ".join(clause.split()[-5:])):
                return tag
    if re.search(r"\b(?:none|unknown|unclear|n/a|no price)\b", text):
        return "none"
    raise UnusableAnswer("it names no price category")


def parse_categories(answer: Answer, max_categories: int) -> list[str]:
    """Read the categories of a plain answer: quoted ones, else the parts of its lines."""
    text = parse_text(answer).lower()
    quoted = re.findall(r"(?<!\w)['\"‘“](.+?)['\"’”](?!\w)", text)
    # "1. Italian", "- Pizza", "Category: Thai", "This is an Italian restaurant"
    lead = r"\s*(?:[-*•]|\d+[.)])\s+|.*(?::|\b(?:is|are)\b(?: an?\b| the\b)?)"
    missing = re.compile(r"(?:none|unknown|unclear|unspecified|n/?a|not \w+)\b.*")
    states_none = False
    labels = []
    for phrase in quoted or re.split(r"[,;\n|]|\s/\s", text):
        label = phrase if quoted else re.sub(lead, "", phrase, count=1)
        label = label.strip(" '\"`‘’“”.*-[]()")
        if missing.fullmatch(label):
            states_none = True
        elif len(label.split()) < 5:  # more words are a sentence, and no label
            labels.append(label)
    categories = _normalize_categories(labels)[:max_categories]
    if not categories and not states_none:
        raise UnusableAnswer("it names no kind in the form asked for")
    return categories


def _without_thoughts(answer: Answer, max_characters: int = 50_000) -> str:
    """The text after a model's thoughts; UnusableAnswer where it is so long that it must loop."""
    thoughts = r"\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z"
    text = re.sub(thoughts, "", answer.text, flags=re.DOTALL | re.IGNORECASE)
    if len(text) > max_characters:
        raise UnusableAnswer("it is far too long")
    return text


def _find_object(answer: Answer, name: str) -> dict[str, Any]:
    """The last outermost JSON object with a field, repaired unless the answer was cut off."""
    text, was_cut = _without_thoughts(answer), answer.finish == "length"
    objects = []
    start, tries = text.find("{"), 0
    while start >= 0 and tries < 100:  # Each try may read all of the text.
        end = start + 1
        with suppress(ValueError, RecursionError):
            fields, end = json.JSONDecoder().raw_decode(text, start)
            objects.append(fields)
        start, tries = text.find("{", end), tries + 1
    fields = _last_with(name, objects)
    if fields is None and "{" in text and not was_cut and len(text) <= 4_000:  # O(n^2)
        with suppress(ValueError, RecursionError):
            values = json_repair.loads(text)
            fields = _last_with(name, values if isinstance(values, list) else [values])
    if fields is None:
        cut = ", it was cut off" if was_cut else ""
        raise UnusableAnswer(f'it holds no JSON object with the field "{name}"{cut}')
    return fields


def _last_with(name: str, values: Sequence[Any]) -> dict[str, Any] | None:
    for value in reversed(values):
        if isinstance(value, dict):
            fields = {key.strip().lower(): content for key, content in value.items()}
            if name in fields:
                return fields
    return None


def _text_field(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    text = single_line(sanitize(value)) if isinstance(value, str) else ""
    if not text:
        raise UnusableAnswer(f'the field "{name}" is no text')
    return text[: _MAX_CHARACTERS[name]]


def _phrases(fields: dict[str, Any], name: str) -> list[str]:
    """Distinct phrases of a field that is a list of texts, a single text, or null."""
    value = fields[name] or []
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise UnusableAnswer(f'the field "{name}" is no list of texts')
    limit = _MAX_CHARACTERS["phrase"]
    phrases = dict.fromkeys(single_line(sanitize(text))[:limit] for text in values)
    return list(filter(None, phrases))


def _normalize_categories(labels: Sequence[str]) -> list[str]:
    """Distinct labels in lower case; those with odd characters or over 40 letters are dropped."""
    # NFC, since "é" as one character and as two is the same label.
    normalized = [unicodedata.normalize("NFC", single_line(label.lower())) for label in labels]
    is_label = re.compile(r"\w[\w&'’/ .-]{0,39}").fullmatch
    return list(dict.fromkeys(filter(is_label, normalized)))
