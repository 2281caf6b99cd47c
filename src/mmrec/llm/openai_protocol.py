"""What goes over the wire to a server that speaks OpenAI's API: where to, what, and in which manner."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mmrec.errors import ConfigError, ModelError
from mmrec.llm.token_estimates import estimated_tokens
from mmrec.llm.types import Answer, Usage

__all__ = ["Endpoint", "Manner", "Request", "as_answer"]

_OLLAMA = "http://localhost:11434/v1"
_IMAGE_TOKENS = 3000  # the most that a small photo is billed as
_LEVELS = ("json_schema", "json_object", "text")


@dataclass(frozen=True)
class Endpoint:
    """Where a model is: `openai` or `ollama`, its name (empty: the server's only one), the server's URL."""

    provider: str
    model: str
    url: str | None

    @classmethod
    def of(cls, spelled: str) -> Endpoint | None:
        """From `openai:MODEL[@URL]`, `ollama:MODEL[@URL]` or a URL; None for another spelling."""
        if re.search(r"https?://[^/]*@", spelled):
            raise ConfigError("--llm: no user and password in a URL; a key goes into MMREC_API_KEY")
        if spelled.startswith(("http://", "https://")):
            return cls("server", "", spelled)
        provider, _, rest = spelled.partition(":")
        model, at, url = rest.partition("@http")
        if provider not in ("openai", "ollama"):
            return None
        if not model:
            raise ConfigError(f"{spelled}: name a model, as in {provider}:MODEL")
        if re.search(r".@[\w.-]*(:\d+|/v1|$)", model):
            raise ConfigError(f"{spelled}: write the server as {provider}:MODEL@http://HOST:PORT/v1")
        if at:
            return cls("ollama" if provider == "ollama" else "server", model, "http" + url)
        return cls(provider, model, _OLLAMA if provider == "ollama" else os.environ.get("OPENAI_BASE_URL"))

    @property
    def key_from(self) -> str:
        """The environment variable that holds the key."""
        return "OPENAI_API_KEY" if self.provider == "openai" else "MMREC_API_KEY"

    @property
    def key(self) -> str:
        """The key to show. OpenAI's is for OpenAI's server, and for none that was named by its URL.

        Raises:
            ModelError: OpenAI's is needed and is not there.
        """
        key = os.environ.get(self.key_from, "").strip()
        if self.provider != "openai":
            return key or "no key"
        if not key:
            raise ModelError("OpenAI's models need a key in the environment variable OPENAI_API_KEY")
        return key


class Request(NamedTuple):
    """One call: messages, the JSON schema of the answer (None: plain text), the most tokens of it."""

    messages: list[dict[str, Any]]
    schema: dict[str, object] | None
    tokens: int

    def most(self) -> Usage:
        """The most tokens that it can use, about."""
        contents = [message["content"] for message in self.messages]
        texts = sum(estimated_tokens(one) if isinstance(one, str) else _IMAGE_TOKENS for one in contents)
        return Usage(input=texts, output=self.tokens)


@dataclass(frozen=True)
class Manner:
    """How a server wants to be asked.

    Attributes:
        newer: whether it calls the limit of an answer `max_completion_tokens`.
        level: which of `_LEVELS` of structured answers it can do.
        dropped: parameters that it refuses.
    """

    newer: bool
    level: int = 0
    dropped: frozenset[str] = frozenset()

    def arguments(self, model: str, request: Request) -> dict[str, Any]:
        """The body of a call."""
        limit = "max_completion_tokens" if self.newer else "max_tokens"
        body: dict[str, Any] = {
            "model": model,
            "messages": request.messages,
            "temperature": 0,
            limit: request.tokens,
        }
        level = _LEVELS[self.level]
        if request.schema is not None and level == "json_schema":
            shape = {"name": "answer", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": level, "json_schema": shape}
        elif request.schema is not None and level == "json_object":
            body["response_format"] = {"type": level}
        return {name: value for name, value in body.items() if name not in self.dropped}

    def without(self, refused: str, body: dict[str, Any]) -> Manner | None:
        """How to ask after a refusal; None where the words do not name anything to do without."""
        if "temperature" in refused and "temperature" in body:
            return replace(self, dropped=self.dropped | {"temperature"})
        if "max_completion_tokens" in refused and "max_completion_tokens" in body:
            return replace(self, newer=False)
        if "max_tokens" in refused and "max_tokens" in body:
            return replace(self, dropped=self.dropped | {"max_tokens"})
        words = ("response_format", "json_schema", "json_object", "schema", "grammar", "structured")
        if "response_format" in body and any(word in refused for word in words):
            return replace(self, level=self.level + 1)
        return None


def as_answer(reply: dict[str, Any]) -> Answer:
    """A chat completion, word for word.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is none.
    """
    choice = reply["choices"][0]
    used = reply.get("usage") or {}
    usage = Usage(
        input=used.get("prompt_tokens") or 0,
        output=used.get("completion_tokens") or 0,
        cached=(used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    )
    text = choice["message"].get("content") or ""
    # A lone surrogate cannot be written down.
    return Answer(
        text=text.encode("utf-8", "replace").decode(),
        usage=usage,
        finish=choice.get("finish_reason") or "stop",
    )
