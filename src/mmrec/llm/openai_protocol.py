"""OpenAI's chat protocol: endpoints and keys, requests, what a server supports, responses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmrec.cache.store import Failure
from mmrec.console import escape_text, single_line
from mmrec.errors import ConfigError, ModelError
from mmrec.llm.types import Answer, Usage, estimate_tokens


@dataclass(frozen=True)
class Endpoint:
    """A model on a server."""

    provider: str  # `openai`, `ollama`, or `server` for others, named by their URL
    model: str  # its name; empty for the only one that the server has
    url: str | None  # where the API is; None for OpenAI's own

    @classmethod
    def parse(cls, spec: str) -> Endpoint | None:
        """From `openai:MODEL[@URL]`, `ollama:MODEL[@URL]` or a URL, else None; or a ConfigError."""
        _check_url("--llm", spec)
        # Schemes may be written in capitals.
        spec = re.sub("https?://", lambda scheme: scheme[0].lower(), spec, flags=re.IGNORECASE)
        if spec.startswith(("http://", "https://")):
            return cls("server", "", spec)
        provider, _, rest = spec.partition(":")
        if provider not in ("openai", "ollama"):
            return None
        model, at_sign, address = rest.partition("@http")
        if not model:
            raise ConfigError(f"--llm {provider}: name a model, as in {provider}:MODEL")
        if re.search(r".@[\w.-]*(:\d+|/v1|$)", model):
            server = f"{provider}:MODEL@http://HOST:PORT/v1"
            raise ConfigError(f"--llm {provider}: write the server as {server}")
        if at_sign:
            return cls("ollama" if provider == "ollama" else "server", model, "http" + address)
        if provider == "ollama":
            return cls(provider, model, "http://localhost:11434/v1")
        url = os.environ.get("OPENAI_BASE_URL")
        _check_url("OPENAI_BASE_URL", url or "")
        return cls(provider, model, url)

    @property
    def key_variable(self) -> str:
        """The environment variable of the key: OpenAI's goes to no server named by its URL."""
        return "OPENAI_API_KEY" if self.provider == "openai" else "MMREC_API_KEY"

    @property
    def api_key(self) -> str:
        """The key to send; a ModelError is raised where OpenAI's is needed and is missing."""
        key = os.environ.get(self.key_variable, "").strip()
        if re.search("[^!-~]", key):
            problem = "has a space or a sign that no request can send"
            raise ConfigError(f"the key in {self.key_variable} {problem}")
        if self.provider == "openai" and not key:
            raise ModelError("OpenAI's models need a key in OPENAI_API_KEY")
        return key or "no key"


def _check_url(name: str, url: str) -> None:
    """Refuse a URL with a password or a query, since URLs are shown, saved and logged."""
    if re.search(r"://.*[@?#]", url):
        fault = "no password and no `?` in a URL"
        raise ConfigError(f"{name}: {fault}; a key goes into OPENAI_API_KEY or MMREC_API_KEY")


class ChatRequest(NamedTuple):
    """One call: messages, the JSON schema of the answer (None: plain text), its limit of tokens."""

    messages: list[dict[str, Any]]
    schema: dict[str, object] | None
    max_tokens: int

    def max_usage(self) -> Usage:
        """The most tokens that it can use, estimated."""
        tokens = 0
        for content in (message["content"] for message in self.messages):
            # 3000 is the most that a small photo is billed as.
            tokens += estimate_tokens(content) if isinstance(content, str) else 3000
        return Usage(input=tokens, output=self.max_tokens)


_MAX_CHARACTERS = 200_000  # of an answer; a server that sends more does not keep to `max_tokens`
NumberedRequests = Iterable[tuple[int, ChatRequest]]
# Servers that are no API answer with pages in which these are raised.
NOT_THE_API = (AttributeError, LookupError, TypeError, ValueError)


def request_body(model: str, request: ChatRequest, refused: frozenset[str]) -> dict[str, Any]:
    """The body of a call, without the parameters and formats that the server refused."""
    limit = "max_tokens" if "max_completion_tokens" in refused else "max_completion_tokens"
    body: dict[str, Any] = {"model": model, "messages": request.messages}
    body |= {"temperature": 0, limit: request.max_tokens}
    if request.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        if "json_schema" not in refused:
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif "json_object" not in refused:
            body["response_format"] = {"type": "json_object"}
    return {name: value for name, value in body.items() if name not in refused}


