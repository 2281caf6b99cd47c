"""From what a model answered to a note or a summary: nothing is believed before it was checked."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmrec.llm.prompts import sanitize
from mmrec.llm.types import PRICE_TAGS, Answer, Note, PriceTag, Summary

__all__ = [
    "UnusableAnswer",
    "check_supported",
    "parse_categories",
    "parse_note",
    "parse_price",
    "parse_sentence",
    "parse_summary",
    "parse_text",
]

_MOST_CHARACTERS = {"gist": 400, "text": 1500, "phrase": 160, "sentence": 400}
_MOST_PHRASES = 8
# No answer is as long that did not loop. Each try of a brace may read all the rest.
_MOST_ANSWER, _MOST_TRIES = 50_000, 100
_CATEGORY = re.compile(r"\w[\w&'’/ .-]{0,39}")
_THOUGHT = re.compile(r"\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
_PARTING = re.compile(r"[,;\n|]|\s/\s")
_QUOTED = re.compile(r"(?<!\w)['\"‘“](.+?)['\"’”](?!\w)")
_LEAD = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+|.*(?::|\b(?:is|are)\b(?: an?\b| the\b)?)")
_NO_KIND = re.compile(r"(?:none|unknown|unclear|unspecified|n/?a|not \w+)\b.*")
_WORDY = 5
_SPAN = re.compile(r"[“\"«„]([^“”\"«»„]{3,})[”\"»“]")
_TOKEN = re.compile(r"[^\W_]+")
_STEM = 5
_GLUE = re.compile(
    r"""(?x)
    about|also|although|being|both|some|someone|somebody|people|guests|visitors|reviewers
    |others|many|most|several|praised?|likes?|liked|loves?|loved|enjoy|enjoyed|mentions?
    |mentioned|notes?|noted|says?|said|tells?|told|finds?|found|thinks?|that|this|these
    |those|they|their|them|there|here|with|from|have|been|were|will|would|which|while
    |when|where|what|your|you|though|however|despite|minds?|minded|may|might|expect|come|place
    |spot|worth|very|more|than|just|only|other|the|and|but|for|are|was|has|had|can|its|his|her
    |our|who|how|all|any|out|off|one|too|yet|s|re|ll|ve|it|is|in|on|at|of|to|a|an|as|be|by|or
    |so|if|we|he|she|i|my|me|do|up
    """
)

_TAGS: dict[str, PriceTag] = {"over": "overpriced", "low": "cheap price", "fair": "fair price"}
_PRICE_NAMES = re.compile(
    r"\b(?:(?P<over>over[- ]?p?ric(?:e|ed|ey|ing)\b)|(?P<low>(?:low|cheap)(?:er)?[- ]pric)"
    r"|(?P<fair>fair[- ]pric))"
)
_PRICE_WORDS = re.compile(
    r"\b(?:(?P<over>expensive|pric[ei]y|costly|high(?:er|ly)?[- ]pric)"
    r"|(?P<low>cheap|inexpensive|bargain|affordabl)"
    r"|(?P<fair>fair(?:ly[- ]pric|\b)|reasonabl|moderate|average|mid-?range))"
)
# A few words may stand between a denial and what it denies, but no comma.
_DENIED = re.compile(
    r"(?:\b(?:not|nor|never|neither|none|nobody|no one|hardly|rather than|instead of)\b|n['’]t\b)"
    r"(?:\s(?!but\b)[\w'’-]+){0,4}\s\W*\Z"
)
_UNSAID = re.compile(
    r"(?:\bno[tr]?\b|n['’]t\b|\bwithout\b)(?: \w+)? (?:mention|stat|specif|discuss|provid|information)"
    r"|\b(?:cannot|can['’]t|(?:unable|difficult|hard|impossible|not possible) to)(?: \w+)?"
    r" (?:tell|determin|say|infer|assess|categori|classif|identif|judge)"
)
_UNKNOWN = re.compile(r"\b(?:none|unknown|unclear|n/a|no price)\b")


class UnusableAnswer(ValueError):
    """An answer that cannot be used; the message is the reason, fit to be told to the model."""


def parse_note(answer: Answer, max_categories: int) -> Note:
    """A note out of a structured answer.

    Raises:
        Unusable: no JSON object, a field of another type, no gist, or a price tag that does not exist.
    """
    fields = _object(answer, "gist")
    return Note(gist=_sentence(fields, "gist"), **_words(fields, max_categories))


def parse_summary(answer: Answer, max_categories: int) -> Summary:
    """A summary out of a structured answer; raises as `parse_note` does."""
    fields = _object(answer, "text")
    return Summary(text=_sentence(fields, "text"), **_words(fields, max_categories))


def parse_sentence(answer: Answer) -> str:
    """A sentence out of a structured answer.

    Raises:
        Unusable: no JSON object, or no text in it.
    """
    return _sentence(_object(answer, "sentence"), "sentence")


def check_supported(sentence: str, sources: Sequence[str]) -> None:
    """Check that a sentence tells nothing but what was said.

    What stands in quotation marks must be there word for word. So must every other word (by its first five
    letters), but for those that only hold a sentence together; a denial is no such word.

    Raises:
        Unusable: something in it is not there.
    """
    there = [" ".join(one.split()).casefold() for one in sources]
    for quoted in _SPAN.findall(sentence):
        if not any(" ".join(quoted.split()).casefold().strip(" .,!?") in one for one in there):
            raise UnusableAnswer("it quotes what nobody wrote")
    stems = {word[:_STEM] for one in there for word in _TOKEN.findall(one)}
    for word in _TOKEN.findall(sentence.casefold()):
        if word[:_STEM] not in stems and not _GLUE.fullmatch(word):
            raise UnusableAnswer(f'it says what nobody wrote: "{word}"')


def parse_text(answer: Answer) -> str:
    """A plain summary (the paper's prompts).

    Raises:
        Unusable: nothing was said.
    """
    text = sanitize(_said(answer))[: _MOST_CHARACTERS["text"]]
    if not text:
        raise UnusableAnswer("it is empty")
    return text


def parse_price(answer: Answer) -> PriceTag:
    """The price tag that a plain answer names, and does not deny: the paper's names go before other words.

    Raises:
        Unusable: it names none of them.
    """
    said = " ".join(parse_text(answer).lower().split())
    if _UNSAID.search(said):
        return "none"
    for words in (_PRICE_NAMES, _PRICE_WORDS):
        for found in words.finditer(said):
            if not _DENIED.search(said[max(found.start() - 60, 0) : found.start()]):
                return _TAGS[str(found.lastgroup)]
    if _UNKNOWN.search(said):
        return "none"
    raise UnusableAnswer("it names no price category")


def parse_categories(answer: Answer, max_categories: int) -> list[str]:
    """The categories that a plain answer lists: what is quoted, else the parts of its lines.

    Raises:
        Unusable: it lists none, and does not say so.
    """
    said = parse_text(answer).lower()
    listed = _QUOTED.findall(said)
    listed = listed or [_LEAD.sub("", line, count=1) for line in _PARTING.split(said)]
    labels = [part.strip(" '\"`‘’“”.*-[]()") for part in listed]
    kinds = [one for one in labels if not _NO_KIND.fullmatch(one) and len(one.split()) < _WORDY]
    found = _categories(kinds, max_categories)
    if not found and not any(map(_NO_KIND.fullmatch, labels)):
        raise UnusableAnswer("it names no kind in the form asked for")
    return found


def _said(answer: Answer) -> str:
    """What a model said after its thoughts."""
    text = _THOUGHT.sub("", answer.text)
    if len(text) > _MOST_ANSWER:
        raise UnusableAnswer("it is far too long")
    return text


def _object(answer: Answer, needed: str) -> dict[str, Any]:
    """The last JSON object that has the needed field: models think, quote and fence before it."""
    text = _said(answer)
    found = [one for one in _objects(text) if needed in one]
    found = found or [one for one in _objects(_TRAILING_COMMA.sub(r"\1", text)) if needed in one]
    if not found:
        cut = ", it was cut off" if answer.finish == "length" else ""
        raise UnusableAnswer(f'it holds no JSON object with the field "{needed}"{cut}')
    return found[-1]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Outermost JSON objects of a text."""
    decoder = json.JSONDecoder()
    end = 0
    for _ in range(_MOST_TRIES):
        if (at := text.find("{", end)) < 0:
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield {name.strip().lower(): field for name, field in value.items()}


def _sentence(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str) or not (said := " ".join(sanitize(value).split())):
        raise UnusableAnswer(f'the field "{name}" is no text')
    return said[: _MOST_CHARACTERS[name]]


def _words(fields: Mapping[str, Any], most_categories: int) -> dict[str, Any]:
    missing = [name for name in ("likes", "dislikes", "price", "categories") if name not in fields]
    if missing:
        raise UnusableAnswer(f'the field "{missing[0]}" is missing')
    tag = str(fields["price"] or "none").strip().lower()
    if tag not in PRICE_TAGS:
        raise UnusableAnswer(f'the field "price" must be one of {", ".join(PRICE_TAGS)}')
    return {
        "likes": _phrases(fields, "likes")[:_MOST_PHRASES],
        "dislikes": _phrases(fields, "dislikes")[:_MOST_PHRASES],
        "price": tag,
        "categories": _categories(_phrases(fields, "categories"), most_categories),
    }


def _phrases(fields: Mapping[str, Any], name: str) -> list[str]:
    value = fields[name] or []
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UnusableAnswer(f'the field "{name}" is no list of texts')
    said = (" ".join(sanitize(one).split())[: _MOST_CHARACTERS["phrase"]] for one in value)
    return list(dict.fromkeys(one for one in said if one))


def _categories(said: list[str], most: int) -> list[str]:
    labels = (unicodedata.normalize("NFC", " ".join(one.lower().split())) for one in said)
    return list(dict.fromkeys(label for label in labels if _CATEGORY.fullmatch(label)))[:most]
