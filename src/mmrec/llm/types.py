"""What a language model must do for mmrec: answer asks, each made of a task and of untrusted texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from mmrec.cache.store import Failure

__all__ = [
    "PRICE_TAGS",
    "Answer",
    "LanguageModel",
    "Note",
    "PriceTag",
    "Prompt",
    "Review",
    "Summary",
    "Task",
    "Usage",
]

PriceTag = Literal["cheap price", "fair price", "overpriced", "none"]
PRICE_TAGS: tuple[PriceTag, ...] = ("cheap price", "fair price", "overpriced", "none")
"""The paper's price tags, from cheap to dear; `none` where nothing is said."""


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    likes: list[str] = []
    dislikes: list[str] = []
    price: PriceTag = "none"
    categories: list[str] = []


class Note(_Words):
    """What one review says: its gist in a sentence, likes, dislikes, price tag, categories (DESIGN 3.2)."""

    gist: str = ""


class Summary(_Words):
    """What many reviews of one user or item say together (paper, section 3.2)."""

    text: str = ""


class Review(NamedTuple):
    """A review as evidence: its text, stars and time, and the part of the data that it is read with."""

    text: str
    rating: float
    time: int
    fold: int


class Usage(BaseModel):
    """Tokens of one answer, as the server counted them."""

    model_config = ConfigDict(frozen=True)

    input: int = 0
    output: int = 0
    cached: int = 0
    """Tokens of the input that were read from the server's cache."""


class Answer(BaseModel):
    """What came back, word for word, before anything in it is believed."""

    model_config = ConfigDict(frozen=True)

    text: str
    usage: Usage = Usage()
    finish: str = "stop"
    """Why the model stopped: `stop`, or `length` where it was cut."""


@dataclass(frozen=True)
class Task:
    """A kind of ask.

    Attributes:
        name: `note`, `summary of a user`, ...; the kind of its answers in the store.
        instructions: what the model is told to do.
        schema: JSON schema of the answer; None where a plain text is asked for.
        max_tokens: most tokens of the answer.
    """

    name: str
    instructions: str
    schema: dict[str, object] | None
    max_tokens: int


class Prompt(NamedTuple):
    """One call: a task, the untrusted texts it is about, and a bad answer where one is to be repaired."""

    task: Task
    texts: tuple[str, ...]
    rejected: str | None = None


class LanguageModel(Protocol):
    """A reader of reviews; its answers are data, kept in the store under all that made them."""

    @property
    def chunk_size(self) -> int:
        """Asks that are handed over, and kept, at a time."""

    @property
    def window(self) -> int | None:
        """Most tokens of texts in one ask; None where there is no limit, since nothing is prompted."""

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts: kind, model, revision, prompt, parameters."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, by the model's own tokenizer where it is known, else estimated."""

    def generate(
        self, prompts: Iterator[list[tuple[int, Prompt]]]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        """Answer asks as they come, in any order; each answer with the number of its ask."""

    def status(self) -> str:
        """What was used up so far, for the progress bar."""
