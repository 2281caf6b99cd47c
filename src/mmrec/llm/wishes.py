"""What somebody looks for, said in free words, as a `Wish`; by rules, without a language model."""

import re
import tomllib
from collections.abc import Callable, Iterator
from importlib import resources
from itertools import dropwhile, pairwise
from typing import Any, NamedTuple

from mmrec.llm.lexicon import Lexicon, Phrases, Words, is_wish, split_words
from mmrec.llm.name_index import NameIndex
from mmrec.llm.types import PriceTag, StatedWish, Wish

_WORDS: dict[str, Any] = tomllib.loads(
    resources.files("mmrec.llm").joinpath("wish_words.toml").read_text("utf-8")
)
_FILLERS = frozenset(_WORDS["fillers"].split())
# By field of a `Wish`: what was understood so far, in order; nothing counts twice.
_Parts = dict[str, dict[str, None]]


def _compile(pattern: str) -> re.Pattern[str]:
    """A pattern of the file, whose words in capitals stand for its parts."""
    expanded = re.sub("[A-Z]{3,}", lambda name: _WORDS["parts"][name[0]], pattern)
    return re.compile(expanded, re.IGNORECASE | re.VERBOSE)


_SIMILAR_TO_THEM = _compile(_WORDS["references"]["similar_to_them"])
# The group that matches is the kind of the cue.
_CUE = _compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _WORDS["cues"].items()))


class _Segment(NamedTuple):
    """A part of a text, and what the words before it say of it."""

    text: str
    is_wanted: bool = True
    likes_names: bool = False  # whether items like those named are wanted
    names_follow: bool = False  # whether a name must follow, as in "a place like"
    is_joined: bool = False  # by "and" or "or" to the segment before


class WishParser:
    """Reads wishes by rules.

    `names` finds names of items in texts; `is_phrase` says whether reviews use some words as they
    stand ("mac and cheese").
    """

    def __init__(
        self, lexicon: Lexicon, names: NameIndex, is_phrase: Callable[[str], bool]
    ) -> None:
        self._lexicon, self._names, self._is_phrase = lexicon, names, is_phrase
        self._price_words: Phrases[PriceTag] = Phrases.by_meaning(_WORDS["prices"])

    def parse(self, text: str, max_characters: int = 1000) -> Wish:
        """The wish that a text states; what says nothing about items leaves no trace in it."""
        if not is_wish(text):
            return Wish(description=text)
        text, names = self._hide_names(text[:max_characters].replace("’", "'").replace("\x02", " "))
        parts: _Parts = {name: {} for name in StatedWish.model_fields}
        for segment in _segments(self._join_phrases(text)):
            item_names = [names[int(index)] for index in re.findall(r"\x02(\d+)\x02", segment.text)]
            segment = segment._replace(text=re.sub(r"\x02\d+\x02", " ", segment.text))
            if not item_names and (item_names := self._misspelt(segment)):
                segment = segment._replace(text="")
            target = "similar_to" if segment.likes_names else "items"
            parts[target if segment.is_wanted else "unwanted"] |= dict.fromkeys(item_names)
            self._add_phrases(segment, parts)
        if _SIMILAR_TO_THEM.search(text):
            parts["similar_to"] |= parts["items"]
            parts["items"] = {}
        return Wish.model_validate({name: [*values] for name, values in parts.items()})

    def find_names(self, text: str) -> list[str]:
        """Names of items in a text."""
        return [name for _, _, name in self._names.find(text, self._is_common)]

    def _misspelt(self, segment: _Segment) -> list[str]:
        """A name that is nearly the text, where one is expected or the text looks like one."""
        words = strip_fillers(split_words(segment.text), set())
        capitals = re.search(r"[A-Z][\w'&]+\W+(?:\w+\W+)*[A-Z]", segment.text)
        if segment.names_follow and len(words) == 1 and self._lexicon.keywords.find(words):
            return []  # "something like ramen"
        if segment.names_follow or (capitals and len(words) > 1):
            return self._names.near(" ".join(words), 0.75 if segment.names_follow else 0.85)[:1]
        return []

    def _is_common(self, word: str) -> bool:
        lexicon = self._lexicon
        return word in _FILLERS or bool(
            lexicon.keywords.find([word]) or lexicon.price_phrases([word])
        )

    def _hide_names(self, text: str) -> tuple[str, list[str]]:
        """The text with a mark in the place of each name, and the names."""
        names: list[str] = []
        result, end = "", 0
        for start, stop, name in self._names.find(text, self._is_common):
            result += f"{text[end:start]}\x02{len(names)}\x02"
            names.append(name)
            end = stop
        return result + text[end:], names

    def _join_phrases(self, text: str) -> str:
        """Put "_" around an "and" or "with" that joins the words of one dish."""

        def join(match: re.Match[str]) -> str:
            is_one = self._is_phrase(match[0])
            return match[0].replace(" ", "_") if is_one else match[0]

        return re.sub(r"\b(\w+) (and|in|with) (\w+)", join, text)

    def _add_phrases(self, segment: _Segment, parts: _Parts) -> None:
        words = split_words(segment.text)
        # In "no seafood and cheap" the negation ends before the price.
        is_price_wanted = segment.is_wanted or segment.is_joined
        prices = parts["prices" if is_price_wanted else "unwanted_prices"]
        matches = [*self._price_words.find(words), *self._lexicon.price_phrases(words)]
        for start, phrase, tag in matches:
            prices[tag] = None
            for position in range(start, start + len(phrase.split())):
                words[position] = "\0"  # not part of any other phrase
        for run in " ".join(words).split("\0"):
            phrases = self._split_labels(run.split())
            parts["wanted" if segment.is_wanted else "unwanted"] |= dict.fromkeys(phrases)

    def _split_labels(self, words: Words) -> list[str]:
        """Phrases of a run of words: "really spicy Thai food" are two, unless reviews say it so."""
        content = strip_fillers(words, self._labels(words))
        if len(content) < 2 or self._is_phrase(" ".join(content)):
            return [" ".join(content)] if content else []
        cuts = {0, len(content)}
        for start, label, _ in self._lexicon.keywords.find(content):
            cuts |= {start, start + len(label.split())}
        phrases = []
        for start, end in pairwise(sorted(cuts)):
            run = content[start:end]
            phrases.append(" ".join(strip_fillers(run, self._labels(run))))
        return list(filter(None, phrases))

    def _labels(self, words: Words) -> set[int]:
        """Positions of the words of categories such as "fast food", which "fast" alone does not name."""
        positions: set[int] = set()
        for start, label, _ in self._lexicon.keywords.find(words):
            size = len(label.split())
            content = strip_fillers(words[start : start + size], set())
            if not self._lexicon.keywords.find(content):
                positions |= {*range(start, start + size)}
        return positions


