"""Client of servers that speak OpenAI's chat API: many calls in flight, answers as they arrive."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, ClassVar

from anyio.from_thread import start_blocking_portal

from mmrec.cache.store import Failure
from mmrec.console import console, escape_text, single_line
from mmrec.errors import MmrecError, ModelError
from mmrec.llm import openai_protocol as protocol
from mmrec.llm.cost import BudgetReached, CostTracker
from mmrec.llm.openai_protocol import NOT_THE_API, ChatRequest, Endpoint, NumberedRequests
from mmrec.llm.prompts import chat_messages, prompt_digest
from mmrec.llm.types import Answer, AnswerStream, LanguageModel, PromptBlocks, Task

_Call = Future[Answer | Failure]


class ChatClient(LanguageModel):
    """A chat model behind HTTP: `in_flight` calls at a time, each of `window` tokens of reviews.

    What the server cannot do (JSON schema, JSON mode, a parameter) shows in its refusals and is
    left out from then on. The openai package tries again where a call fails for other reasons.
    """

    window: int | None = None
    max_retries = 10  # of one call, after the first try
    timeout = 600.0  # seconds of one try
    _remedy: ClassVar[str] = ""
    _not_found_hint: ClassVar[str] = "does the URL end in /v1?"

    def __init__(
        self, endpoint: Endpoint, in_flight: int, costs: CostTracker, window: int | None = None
    ) -> None:
        self.endpoint, self.costs, self.window = endpoint, costs, window
        self.count_submitted: Callable[[], int] = lambda: 0  # requests in batches
        self._server = endpoint.url or "OpenAI"
        self._in_flight = in_flight
        # Only OpenAI knows this parameter for sure; the older name of it is `max_tokens`.
        is_openai = endpoint.provider == "openai"
        self._refused = frozenset([] if is_openai else ["max_completion_tokens"])
        self._failure_streak = 0
        self._warned_of_cut = False

    @cached_property
    def model(self) -> str:
        """Name of the model, if none is given of the server's only one, else ModelError."""
        if self.endpoint.model:
            return self.endpoint.model
        open_client = self._openai.OpenAI
        with open_client(**self._client_options) as client, self._translate_errors():
            models = client.with_options(max_retries=1, timeout=20).models.list()
            names = [str(model.id) for model in models.data]
        if len(names) != 1:
            listed = ", ".join(names[:20]) or "none"
            raise ModelError(f"{self._server} has {listed}; name one: openai:MODEL@{self._server}")
        return names[0]

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts; where the server is does not."""
        model = {"provider": self.endpoint.provider, "model": self.model}
        prompt = {"prompt": prompt_digest(task), "tokens": task.max_tokens}
        return {"kind": task.name, **model, **prompt, "temperature": 0}

    def status(self) -> str:
        """Tokens and money so far."""
        return str(self.costs)

    def generate(self, prompts: PromptBlocks) -> AnswerStream:
        """Ask the server; raises as `complete`, and a ModelError where that would be paid twice."""
        if submitted := self.count_submitted():
            fault = "submitted by --batch and not collected; now they would be paid for twice"
            remedy = "Run `mmrec annotate --batch` until they are, or use another --store"
            raise ModelError(f"{submitted:,} requests were {fault}. {remedy}")

        def to_requests() -> NumberedRequests:
            for number, prompt in chain.from_iterable(prompts):
                messages, task = chat_messages(prompt), prompt.task
                yield number, ChatRequest(messages, task.schema, task.max_tokens)

        return self.complete(to_requests())

    def complete(self, requests: NumberedRequests) -> AnswerStream:
        """Make calls as requests come; before an error come answers of calls in flight.

        Texts that the server refuses come last. Where these are more than a few, and more than those
        it answered, the server is to blame, and the refusals are not final.
        """
        refused: list[tuple[int, Failure]] = []
        answered, error = 0, None
        try:
            for number, answer in self._stream(requests):
                if isinstance(answer, Failure) and answer.final:
                    refused.append((number, answer))
                    continue
                answered += isinstance(answer, Answer)
                yield number, answer
        except MmrecError as reason:
            error = reason
        for number, refusal in refused:
            yield number, replace(refusal, final=len(refused) <= max(9, answered))
        if error is not None:
            raise error

    def _stream(self, requests: NumberedRequests) -> AnswerStream:
        """As `complete`, all results as they come."""
        waiting = chain(requests)
        first = next(waiting, None)
        if first is None:  # no connection is needed
            return
        waiting = chain([first], waiting)
        calls: dict[_Call, tuple[int, float]] = {}
        error: ModelError | None = None
        max_calls = self._in_flight + 8  # some wait, since the caller also stores answers
        with self._connection() as start:
            while True:
                while len(calls) < max_calls and (following := next(waiting, None)):
                    number, request = following
                    try:
                        reserved = self.costs.reserve(request.max_usage)
                    except BudgetReached:
                        if not calls:
                            raise
                        # Calls in flight may cost less than was reserved for them.
                        waiting = chain([following], waiting)
                        break
                    calls[start(request)] = number, reserved
                if not calls:
                    break
                # With a timeout, since polars restarts a wait that Ctrl-C interrupts.
                for call in wait(calls, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    number, reserved = calls.pop(call)
                    try:
                        answer = call.result()
                    except ModelError as reason:
                        # Calls in flight may have been paid for.
                        error, waiting = error or reason, chain()
                        continue
                    self.costs.settle(reserved, answer)
                    yield number, answer
        if error is not None:
            raise error

    @contextmanager
    def _connection(self) -> Iterator[Callable[[ChatRequest], _Call]]:
        """An event loop in a thread of its own, since notebooks have one; gives what starts a call, and
        cancels calls in flight where the context ends early."""
        slots = asyncio.Semaphore(self._in_flight)
        _ = self.model  # Where none is named this is a call, outside of the loop.
        http = self._openai.DefaultAioHttpClient()
        client = self._openai.AsyncOpenAI(http_client=http, **self._client_options)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            portal.call(self._check_reachable, client)
            yield partial(portal.start_task_soon, self._call, client, slots)

    @cached_property
    def _openai(self) -> Any:
        try:
            import openai
        except ImportError as error:
            remedy = "pip install 'mmrec[llm]'"
            raise ModelError(f"language models behind HTTP need more: {remedy}") from error
        return openai

    @property
    def _client_options(self) -> dict[str, Any]:
        url, key = self.endpoint.url, self.endpoint.api_key
        options = {"base_url": url, "api_key": key}
        return options | {"max_retries": self.max_retries, "timeout": self.timeout}

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn errors of calls other than completions into ones that name the server and a remedy."""
        from httpx2 import HTTPError

        try:
            yield
        except (self._openai.APIConnectionError, HTTPError) as error:
            reason = self._describe(error.__cause__ or error)
            text = f"cannot reach {self._server}: {reason}; is it running?{self._remedy}"
            raise ModelError(text) from error
        except (self._openai.OpenAIError, *NOT_THE_API) as error:
            is_missing = isinstance(error, self._openai.NotFoundError)
            hint = f"; {self._not_found_hint}" if is_missing else ""
            reason = f"{type(error).__name__}: {self._describe(error)}"
            raise ModelError(f"{self._server}: {reason}{hint}") from error

    async def _check_reachable(self, client: Any) -> None:
        """Fail at once where nobody answers, before all calls wait for it."""
        with self._translate_errors(), suppress(self._openai.APIStatusError, *NOT_THE_API):
            await client.with_options(max_retries=2, timeout=20).models.list()

    async def _call(
        self, client: Any, slots: asyncio.Semaphore, request: ChatRequest
    ) -> Answer | Failure:
        """One call, in its turn, repeated without what the server refuses."""
        from httpx2 import Response

        openai = self._openai
        async with slots:
            refused = self._refused
            while True:
                body = protocol.request_body(self.model, request, refused)
                try:
                    # The openai package's own types take twice the time of all the rest.
                    reply = await client.post("/chat/completions", body=body, cast_to=Response)
                    answer = protocol.parse_completion(reply.json())
                except (openai.AuthenticationError, openai.NotFoundError) as error:
                    details = f"model {self.model}, key from {self.endpoint.key_variable}"
                    message = f"{self._server}: {self._describe(error)} ({details})"
                    raise ModelError(message) from None
                except openai.APIStatusError as error:
                    refusal = str(error.param or self._describe(error))
                    is_refused = error.status_code in (400, 422)
                    if is_refused and (feature := protocol.refused_feature(refusal, body)):
                        refused |= {feature}
                    elif protocol.is_about_text(error.status_code, error.body):
                        return Failure(f"the server refused: {self._describe(error)}")
                    else:
                        return self._count_failure(error)
                except (openai.APIError, *NOT_THE_API) as error:
                    return self._count_failure(error)
                else:
                    # Kept only after a success: the refusal may have been about this text alone.
                    self._refused = refused
                    self._failure_streak = 0
                    self._warn_of_cut(request, answer)
                    return answer

    def _count_failure(self, error: Exception) -> Failure:
        """A call that failed, but not for its text; many of them in a row end the run."""
        self._failure_streak += 1
        reason = f"{type(error).__name__}: {self._describe(error)}"
        if self._failure_streak >= 20 + self._in_flight:
            times = f"{self._failure_streak} times in a row, the last time with {reason}"
            remedy = "Mend the server or --llm, and run the same again: answers until then are kept"
            raise ModelError(f"{self._server} failed {times}. {remedy}")
        return Failure(reason, final=False)

    def _describe(self, error: BaseException) -> str:
        """The message of an error in one line, without the key, which some servers repeat."""
        message = single_line(str(getattr(error, "message", None) or error))
        if message.startswith("Error code") and " - " not in message:
            words = protocol.error_words(getattr(error, "body", None))
            message = single_line(f"{message} - {words}").removesuffix(" - ")
        return escape_text(message.replace(self.endpoint.api_key, "(a key)"), 300)

    def _warn_of_cut(self, request: ChatRequest, answer: Answer) -> None:
        """Warn once of a server (Ollama) that cuts long prompts, which only its token counts show."""
        sent = sum(len(message["content"]) for message in request.messages) // 5  # tokens
        counted = answer.usage.input
        if not self._warned_of_cut and sent > 500 and 0 < counted < sent / 2:
            self._warned_of_cut = True
            console.print(
                f"[yellow]the server counted {counted:,} tokens in a prompt of about "
                f"{sent:,}: it cuts long prompts. Give the model a larger context "
                "(Ollama: num_ctx in a Modelfile), or lower --call-tokens"
            )
