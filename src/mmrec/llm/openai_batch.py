"""OpenAI's Batch API: asks are handed in as files, and collected by a later run at half the price."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from itertools import chain
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Final

from mmrec.cache.store import Failure, Store
from mmrec.console import console
from mmrec.errors import MmrecError, ModelError
from mmrec.llm.batch_results import (
    describe_progress,
    describe_refusal,
    parse_result_line,
    restore_answer,
)
from mmrec.llm.batch_store import BatchJob, BatchJobStore, BatchLine
from mmrec.llm.cost import BudgetReached, CostTracker
from mmrec.llm.openai_client import ChatClient
from mmrec.llm.openai_protocol import ChatRequest, Endpoint
from mmrec.llm.types import Answer, Usage

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["AnswersPending", "BatchClient"]

_ENDPOINT: Final = "/v1/chat/completions"
_MOST_REQUESTS = 50_000
_MOST_BYTES = 100_000_000
_ENDED = ("completed", "expired", "cancelled", "failed")
_RETRIES_OF_LOOKS = 2


class AnswersPending(MmrecError):
    """Answers are still with the server.

    Args:
        submitted: asks that were handed in now.
        cost: US dollars that these cost at most; 0 where that is not known.
        waiting: asks that were with the server already.
        deferred: asks that the budget does not hold.
    """

    def __init__(self, submitted: int, cost: float, waiting: int, deferred: int) -> None:
        price = f" for at most ${cost:,.2f}" if cost >= 0.01 else ""
        parts = [f"{submitted:,} handed in now{price}"] if submitted else []
        parts += [f"{waiting:,} with the server already"] if waiting else []
        parts += [f"{deferred:,} left for later, since --budget holds no more"] if deferred else []
        when = "Answers take up to 24 hours; run the same command again to collect them"
        super().__init__(f"asks: {', '.join(parts)}. {when}")
        self.submitted, self.cost, self.waiting, self.deferred = submitted, cost, waiting, deferred

    def __add__(self, other: AnswersPending) -> AnswersPending:
        """Both together."""
        return AnswersPending(
            self.submitted + other.submitted,
            self.cost + other.cost,
            self.waiting + other.waiting,
            self.deferred + other.deferred,
        )


class BatchClient(ChatClient):
    """A chat model whose answers come later: the same command, run again, collects them.

    Asks go ahead by ordinary calls until one is answered: what the server refuses of it (JSON schema, a
    parameter) it would refuse of every line of a batch, a day later.

    Args:
        endpoint: which model.
        costs: counts tokens and money, at the price of batches. The budget holds what is with the server,
            at the most that it can cost, besides what is collected.
        store: remembers what was handed in.
        resubmit: whether asks are handed in again whose batch the server does not know any more.
    """

    def __init__(
        self, endpoint: Endpoint, costs: CostTracker, store: Store, resubmit: bool = False
    ) -> None:
        super().__init__(endpoint, 1, costs)
        self._store = store
        self._again = resubmit
        self._server = (endpoint.url or endpoint.provider).rstrip("/")
        self._caught_up = False
        self._answered: set[bool] = set()
        self._full: BudgetReached | None = None

    def complete(
        self, requests: Iterator[list[tuple[int, ChatRequest]]]
    ) -> Generator[tuple[int, Answer | Failure]]:
        """Give the answers that have come; hand in what was not handed in before.

        Raises:
            Pending: some are still with the server.
            BudgetReached: none is, and the budget does not hold one more.
            ModelError: the server cannot be reached, or refuses.
        """
        flat = chain.from_iterable(requests)
        if (first := next(flat, None)) is None:
            return
        fresh: dict[str, BatchLine] = {}
        waiting = left = 0
        with self._sync_client() as client, TemporaryFile() as spool:
            self._catch_up(client)
            for at, request in chain([first], flat):
                name = self._name(request)
                if known := self._ledger.stored_answer(name):
                    answer = restore_answer(known)
                    self.costs.settle(0, answer.usage if isinstance(answer, Answer) else None)
                    yield at, answer
                    self._ledger.forget_answer(
                        name
                    )  # Now, since it is asked for more only when this one is stored.
                elif known is not None or name in fresh:
                    waiting += 1
                elif (ahead := self._ahead(at, request)) is not None:
                    yield ahead
                elif self._full is None:
                    fresh[name] = self._spooled(spool, name, request)
                else:
                    left += 1
            handed, cost = self._hand_in(client, spool, list(fresh.values()))
        left += len(fresh) - handed
        if handed or waiting or (left and self._ledger.pending_usage() != Usage()):
            raise AnswersPending(handed, cost, waiting, left)
        if left and self._full is not None:
            raise self._full

    @cached_property
    def _ledger(self) -> BatchJobStore:
        return BatchJobStore(self._store, self._server)

    def _name(self, request: ChatRequest) -> str:
        """A request's name for good; how it is put to the server may change from run to run."""
        return hashlib.sha256(json.dumps([self._server, self.model, *request]).encode()).hexdigest()

    def _ahead(self, at: int, request: ChatRequest) -> tuple[int, Answer | Failure] | None:
        """The answer to an ordinary call, while none of that kind was answered, and the budget holds it."""
        plain = request.schema is None
        if plain in self._answered or self._full is not None:
            return None
        try:
            ((at, answer),) = super().complete(iter([[(at, request)]]))
        except BudgetReached as reached:
            self._full = reached
            return None
        if isinstance(answer, Answer):
            self._answered.add(plain)
        return at, answer

    def _spooled(self, spool: IO[bytes], name: str, request: ChatRequest) -> BatchLine:
        head = {"custom_id": name, "method": "POST", "url": _ENDPOINT}
        line = (
            json.dumps({**head, "body": self._manner.request_body(self.model, request)}).encode()
            + b"\n"
        )
        spool.write(line)
        most = request.max_usage()
        return BatchLine(name, len(line), most.input, most.output)

    def _hand_in(
        self, client: OpenAI, spool: IO[bytes], fresh: Sequence[BatchLine]
    ) -> tuple[int, float]:
        """Hand lines in as far as the budget holds them; how many, and what they cost at most."""
        costs = self._affordable(fresh)
        spool.seek(0)
        for part in _parts(fresh[: len(costs)]):
            with TemporaryFile() as file:
                file.writelines(spool.read(line.size) for line in part)
                file.flush()  # The client asks the disk for the length.
                self._create(client, file, part)
        return len(costs), sum(costs)

    def _affordable(self, lines: Sequence[BatchLine]) -> list[float]:
        """Set aside what lines cost at most, from the first on while the budget holds them."""
        costs: list[float] = []
        try:
            for line in lines:
                costs.append(
                    self.costs.reserve(partial(Usage, input=line.input, output=line.output))
                )
        except BudgetReached as reached:
            self._full = reached
        return costs

    def _create(self, client: OpenAI, file: IO[bytes], part: Sequence[BatchLine]) -> None:
        token = uuid.uuid4().hex
        with self._ledger.submitting(token, part):
            with self._refusals():
                uploaded = client.files.create(
                    file=(f"mmrec-{token}.jsonl", file), purpose="batch"
                ).id
            self._ledger.record_file(token, uploaded)
            with self._refusals():
                # Tried once: where only the answer to the first try was lost, the second is a second batch.
                batch = client.with_options(max_retries=0).batches.create(
                    input_file_id=uploaded, endpoint=_ENDPOINT, completion_window="24h"
                )
            self._ledger.record_batch(token, batch.id)

    def _catch_up(self, client: OpenAI) -> None:
        """Once a run: look after every batch, keep the answers of those that have ended.

        Raises:
            ModelError: a batch was refused as a whole; that is forgotten, and may be handed in again.
        """
        if self._caught_up:
            return
        refused = []
        for handed in self._ledger.unfinished_jobs():
            with self._refusals():
                batch = self._found(client, handed)
                if batch is None:
                    self._ledger.finish(handed.token)
                elif batch.status == "failed":
                    refused.append(describe_refusal(batch, self._ledger.finish(handed.token)))
                elif batch.status in _ENDED:
                    self._collect(client, handed, batch)
                else:
                    console.print(
                        f"batch {batch.id}: {batch.status}{describe_progress(batch)}", markup=False
                    )
        if refused:
            raise ModelError("; ".join(refused))
        self._caught_up = True
        try:
            self.costs.reserve(self._ledger.pending_usage)
        except BudgetReached as reached:
            self._full = reached

    def _found(self, client: OpenAI, handed: BatchJob) -> Any:
        """The batch as the server has it; None where there is none, and will be none."""
        from openai import NotFoundError

        if handed.id is not None:
            try:
                return client.with_options(max_retries=_RETRIES_OF_LOOKS).batches.retrieve(
                    handed.id
                )
            except NotFoundError:
                return self._gone(handed.id)
        if handed.file is None:
            return None
        if (batch := _listed(client, handed.file)) is None:
            # The call that was to make a batch of it may still be on its way; without the file it will fail.
            with suppress(NotFoundError):
                client.files.delete(handed.file)
            batch = _listed(client, handed.file)
        if batch is not None:
            self._ledger.record_batch(handed.token, batch.id)
        return batch

    def _gone(self, what: str) -> None:
        if not self._again:
            raise ModelError(
                f"{self._where} does not know {what}: bring the key of the project that handed it in, or "
                "hand its asks in again with --retry-failed"
            ) from None

    def _collect(self, client: OpenAI, handed: BatchJob, batch: Any) -> None:
        """Keep the answers of a batch that has ended; what it did not answer may be handed in again."""
        from openai import NotFoundError

        with TemporaryFile() as file:
            try:
                for name in filter(None, (batch.output_file_id, batch.error_file_id)):
                    with client.files.with_streaming_response.content(name) as content:
                        file.writelines(content.iter_bytes())
            except NotFoundError:
                self._gone(f"the answers of {batch.id}")
            file.seek(0)
            lost = self._ledger.finish(handed.token, filter(None, map(parse_result_line, file)))
        again = f"; {lost:,} have no answer and are asked again" if lost else ""
        console.print(
            f"batch {batch.id}: {batch.status}{describe_progress(batch)}{again}", markup=False
        )

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        from httpx2 import HTTPError
        from openai import APIConnectionError, NotFoundError

        mend = "what was handed in is remembered, run the same again"
        try:
            with super()._refusals():
                yield
        except HTTPError as error:
            raise ModelError(
                f"{self._where}: {type(error).__name__}: {self._said(error)}; {mend}"
            ) from error
        except ModelError as error:
            cause = error.__cause__
            if isinstance(cause, APIConnectionError):
                why = self._said(cause.__cause__ or cause)
                raise ModelError(
                    f"cannot reach {self._where}: {why}; is it running? {mend}"
                ) from cause
            if isinstance(cause, NotFoundError):
                raise ModelError(f"{error}; if it takes no batches, leave --batch away") from cause
            raise


def _parts(lines: Sequence[BatchLine]) -> Iterator[list[BatchLine]]:
    """Lines in files of a size that servers take."""
    part: list[BatchLine] = []
    size = 0
    for line in lines:
        if part and (len(part) == _MOST_REQUESTS or size + line.size > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += line.size
    if part:
        yield part


def _listed(client: OpenAI, file: str) -> Any:
    """The batch of a file, if there is one."""
    batches = client.with_options(max_retries=_RETRIES_OF_LOOKS).batches.list(limit=100)
    return next((batch for batch in batches if batch.input_file_id == file), None)
