"""What a language model does for mmrec: answer prompts, made of a task and of untrusted texts."""

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
    "NumberedAnswers",
    "NumberedPrompts",
    "PriceTag",
    "Prompt",
    "Review",
    "Summary",
    "Task",
    "Usage",
]

PriceTag = Literal["cheap price", "fair price", "overpriced", "none"]
PRICE_TAGS: tuple[PriceTag, ...] = ("cheap price", "fair price", "overpriced", "none")
"""The paper's price tags, from cheap to expensive; `none` where the text mentions no price."""


class _Opinions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    likes: list[str] = []
    dislikes: list[str] = []
    price: PriceTag = "none"
    categories: list[str] = []


class Note(_Opinions):
    """What one review says: its gist in a sentence, likes, dislikes, price tag, categories."""

    gist: str = ""


class Summary(_Opinions):
    """What many reviews of one user or item say together (paper, section 3.2)."""

    text: str = ""


class Review(NamedTuple):
    """A review as evidence: its text, rating and time, and the fold of the data it belongs to."""

    text: str
    rating: float
    time: int
    fold: int


class Usage(BaseModel):
    """Tokens of one answer, or of several, as the server counted them."""

    model_config = ConfigDict(frozen=True)

    input: int = 0
    output: int = 0
    cached: int = 0
    """Tokens of the input that were read from the server's cache."""

    def __add__(self, usage: Usage) -> Usage:
        tokens = {name: count + getattr(usage, name) for name, count in self}
        return Usage(**tokens)


class Answer(BaseModel):
    """The model's answer, word for word, before it is parsed or checked."""

    model_config = ConfigDict(frozen=True)

    text: str
    usage: Usage = Usage()
    finish: str = "stop"
    """Why the model stopped: `stop`, or `length` where the answer was cut."""


@dataclass(frozen=True)
class Task:
    """A kind of prompt."""

    name: str
    """`note`, `summary of user`, ...; the kind of its answers in the store."""
    instructions: str
    """The system prompt."""
    schema: dict[str, object] | None
    """JSON schema of the answer; None for plain text."""
    max_tokens: int
    """Limit of the answer."""


class Prompt(NamedTuple):
    """One call: a task, and the untrusted texts it is about."""

    task: Task
    texts: tuple[str, ...]
    rejected: str | None = None
    """JSON list of an answer that is to be repaired, and of why it could not be used."""


NumberedPrompts = Iterator[list[tuple[int, Prompt]]]
"""Prompts in blocks, each prompt with its number."""
NumberedAnswers = Iterator[tuple[int, Answer | Failure]]
"""Answers in any order, each with the number of what it answers."""


class LanguageModel(Protocol):
    """Reads reviews. Its answers are kept in the store under everything that determines them."""

    @property
    def chunk_size(self) -> int:
        """Prompts that are handed over, and stored, together."""

    @property
    def window(self) -> int | None:
        """Most tokens of texts in one prompt; None for a model of rules, which has no limit."""

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts: kind, model, revision, prompt, parameters."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, by the model's own tokenizer where it is available, else estimated."""

    def generate(self, prompts: NumberedPrompts) -> NumberedAnswers:
        """Answer prompts as they come."""

    def status(self) -> str:
        """Usage so far, for the progress bar."""