def strip_fillers(words: Words, protected: set[int]) -> Words:
    """The words without those at both ends that name nothing, but for positions that are kept."""
    first, last = 0, len(words)
    while first < last and words[first] in _FILLERS and first not in protected:
        first += 1
    while last > first and words[last - 1] in _FILLERS and last - 1 not in protected:
        last -= 1
    return words[first:last]


def _segments(text: str) -> Iterator[_Segment]:
    """The text between cues, each part as the cues before it have it."""
    cues = [*_CUE.finditer(text)]
    ends = [*(cue.start() for cue in cues), len(text)]
    last = _Segment(text[: ends[0]])
    for position, cue in enumerate(cues):
        kind, following = cue.lastgroup, _Segment(text[cue.end() : ends[position + 1]])
        if kind == "behind":
            last = last._replace(is_wanted=False)
        elif kind == "blame":
            following = following._replace(is_wanted=False)
        elif kind == "praise":
            # Who loves an item wants others like it; who wants one wants that one.
            likes = re.search(r"lov|ador|enjoy|fan|crazy|lik", cue[0], re.IGNORECASE)
            following = following._replace(likes_names=likes is not None)
        elif kind == "similar":
            negated = not last.is_wanted and not last.text.strip()
            following = _Segment(following.text, not negated, likes_names=True, names_follow=True)
        elif kind in ("either", "both") or (kind == "comma" and _list_goes_on(cues[position:])):
            following = last._replace(text=following.text, is_joined=True)
        yield last
        last = following
    yield last


def _list_goes_on(cues: list[re.Match[str]]) -> bool:
    """Whether "or" ends the list that a comma is in, so that "no A, B or C" has three parts."""
    other_cues = dropwhile(lambda cue: cue.lastgroup == "comma", cues)
    following = next(other_cues, None)
    return following is not None and following.lastgroup == "either"
