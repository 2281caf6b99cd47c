"""Captions that say nothing: what goes wrong with captioners, as users report it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

__all__ = ["caption_fault"]

_LONGEST: Final = 800
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
_TOKEN: Final = re.compile(r"<\|?/?[a-z_]+\|?>|\[(?:PAD|UNK|CLS|SEP|MASK|DEC|ENC)\]", re.IGNORECASE)
_STUTTER: Final = re.compile(r"([^\W\d_]{1,10}?)\1{5,}")
_EMPTY_WORDS: Final = (
    "a an the this that it there here is are was shows showing of in on at by for from to and or with "
    "photo photograph picture image img view shot close up closeup caption"
)
_RUNS: Final = ((1, 4), (2, 3), (3, 3), (4, 2), (5, 2), (6, 2), (7, 2), (8, 2))
_LEAST_NEW: Final = 0.45


def caption_fault(caption: str) -> str | None:
    """Why a caption is worth nothing, or None for one that can be used.

    A good caption that begins with "a photo of" is left as it is: the store keeps what a model said word
    for word, and a few words that all captions share move their vectors alike.

    Returns:
        `kind: detail` of the first thing found: too long, control characters, special tokens, no words,
        only "a photo of", or a loop.
    """
    words = re.findall(r"\w+", caption.lower())
    if not caption.strip():
        return "empty caption"
    if len(caption) > _LONGEST:
        return f"caption is too long: {len(caption)} characters"
    if _CONTROL.search(caption):
        return "caption holds control characters"
    if _TOKEN.search(caption):
        return "caption holds special tokens"
    if not any(letter.isalpha() for letter in caption):
        return "caption has no words"
    if set(words) <= set(_EMPTY_WORDS.split()):
        return f"caption says nothing: {caption[:60]}"
    looped = _loop(caption, words)
    return f"caption loops: {looped[:60]}" if looped else None


def _loop(caption: str, words: list[str]) -> str:
    """What is said again and again, or nothing."""
    stutter = _STUTTER.search(caption.lower())
    if stutter:
        return stutter[0]
    for size, most in _RUNS:
        for start in range(len(words) - size * most + 1):
            part = words[start : start + size]
            if part * most == words[start : start + size * most]:
                return " ".join(part)
    fours = Counter(" ".join(words[start : start + 4]) for start in range(len(words) - 3))
    for four, times in fours.most_common(1):
        if times > 2:
            return four
    # "a room with a table and a table with a room": nothing new is said after a while
    return (
        " ".join(words[-6:])
        if len(words) >= 10 and len(set(words)) < _LEAST_NEW * len(words)
        else ""
    )
