"""What a vision model must do for mmrec: put a photo into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

__all__ = ["Captioner"]


class Captioner(Protocol):
    """Describes photos without being asked anything (paper, section 3.2)."""

    @property
    def maker(self) -> dict[str, object]:
        """What determines a caption besides the photo: kind, model, revision, parameters."""

    def captions(self, photos: Sequence[Image.Image]) -> list[str]:
        """One caption a photo, RGB photos of any size; an empty string where the model has nothing to say."""
