"""From the spelling of a language model to the model."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from mmrec.cache.store import Failure, Store
from mmrec.config import Config, LanguageConfig
from mmrec.encoder.text_encoder import Encoder
from mmrec.encoder.weights import Placement
from mmrec.errors import ConfigError, ModelError
from mmrec.llm.batch_store import Ledger
from mmrec.llm.cost import Price, Purse, Spend
from mmrec.llm.extractive import BuiltinLanguage
from mmrec.llm.openai_batch import BatchChat
from mmrec.llm.openai_client import Chat
from mmrec.llm.openai_protocol import Endpoint, Request
from mmrec.llm.prompts import messages, prompt_digest
from mmrec.llm.token_estimates import estimated_tokens
from mmrec.llm.types import Answer, Ask, LanguageModel, Task

__all__ = ["ChatLanguage", "open_chat", "open_language"]


class ChatLanguage:
    """A chat model behind HTTP as a reader of reviews.

    Args:
        chat: the model.
        window: most tokens of reviews in one call.
        store: when given, nothing is asked while it has asks that were handed in as batches.
    """

    chunk = 1

    def __init__(self, chat: Chat, window: int, store: Store | None = None) -> None:
        self.chat = chat
        self._store = store
        self.window: int | None = window

    def maker(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts; where the server is does not."""
        return {
            "kind": task.name,
            "provider": self.chat.endpoint.provider,
            "model": self.chat.model,
            "prompt": prompt_digest(task),
            "tokens": task.tokens,
            "temperature": 0,
        }

    def count(self, texts: Sequence[str]) -> list[int]:
        """About how many tokens each text has."""
        return [estimated_tokens(text) for text in texts]

    def status(self) -> str:
        """Tokens and money so far."""
        return str(self.chat.spend)

    def answers(self, asks: Iterator[list[tuple[int, Ask]]]) -> Generator[tuple[int, Answer | Failure]]:
        """Ask the server.

        Raises:
            ModelError: asks are with a server as a batch, and would be paid for twice.
        """
        if self._store is not None and (count := Ledger.handed_in(self._store)):
            raise ModelError(
                f"{count:,} asks were handed in by --batch and are not collected yet; now they would be paid "
                "for twice. Run `mmrec profile` with --batch until they are, or use another --store"
            )
        return self.chat.answers([(at, _request(ask)) for at, ask in block] for block in asks)


def _request(ask: Ask) -> Request:
    return Request(list(messages(ask)), ask.task.schema, ask.task.tokens)


def open_chat(
    spelled: str, config: LanguageConfig, purse: Purse, batch_store: Store | None = None
) -> Chat | None:
    """The chat model of that spelling; None for the spelling of something else.

    Args:
        spelled: `openai:MODEL[@URL]`, `ollama:MODEL[@URL]`, or a URL.
        config: calls in flight, price.
        purse: pays.
        batch_store: when given, asks are handed in as batches, which this store remembers.
    """
    endpoint = Endpoint.of(spelled)
    if endpoint is None:
        return None
    price = Price.of(endpoint.provider, endpoint.model, config.llm_price)
    if batch_store is not None:
        spend = Spend(price and price.halved(), purse)
        return BatchChat(endpoint, spend, batch_store, again=config.retry_failed)
    return Chat(endpoint, config.in_flight, Spend(price, purse))


def open_language(
    config: Config,
    encoder: Encoder,
    store: Store,
    purse: Purse | None = None,
    *,
    batch: bool = False,
    place: Placement | None = None,
) -> LanguageModel:
    """The language model that `--llm` names; nothing is loaded or asked yet.

    Args:
        config: names it.
        encoder: of the builtin model.
        store: remembers batches.
        purse: pays; by default one of its own with the configured budget.
        batch: whether asks are handed in as batches that are collected later.
        place: where a model of `transformers:` runs and how exact.

    Raises:
        ConfigError: a spelling that is not known, or batches of a model that takes none.
    """
    language, profile = config.language, config.profile
    if batch and Endpoint.of(language.llm) is None:
        raise ConfigError(f"--batch needs a server that takes batches, and --llm is {language.llm}")
    if language.llm == "builtin":
        return BuiltinLanguage(encoder, profile.item_kind, profile.summary_tokens)
    if chat := open_chat(language.llm, language, purse or Purse(language.budget), store if batch else None):
        return ChatLanguage(chat, language.call_tokens, None if batch else store)
    name, _, source = language.llm.partition(":")
    if name == "transformers" and source:
        from mmrec.llm.transformers_model import LocalLanguage

        return LocalLanguage(source, language.llm_revision, language.call_tokens, place)
    raise ConfigError(
        f"--llm {language.llm}: not known; write builtin, openai:MODEL, ollama:MODEL, openai:MODEL@URL, "
        "the URL of a server, or transformers:MODEL_OR_FOLDER"
    )
