"""Opens the generating model that `--llm` names."""

from mmrec.cache.store import Store
from mmrec.config import Config, LanguageConfig
from mmrec.encoder.weights import Placement
from mmrec.errors import ConfigError
from mmrec.llm.cost import Budget, CostTracker, Price
from mmrec.llm.openai_batch import BatchClient, BatchJobStore
from mmrec.llm.openai_client import ChatClient
from mmrec.llm.openai_protocol import Endpoint
from mmrec.llm.types import LanguageModel


def open_chat_client(spec: str, config: LanguageConfig, budget: Budget) -> ChatClient | None:
    """The client of `openai:MODEL[@URL]`, `ollama:MODEL[@URL]`, or a URL; else None."""
    endpoint = Endpoint.parse(spec)
    if endpoint is None:
        return None
    price = Price.for_model(endpoint.provider, endpoint.model, config.llm_price)
    return ChatClient(endpoint, config.in_flight, CostTracker(price, budget), config.call_tokens)


def open_language_model(
    config: Config,
    store: Store,
    budget: Budget | None = None,
    *,
    batch: bool = False,
    placement: Placement | None = None,
) -> LanguageModel:
    """The model that `--llm` names, but not `builtin`; a ConfigError if unknown, or without batches."""
    language = config.language
    budget = budget or Budget(language.budget)
    if client := open_chat_client(language.llm, language, budget):
        if not batch:
            client.count_submitted = lambda: BatchJobStore(store).count_pending()
            return client
        price = client.costs.price
        half = price and Price(price.input / 2, price.output / 2, price.cached / 2)
        return BatchClient(client.endpoint, CostTracker(half, budget), store, language)
    if batch:
        raise ConfigError(f"--batch needs a server that takes batches, and --llm is {language.llm}")
    provider, _, source = language.llm.partition(":")
    if provider == "transformers" and source:
        from mmrec.llm.transformers_model import TransformersModel  # slow to import

        return TransformersModel(source, language.llm_revision, language.call_tokens, placement)
    raise ConfigError(
        f"--llm {provider}: not known; write builtin, openai:MODEL, ollama:MODEL, "
        "openai:MODEL@URL, the URL of a server, or transformers:MODEL_OR_FOLDER"
    )
