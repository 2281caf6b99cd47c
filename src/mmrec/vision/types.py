"""What a captioner does, and which captions are useless."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from PIL import Image

from mmrec.cache.store import Failure, Provenance
from mmrec.llm.types import Answer

PhotoBlocks = Iterator[list[tuple[int, Image.Image]]]
"""RGB photos in blocks, each with its number."""


class Captioner(Protocol):
    """Describes photos without a question (paper, section 3.2)."""

    chunk_size: int
    """Photos in a block; the captions of a block are stored together."""

    @property
    def provenance(self) -> Provenance:
        """What determines a caption besides the photo; its kind is `caption`."""

    def compute(self, photos: PhotoBlocks) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption photos of any size, in any order, each caption with the number of its photo.

        A caption that says nothing (see `caption_fault`), also on a second try, is a failure.
        """

    def status(self) -> str:
        """What was used up so far, for the progress bar."""


def caption_fault(caption: str, max_characters: int = 800) -> str | None:
    """Why a caption is useless, as `kind: detail`; None for one that can be used."""
    words = re.findall(r"\w+", caption.lower())
    if not caption.strip():
        return "empty caption"
    if len(caption) > max_characters:
        return f"caption is too long: {len(caption)} characters"
    if re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd]", caption):
        return "caption holds control characters"
    special_token = r"<\|?/?[a-z_]+\|?>|\[(?:PAD|UNK|CLS|SEP|MASK|DEC|ENC)\]"
    if re.search(special_token, caption, re.IGNORECASE):
        return "caption holds special tokens"
    if not any(character.isalpha() for character in caption):
        return "caption has no words"
    empty_words = (
        "a an the this that it there here is are was shows showing of in on at by for from to and "
        "or with photo photograph picture image img view shot close up closeup caption"
    )
    if set(words) <= set(empty_words.split()):
        return f"caption says nothing: {caption[:60]}"
    loops = (
        r"([^\W\d_]{1,10}?)\1{5,}",  # "hahahahahaha"
        r"\b(\w+)(?: \1\b){3}",  # "very very very big" is still English
        r"\b(\w+(?: \w+){1,2})(?: \1\b){2}",
        r"\b(\w+(?: \w+){3,7}) \1\b",
        r"\b(\w+(?: \w+){3})\b(?:.* \1\b){2}",  # the same four words in three places
    )
    for loop in loops:
        if match := re.search(loop, " ".join(words)):
            return f"caption loops: {match[1][:60]}"
    # "a room with a table and a table with a room": nothing new is said after a while.
    if len(words) >= 10 and len(set(words)) < 0.45 * len(words):
        return f"caption loops: {' '.join(words[-6:])[:60]}"
    return None
