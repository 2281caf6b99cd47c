"""What a language model must do for mmrec: read one review, or many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

__all__ = ["PRICE_TAGS", "LanguageModel", "Note", "PriceTag", "Summary"]

PriceTag = Literal["cheap price", "fair price", "overpriced", "none"]
PRICE_TAGS: tuple[PriceTag, ...] = ("cheap price", "fair price", "overpriced", "none")
"""The paper's price tags, from cheap to dear; `none` where nothing is said."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    likes: list[str] = []
    dislikes: list[str] = []
    price: PriceTag = "none"
    categories: list[str] = []


class Note(_Answer):
    """What one review says: its gist in a sentence, likes, dislikes, price tag, categories (DESIGN 3.2)."""

    gist: str = ""


class Summary(_Answer):
    """What many reviews of one user or item say together (paper, section 3.2)."""

    text: str = ""


class LanguageModel(Protocol):
    """A reader of reviews; its answers are data, kept in the store under all that made them."""

    @property
    def maker(self) -> dict[str, object]:
        """What determines an answer besides the text: kind, model, revision, prompt, parameters."""

    def notes(self, texts: Sequence[str]) -> list[Note]:
        """Read every text alone; a blank text gives an empty note."""

    def summaries(self, groups: Sequence[Sequence[str]]) -> list[Summary]:
        """Read each group of texts as a whole; an empty group gives an empty summary."""
