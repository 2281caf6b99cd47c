"""What a vision model must do for mmrec: put a photo into words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from PIL import Image

from mmrec.cache.store import Failure
from mmrec.llm.types import Answer

__all__ = ["Captioner"]


class Captioner(Protocol):
    """Describes photos without being asked anything (paper, section 3.2)."""

    chunk: int
    """Photos that are handed over, and whose captions are kept, at a time."""

    @property
    def provenance(self) -> dict[str, object]:
        """What determines a caption besides the photo: kind, model, revision, parameters."""

    def caption(
        self, photos: Iterator[list[tuple[int, Image.Image]]]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption RGB photos of any size as they come, each caption with the number of its photo.

        A caption that says nothing, even when asked for again, is a failure.
        """

    def status(self) -> str:
        """What was used up so far, for the progress bar."""