def refused_feature(refusal: str, body: dict[str, Any]) -> str | None:
    """The parameter or format of a body that a refusal is about; None where it names none."""
    # Only names in the body count: a refusal may also say what to use instead.
    for name in ("max_completion_tokens", "temperature", "max_tokens"):
        if name in refusal and name in body:
            return name
    format_words = "response_format|json_schema|json_object|schema|grammar|structured"
    if "response_format" in body and re.search(format_words, refusal):
        return str(body["response_format"]["type"])
    return None


# What servers say of a text or photo that they will never answer: filters of content, then sizes, then
# files that are no images. What is wrong with an account shows in similar words.
_ABOUT_TEXT = re.compile(
    r"content.?(filter|manage|policy|exists risk)|\bmoderat|flagged|safety (system|filter|polic)"
    r"|usage polic|inappropriate|prohibited.?content|guardrail|data.?inspection|high risk|sensitive"
    r"|context.?(length|window|size)|maximum (model |input )?length|string_above_max"
    r"|reduce the length|at most [\d,]+ (characters|tokens)|too many (input )?tokens"
    r"|\b(prompt|inputs?|request|messages?|text|payload|entity|image|file)\b.{0,60}"
    r"(too (long|large|big|many)|exceed|longer than|must (be <|have less))"
    r"|(invalid|unsupported|corrupt\w*) image\b(?! (input|content|type))|invalid_image"
    r"|image_(too|parse)|(decode|process|identify|load) (the |this )?image\b(?! \w*(input|processor))",
    re.IGNORECASE,
)
_ABOUT_ACCOUNT = re.compile(r"account|organi[sz]ation|billing|quota|api.?key|credit", re.IGNORECASE)
_SAID_IN = re.compile("errors?|innererror|detail|title|message|msg|code|type|param|loc")


def error_words(body: object, depth: int = 6) -> str:
    """What a refusal says, in whatever form, without what it repeats of the request."""
    if isinstance(body, Mapping):
        said = [part for name, part in body.items() if _SAID_IN.fullmatch(str(name))]
    elif isinstance(body, list):
        said = body[:10]
    else:
        return "" if body is None else str(body)[:2000]
    return " ".join(filter(None, (error_words(part, depth - 1) for part in said if depth)))


def is_about_text(status: int, body: object) -> bool:
    """Whether a refusal (4xx) is about the text or photo of this call, which no server would answer: not
    about the server, its model, a parameter or the key."""
    words = error_words(body)
    param = body.get("param") if isinstance(body, Mapping) else None
    if (
        _ABOUT_ACCOUNT.search(words)
        or status in (401, 404, 408, 409, 429)
        or not 400 <= status < 500
    ):
        return False
    if isinstance(param, str) and not re.match("messages|input|prompt|content|image", param):
        return False
    return status == 413 or bool(_ABOUT_TEXT.search(words))


def parse_completion(reply: dict[str, Any]) -> Answer:
    """A chat completion, word for word; one of `NOT_THE_API` is raised where it is none."""
    choice = reply["choices"][0]
    counts = reply.get("usage") or {}
    usage = Usage(
        input=counts.get("prompt_tokens") or 0,
        output=counts.get("completion_tokens") or 0,
        cached=(counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    )
    text = choice["message"].get("content") or ""
    is_cut = len(text) > _MAX_CHARACTERS
    text = text[:_MAX_CHARACTERS].encode("utf-8", "replace").decode()  # lone surrogates go
    finish = "length" if is_cut else choice.get("finish_reason") or "stop"
    return Answer(text=text, usage=usage, finish=finish)


def parse_batch_result(line: bytes) -> tuple[str, Answer | Failure] | None:
    """Name and outcome of a request in a batch's result file; None for what may be tried again."""
    temporary = (401, 403, 404, 408, 409, 429)  # not about the request
    with suppress(*NOT_THE_API):  # of a damaged line
        result = json.loads(line)
        response = result.get("response") or {}
        status, body = response.get("status_code", 0), response.get("body") or {}
        if status == 200:
            return result["custom_id"], parse_completion(body)
        error = body.get("error") or body
        is_final = is_about_text(status, error)
        if is_final or (400 <= status < 500 and status not in temporary):
            reason = f"the server refused: {escape_text(single_line(error_words(error)), 300)}"
            return result["custom_id"], Failure(reason, is_final)
    return None
