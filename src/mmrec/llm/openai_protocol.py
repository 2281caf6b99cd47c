"""What goes over the wire to a server that speaks OpenAI's API: where to, what, and in which manner."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mmrec.errors import ConfigError, ModelError
from mmrec.llm.token_estimates import estimate_tokens
from mmrec.llm.types import Answer, Usage

__all__ = ["ChatRequest", "Endpoint", "ServerCapabilities", "parse_completion"]

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
    def parse(cls, spec: str) -> Endpoint | None:
        """From `openai:MODEL[@URL]`, `ollama:MODEL[@URL]` or a URL; None for another spelling."""
        if re.search(r"https?://[^/]*@", spec):
            raise ConfigError("--llm: no user and password in a URL; a key goes into MMREC_API_KEY")
        if spec.startswith(("http://", "https://")):
            return cls("server", "", spec)
        provider, _, rest = spec.partition(":")
        model, at, url = rest.partition("@http")
        if provider not in ("openai", "ollama"):
            return None
        if not model:
            raise ConfigError(f"{spec}: name a model, as in {provider}:MODEL")
        if re.search(r".@[\w.-]*(:\d+|/v1|$)", model):
            raise ConfigError(f"{spec}: write the server as {provider}:MODEL@http://HOST:PORT/v1")
        if at:
            return cls("ollama" if provider == "ollama" else "server", model, "http" + url)
        return cls(
            provider, model, _OLLAMA if provider == "ollama" else os.environ.get("OPENAI_BASE_URL")
        )

    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key."""
        return "OPENAI_API_KEY" if self.provider == "openai" else "MMREC_API_KEY"

    @property
    def api_key(self) -> str:
        """The key to show. OpenAI's is for OpenAI's server, and for none that was named by its URL.

        Raises:
            ModelError: OpenAI's is needed and is not there.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if self.provider != "openai":
            return key or "no key"
        if not key:
            raise ModelError(
                "OpenAI's models need a key in the environment variable OPENAI_API_KEY"
            )
        return key


class ChatRequest(NamedTuple):
    """One call: messages, the JSON schema of the answer (None: plain text), the most tokens of it."""

    messages: list[dict[str, Any]]
    schema: dict[str, object] | None
    max_tokens: int

    def max_usage(self) -> Usage:
        """The most tokens that it can use, about."""
        contents = [message["content"] for message in self.messages]
        texts = sum(
            estimate_tokens(one) if isinstance(one, str) else _IMAGE_TOKENS for one in contents
        )
        return Usage(input=texts, output=self.max_tokens)


@dataclass(frozen=True)
class ServerCapabilities:
    """How a server wants to be asked.

    Attributes:
        uses_completion_limit: whether it calls the limit of an answer `max_completion_tokens`.
        format_level: which of `_LEVELS` of structured answers it can do.
        dropped: parameters that it refuses.
    """

    uses_completion_limit: bool
    format_level: int = 0
    dropped: frozenset[str] = frozenset()

    def request_body(self, model: str, request: ChatRequest) -> dict[str, Any]:
        """The body of a call."""
        limit = "max_completion_tokens" if self.uses_completion_limit else "max_tokens"
        body: dict[str, Any] = {
            "model": model,
            "messages": request.messages,
            "temperature": 0,
            limit: request.max_tokens,
        }
        level = _LEVELS[self.format_level]
        if request.schema is not None and level == "json_schema":
            shape = {"name": "answer", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": level, "json_schema": shape}
        elif request.schema is not None and level == "json_object":
            body["response_format"] = {"type": level}
        return {name: value for name, value in body.items() if name not in self.dropped}

    def downgraded(self, refused: str, body: dict[str, Any]) -> ServerCapabilities | None:
        """How to ask after a refusal; None where the words do not name anything to do without."""
        if "temperature" in refused and "temperature" in body:
            return replace(self, dropped=self.dropped | {"temperature"})
        if "max_completion_tokens" in refused and "max_completion_tokens" in body:
            return replace(self, uses_completion_limit=False)
        if "max_tokens" in refused and "max_tokens" in body:
            return replace(self, dropped=self.dropped | {"max_tokens"})
        words = ("response_format", "json_schema", "json_object", "schema", "grammar", "structured")
        if "response_format" in body and any(word in refused for word in words):
            return replace(self, format_level=self.format_level + 1)
        return None


def parse_completion(reply: dict[str, Any]) -> Answer:
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
