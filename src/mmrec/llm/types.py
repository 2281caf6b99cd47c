"""What a language model does for mmrec: answer prompts, made of a task and of untrusted texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

from pydantic import BaseModel

from mmrec.cache.store import Failure

PriceTag = Literal["cheap price", "fair price", "overpriced", "none"]
PRICE_TAGS: tuple[PriceTag, ...] = get_args(PriceTag)
"""The paper's price tags, from cheap to expensive; `none` where the text mentions no price."""
Texts = tuple[str, ...]
MAX_WISH_WORDS = 60
"""A longer text is read as a description of tastes, such as reviews, not as a wish."""
HOW_TO_GO_ON = (
    "Mend the server, or name another model, and run the same again, with --retry-failed where the "
    "server refused for good: answers that came are kept"
)
"""What to do where most calls of a model failed."""


class _Opinions(BaseModel, frozen=True, extra="forbid"):
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


_PRICE_WORDS: dict[PriceTag, str] = {
    "cheap price": "cheap",
    "fair price": "fairly priced",
    "overpriced": "expensive",
}


class StatedWish(BaseModel, frozen=True, extra="forbid"):
    """What a language model reads in a wish: phrases, price tags, and names, wanted or not."""

    wanted: list[str] = []
    unwanted: list[str] = []
    prices: list[PriceTag] = []
    unwanted_prices: list[PriceTag] = []
    items: list[str] = []  # names of items that are wanted themselves
    similar_to: list[str] = []  # names of items whose like is wanted


class Wish(StatedWish):
    """What somebody looks for."""

    description: str = ""  # a long text, as reviews, that shows a taste, no wish

    def __str__(self) -> str:
        """What was understood, as in "cheap; not seafood; ramen"; empty if nothing was."""
        parts = [_PRICE_WORDS[tag] for tag in self.prices if tag != "none"]
        parts += [f"not {_PRICE_WORDS[tag]}" for tag in self.unwanted_prices if tag != "none"]
        parts += [f"not {phrase}" for phrase in self.unwanted]
        parts += [*self.wanted, *self.items]
        parts += [f"like {name}" for name in self.similar_to]
        if self.description:
            count, most = len(self.description.split()), f"more than {MAX_WISH_WORDS}"
            parts.append(
                f"a description of tastes, not a wish, since it has {most} words ({count})"
            )
        return "; ".join(parts)


class Review(NamedTuple):
    """A review as evidence: its text, rating and time, and the fold of the data it belongs to."""

    text: str
    rating: float
    time: int
    fold: int


class Usage(BaseModel, frozen=True):
    """Tokens of one answer, or of several, as the server counted them."""

    input: int = 0
    output: int = 0
    cached: int = 0  # of the input, read from the server's cache

    def __add__(self, usage: Usage) -> Usage:
        return Usage(**{name: count + getattr(usage, name) for name, count in self})


class Answer(BaseModel, frozen=True):
    """The model's answer, word for word, before it is parsed or checked."""

    text: str
    usage: Usage = Usage()
    finish: str = "stop"  # or `length` where the answer was cut


@dataclass(frozen=True)
class Task:
    """A kind of prompt."""

    name: str  # `note`, `summary of user`, ...; the kind of its answers in the store
    instructions: str  # the system prompt
    schema: dict[str, object] | None  # JSON schema of the answer; None for plain text
    max_tokens: int  # of the answer


class Prompt(NamedTuple):
    """One call: a task, and the untrusted texts it is about."""

    task: Task
    texts: Texts
    # JSON list of an answer to repair, and of why it is unusable.
    rejected: str | None = None


# Numbered prompts in blocks of one task, and answers to these in any order.
PromptBlocks = Iterator[list[tuple[int, Prompt]]]
AnswerStream = Iterator[tuple[int, Answer | Failure]]


class LanguageModel(Protocol):
    """Reads reviews. Its answers are kept in the store under everything that determines them."""

    chunk_size: int = 1  # prompts that are handed over, and stored, together
    status: Callable[[], str] = str  # what was used up so far, for `console.track`

    @property
    def window(self) -> int | None:
        """Most tokens of texts in one prompt; None for a model of rules, which has no limit."""

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts: kind, model, revision, prompt, parameters."""

    def generate(self, prompts: PromptBlocks) -> AnswerStream:
        """Answer prompts as they come."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, by the model's own tokenizer where it is available, else estimated."""
        return list(map(estimate_tokens, texts))


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has; no tokenizer makes more than four times as many."""
    # The second estimate is for long words, and scripts other than Latin.
    by_bytes = len(text.encode("utf-8", "replace")) / 4
    by_words = 1.3 * len(text.split())  # short words, which have a token each at least
    return 1 + int(max(by_bytes, by_words))
