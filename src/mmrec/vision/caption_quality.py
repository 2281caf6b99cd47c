"""Detection of captions that say nothing: what goes wrong with captioners, as users report it."""

from __future__ import annotations

import re

__all__ = ["caption_fault"]


def caption_fault(caption: str, max_characters: int = 800) -> str | None:
    """Why a caption is useless; None for one that can be used.

    A good caption that begins with "a photo of" is left as it is: the store keeps what a model
    wrote word for word, and a few words that all captions share move their vectors alike.

    Returns:
        `kind: detail` of the first fault: too long, control characters, special tokens, no
        words, only "a photo of", or a loop.
    """
    words = re.findall(r"\w+", caption.lower())
    if not caption.strip():
        return "empty caption"
    if len(caption) > max_characters:
        return f"caption is too long: {len(caption)} characters"
    if re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd]", caption):
        return "caption holds control characters"
    special = r"<\|?/?[a-z_]+\|?>|\[(?:PAD|UNK|CLS|SEP|MASK|DEC|ENC)\]"
    if re.search(special, caption, re.IGNORECASE):
        return "caption holds special tokens"
    if not any(character.isalpha() for character in caption):
        return "caption has no words"
    empty_words = (
        "a an the this that it there here is are was shows showing of in on at by for from to and or "
        "with photo photograph picture image img view shot close up closeup caption"
    )
    if set(words) <= set(empty_words.split()):
        return f"caption says nothing: {caption[:60]}"
    loop = _find_loop(words)
    return f"caption loops: {loop[:60]}" if loop else None


def _find_loop(words: list[str]) -> str:
    """The words that are repeated again and again; empty where none are."""
    text = " ".join(words)
    loops = (
        r"([^\W\d_]{1,10}?)\1{5,}",  # "hahahahahaha"
        r"\b(\w+)(?: \1\b){3}",  # "very very very big" is still English
        r"\b(\w+(?: \w+){1,2})(?: \1\b){2}",
        r"\b(\w+(?: \w+){3,7}) \1\b",
        r"\b(\w+(?: \w+){3})\b(?:.* \1\b){2}",  # the same four words in three places
    )
    for loop in loops:
        if match := re.search(loop, text):
            return match[1]
    # "a room with a table and a table with a room": nothing new is said after a while.
    is_repetitive = len(words) >= 10 and len(set(words)) < 0.45 * len(words)
    return " ".join(words[-6:]) if is_repetitive else ""
