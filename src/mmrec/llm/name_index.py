"""Names of items: found in texts, and found although they are misspelt."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from itertools import chain

from mmrec.llm.lexicon import Phrases, Words, split_words


class NameIndex:
    """Names of items, found in texts and by names that are nearly the same."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[str, str] = {}  # by their words, without "and" and "the"
        self._starting: dict[str, set[str]] = defaultdict(set)  # keys by word beginnings
        for name in names:
            words = _name_words(split_words(name))
            if key := " ".join(words):
                self._names.setdefault(key, name)
                for word in words:
                    self._starting[word[:3]].add(key)
        self._phrases = Phrases(self._names)

    def find(self, text: str, is_common: Callable[[str], bool]) -> list[tuple[int, int, str]]:
        """Where each name begins and ends in a text, and the name.

        A name of a single word must be capitalised, unless it is the whole text, and must not be a
        common word ("Ramen").
        """
        if not self._phrases.find(_name_words(split_words(text))):
            return []  # the usual case
        spans: list[tuple[int, int]] = []
        words: Words = []
        for match in re.finditer(r"[^\W_]+(?:'[^\W_]+)*", text):
            word = _name_words(split_words(match[0]))
            if word:
                words.append(word[0])
                spans.append(match.span())
        matches = []
        for position, key, name in self._phrases.find(words):
            size = len(key.split())
            start, end = spans[position][0], spans[position + size - 1][1]
            if size == 1:
                is_name = len(words) == 1 or (text[start].isupper() and start > 0)
                if is_common(key) or not is_name:
                    continue
            matches.append((start, end, name))
        return matches

    def near(self, text: str, cutoff: float = 0.6, limit: int = 5) -> list[str]:
        """Names that are the same, begin with a text, contain it, or are spelt much like it."""
        words = _name_words(split_words(text))
        if not (query := " ".join(words)):
            return []
        # Names that share the beginning of a word: comparing all letters of all names is slow.
        sharing = sorted({*chain.from_iterable(self._starting.get(w[:3], ()) for w in words)})
        ranked = [key for key in sharing if key == query]
        ranked += [key for key in sharing if key.startswith(f"{query} ")]
        ranked += [key for key in sharing if f" {query} " in f" {key} "]
        ranked += get_close_matches(query, sharing, limit, cutoff)
        return [self._names[key] for key in dict.fromkeys(ranked)][:limit]


def _name_words(words: Words) -> Words:
    return [word for word in words if word not in ("and", "the")]
