"""The protocol of captioners: put photos into words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from PIL import Image

from mmrec.cache.store import Failure
from mmrec.llm.types import Answer

__all__ = ["Captioner", "PhotoBlocks"]

PhotoBlocks = Iterator[list[tuple[int, Image.Image]]]
"""RGB photos in blocks, each with its number."""


class Captioner(Protocol):
    """Describes photos without a question (paper, section 3.2)."""

    chunk_size: int
    """Photos in a block; the captions of a block are stored together."""

    @property
    def provenance(self) -> dict[str, object]:
        """What determines a caption besides the photo: kind, model, revision, parameters."""

    def caption(self, photos: PhotoBlocks) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption photos of any size, in any order, each caption with the number of its photo.

        A caption that says nothing (see `caption_fault`), also on a second try, is a failure.
        """

    def status(self) -> str:
        """What was used up so far, for the progress bar."""
