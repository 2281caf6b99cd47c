"""Opens the language model that `--llm` names; only the modules of that model are imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmrec.cache.store import Store
from mmrec.config import Config, LanguageConfig
from mmrec.encoder.text_encoder import Encoder
from mmrec.encoder.weights import Placement
from mmrec.errors import ConfigError, ModelError
from mmrec.llm.context import estimate_tokens
from mmrec.llm.cost import Budget, CostTracker, Price
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.prompts import chat_messages, prompt_digest
from mmrec.llm.types import LanguageModel, NumberedAnswers, NumberedPrompts, Prompt, Task

if TYPE_CHECKING:
    from mmrec.llm.openai_client import ChatClient
    from mmrec.llm.openai_protocol import ChatRequest

__all__ = ["ChatModel", "open_chat_client", "open_language_model"]


class ChatModel:
    """A chat model behind HTTP as a language model.

    Args:
        client: makes the calls.
        window: most tokens of reviews in one call.
        store: when given, no call is made while it has requests that were submitted as batches.
    """

    chunk_size = 1

    def __init__(self, client: ChatClient, window: int, store: Store | None = None) -> None:
        self.client = client
        self.window: int | None = window
        self._store = store

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts; where the server is does not."""
        return {
            "kind": task.name,
            "provider": self.client.endpoint.provider,
            "model": self.client.model,
            "prompt": prompt_digest(task),
            "tokens": task.max_tokens,
            "temperature": 0,
        }

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Estimated tokens of each text."""
        return list(map(estimate_tokens, texts))

    def status(self) -> str:
        """Tokens and money so far."""
        return str(self.client.costs)

    def generate(self, prompts: NumberedPrompts) -> NumberedAnswers:
        """Ask the server.

        Raises:
            ModelError: requests are with a server as a batch, and would be paid for twice.
        """
        from mmrec.llm.batch_store import BatchJobStore

        if self._store and (pending := BatchJobStore.count_pending(self._store)):
            raise ModelError(
                f"{pending:,} requests were submitted by --batch and are not collected yet; now "
                "they would be paid for twice. Run `mmrec annotate` with --batch until they are, "
                "or use another --store"
            )
        return self.client.complete(map(_to_requests, prompts))


def _to_requests(block: list[tuple[int, Prompt]]) -> list[tuple[int, ChatRequest]]:
    from mmrec.llm.openai_protocol import ChatRequest

    requests = []
    for number, prompt in block:
        task = prompt.task
        request = ChatRequest(chat_messages(prompt), task.schema, task.max_tokens)
        requests.append((number, request))
    return requests


def open_chat_client(
    spec: str, config: LanguageConfig, budget: Budget, batch_store: Store | None = None
) -> ChatClient | None:
    """The client of a chat model; None where the spec is that of another kind of model.

    Args:
        spec: `openai:MODEL[@URL]`, `ollama:MODEL[@URL]`, or a URL.
        config: calls in flight, price.
        budget: pays.
        batch_store: when given, requests are submitted as batches, which this store remembers.
    """
    from mmrec.llm.openai_protocol import Endpoint

    endpoint = Endpoint.parse(spec)
    if endpoint is None:
        return None
    price = Price.for_model(endpoint.provider, endpoint.model, config.llm_price)
    if batch_store is None:
        from mmrec.llm.openai_client import ChatClient

        return ChatClient(endpoint, config.in_flight, CostTracker(price, budget))
    from mmrec.llm.openai_batch import BatchClient

    costs = CostTracker(price and price.halved(), budget)
    return BatchClient(endpoint, costs, batch_store, resubmit=config.retry_failed)


def open_language_model(
    config: Config,
    encoder: Encoder,
    store: Store,
    budget: Budget | None = None,
    *,
    batch: bool = False,
    placement: Placement | None = None,
) -> LanguageModel:
    """The language model that `--llm` names; nothing is loaded or called yet.

    Args:
        config: names it.
        encoder: of the extractive model.
        store: remembers batches.
        budget: pays; by default a new one with the configured limit.
        batch: whether requests are submitted as batches that are collected later.
        placement: where a model of `transformers:` runs, and how exact.

    Raises:
        ConfigError: an unknown spec, or batches of a model that takes none.
    """
    language, annotation = config.language, config.annotation
    if language.llm == "builtin" and not batch:
        return ExtractiveModel(encoder, annotation.item_kind, annotation.summary_tokens)
    budget = budget or Budget(language.budget)
    client = open_chat_client(language.llm, language, budget, store if batch else None)
    if client is not None:
        return ChatModel(client, language.call_tokens, None if batch else store)
    if batch:
        raise ConfigError(f"--batch needs a server that takes batches, and --llm is {language.llm}")
    provider, _, source = language.llm.partition(":")
    if provider == "transformers" and source:
        from mmrec.llm.transformers_model import TransformersModel

        return TransformersModel(source, language.llm_revision, language.call_tokens, placement)
    raise ConfigError(
        f"--llm {language.llm}: not known; write builtin, openai:MODEL, ollama:MODEL, "
        "openai:MODEL@URL, the URL of a server, or transformers:MODEL_OR_FOLDER"
    )
