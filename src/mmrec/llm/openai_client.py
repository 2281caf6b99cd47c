"""Any server that speaks OpenAI's chat API: many calls under way at once, answers as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from mmrec.cache.store import Failure
from mmrec.console import console
from mmrec.errors import ModelError
from mmrec.llm.concurrency import Many, event_loop
from mmrec.llm.cost import BudgetReached, CostTracker
from mmrec.llm.openai_protocol import ChatRequest, Endpoint, ServerCapabilities, parse_completion
from mmrec.llm.types import Answer
from mmrec.text import escape_text

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI, OpenAI

__all__ = ["ChatClient"]

_RETRIES = 10
_HOPELESS = 20
_WAITING = (
    8  # calls ready for the next free slot, which need not wait until an answer is written down
)
_PACE = 0.001  # seconds between the first calls: answers that come in a bunch wait for each other
_CUT_SHARE, _CUT_FROM, _LETTERS_PER_TOKEN = 0.5, 500, 5
_Call = Callable[[], Coroutine[Any, Any, Answer | Failure]]


class ChatClient:
    """A chat model behind HTTP.

    What the server cannot do (JSON schema, JSON mode, a parameter) is found out by its refusals and left
    away from then on. Rate limits, server errors and lost connections are waited for and tried again by the
    client (jittered back-off, Retry-After).

    Args:
        endpoint: which.
        in_flight: calls under way at the same time.
        costs: counts tokens and money, and holds the budget.
    """

    def __init__(self, endpoint: Endpoint, in_flight: int, costs: CostTracker) -> None:
        self.endpoint = endpoint
        self.costs = costs
        self._in_flight = in_flight
        self._manner = ServerCapabilities(endpoint.provider == "openai")
        self._streak = 0
        self._warned = False

    def complete(
        self, requests: Iterator[list[tuple[int, ChatRequest]]]
    ) -> Generator[tuple[int, Answer | Failure]]:
        """Make calls as requests come, N at a time; each answer with the number of its request.

        Raises:
            ModelError: the server cannot be reached, refuses the key, or lacks the model.
            BudgetReached: once what is under way has come back.
        """
        flat = chain.from_iterable(requests)
        if (ahead := next(flat, None)) is None:
            return
        many: Many[tuple[int, float], Answer | Failure] = Many(self._in_flight)
        stop: ModelError | None = None
        with event_loop() as run:
            client = self._client()
            try:
                run(self._greet(client))
                while ahead is not None or many:
                    new: list[tuple[tuple[int, float], _Call]] = []
                    pace = 0 if many else _PACE
                    while ahead is not None and len(many) + len(new) < self._in_flight + _WAITING:
                        at, request = ahead
                        try:
                            reserved = self.costs.reserve(request.max_usage)
                        except BudgetReached:
                            if many or new:
                                break  # What is under way may cost less than was set aside for it.
                            raise
                        call = partial(self._ask, client, request, wait=pace * len(new))
                        new.append(((at, reserved), call))
                        ahead = next(flat, None)
                    for (at, reserved), task in run(many.next(new)):
                        if isinstance(error := task.exception(), ModelError):
                            stop, ahead = error, None  # What is under way may have been paid for.
                            continue
                        answer = task.result()
                        self.costs.settle(
                            reserved, answer.usage if isinstance(answer, Answer) else None
                        )
                        yield at, answer
            finally:
                run(many.cancel())
                run(client.close())
        if stop is not None:
            raise stop

    @cached_property
    def model(self) -> str:
        """Name of the model; where none was given, that of the only one that the server has.

        Raises:
            ModelError: it has several, or none, or is not there.
        """
        if self.endpoint.model:
            return self.endpoint.model
        with self._sync_client() as client, self._refusals():
            models = [
                model.id
                for model in client.with_options(max_retries=1, timeout=20).models.list().data
            ]
        if len(models) != 1:
            listed = ", ".join(models[:20]) or "none"
            raise ModelError(
                f"{self.endpoint.url} has {listed}; name one: openai:MODEL@{self.endpoint.url}"
            )
        return models[0]

    def _sync_client(self) -> OpenAI:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise _not_installed() from error
        return OpenAI(
            base_url=self.endpoint.url, api_key=self.endpoint.api_key, max_retries=_RETRIES
        )

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn errors of a single question to the server into ones that a user understands."""
        from openai import NotFoundError, OpenAIError

        try:
            yield
        except (OpenAIError, AttributeError, TypeError, ValueError) as error:
            said = self._said(error.__cause__ or error)
            hint = "; does the URL end in /v1?" if isinstance(error, NotFoundError) else ""
            raise ModelError(f"{self._where}: {type(error).__name__}: {said}{hint}") from error

    def _client(self) -> AsyncOpenAI:
        try:
            from openai import AsyncOpenAI, DefaultAioHttpClient
        except ImportError as error:
            raise _not_installed() from error
        return AsyncOpenAI(
            base_url=self.endpoint.url,
            api_key=self.endpoint.api_key,
            max_retries=_RETRIES,
            http_client=DefaultAioHttpClient(),
        )

    async def _greet(self, client: AsyncOpenAI) -> None:
        """See whether anyone is there, before all calls wait for an answer."""
        from openai import APIConnectionError, APIStatusError

        try:
            await client.with_options(max_retries=2, timeout=20).models.list()
        except APIConnectionError as error:
            said = self._said(error.__cause__ or error)
            raise ModelError(f"cannot reach {self._where}: {said}; is it running?") from None
        except (APIStatusError, AttributeError, TypeError, ValueError):
            pass  # Not every server lists its models.

    async def _ask(
        self, client: AsyncOpenAI, request: ChatRequest, wait: float
    ) -> Answer | Failure:
        import openai
        from httpx2 import Response

        await asyncio.sleep(wait)
        manner = self._manner
        while True:
            body = manner.request_body(self.model, request)
            try:
                # The client's own types take twice the time of all the rest.
                reply = await client.post("/chat/completions", body=body, cast_to=Response)
                answer = parse_completion(reply.json())
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if (other := manner.downgraded(self._refused(error), body)) is None:
                    return Failure(f"the server refused: {self._said(error)}")
                manner = other
            except (openai.AuthenticationError, openai.NotFoundError) as error:
                asked = f"model {self.model}, key from {self.endpoint.key_variable}"
                raise ModelError(f"{self._where}: {self._said(error)} ({asked})") from None
            except (openai.APIError, ValueError, TypeError, AttributeError, LookupError) as error:
                return self._lost(error)
            else:
                # Only what helped is kept: the refusal may have been about this text.
                self._manner = manner
                self._streak = 0
                self._check_cut(request, answer)
                return answer

    def _lost(self, error: Exception) -> Failure:
        """A call that failed after all retries; many of them in a row are the end of the run."""
        self._streak += 1
        reason = f"{type(error).__name__}: {self._said(error)}"
        if self._streak >= _HOPELESS + self._in_flight:
            raise ModelError(
                f"{self._where} failed {self._streak} times in a row, the last time with {reason}. "
                "Answers until then are kept; run the same again to go on"
            )
        return Failure(reason, final=False)

    @property
    def _where(self) -> str:
        return self.endpoint.url or "OpenAI"

    def _refused(self, error: APIStatusError) -> str:
        """The parameter that a server refused by name, else its words."""
        return str(getattr(error, "param", None) or self._said(error))

    def _said(self, error: BaseException) -> str:
        """The words of an error in a line, without the key that some repeat."""
        said = " ".join(str(getattr(error, "message", None) or error).split())
        return escape_text(said.replace(self.endpoint.api_key, "(a key)"), 300)

    def _check_cut(self, request: ChatRequest, answer: Answer) -> None:
        """Some servers (Ollama) cut long prompts and say nothing; their count of tokens tells."""
        sent = sum(len(message["content"]) for message in request.messages) // _LETTERS_PER_TOKEN
        if not self._warned and sent > _CUT_FROM and 0 < answer.usage.input < _CUT_SHARE * sent:
            self._warned = True
            console.print(
                f"[yellow]the server counted {answer.usage.input:,} tokens in a prompt of about {sent:,}: it "
                "cuts long prompts. Give the model a larger context (Ollama: num_ctx in a Modelfile), or "
                "lower --call-tokens"
            )


def _not_installed() -> ModelError:
    return ModelError("language models behind HTTP need the packages of: pip install 'mmrec[llm]'")
