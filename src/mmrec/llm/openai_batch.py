"""OpenAI's Batch API: requests go as files, a later run collects the answers, at half the price."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from tempfile import TemporaryFile, gettempdir
from typing import IO, TYPE_CHECKING

from mmrec.cache.store import Failure, Store
from mmrec.console import console, escape_text
from mmrec.errors import ModelError, StoreError
from mmrec.llm.batch_store import AnswersPending, BatchJob, BatchJobStore
from mmrec.llm.cost import BudgetReached, CostTracker
from mmrec.llm.openai_client import ChatClient
from mmrec.llm.openai_protocol import ChatRequest, Endpoint, NumberedRequests, parse_batch_result
from mmrec.llm.types import Answer, NumberedAnswers, Usage

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

__all__ = ["BatchClient"]


class BatchClient(ChatClient):
    """A chat model whose answers come later: the same command, run again, collects them.

    Ordinary calls are made until one is answered: what the server refuses of it (JSON schema, a
    parameter) it would refuse of every line of a batch, a day later.

    Args:
        endpoint: server and model.
        costs: at the price of batches, with what requests at the server cost at most.
        store: remembers what was submitted.
        resubmit: whether requests are submitted again whose batch the server has forgotten.
    """

    max_requests = 50_000
    """Most requests of one batch file."""
    max_bytes = 100_000_000
    """Largest batch file."""

    _remedy = " What was submitted is remembered, run the same again"
    _not_found_hint = "if it takes no batches, leave --batch away"

    def __init__(
        self, endpoint: Endpoint, costs: CostTracker, store: Store, resubmit: bool = False
    ) -> None:
        super().__init__(endpoint, 1, costs)
        self._store = store
        self._resubmit = resubmit
        self._server_id = (endpoint.url or endpoint.provider).rstrip("/")
        self._jobs = BatchJobStore(store, self._server_id)
        self._caught_up = False
        self._probed: set[bool] = set()
        self._budget_reached: BudgetReached | None = None

    def complete(self, requests: NumberedRequests) -> NumberedAnswers:
        """Give the answers that have come; submit what was not submitted before.

        Raises:
            AnswersPending: some are still with the server.
            BudgetReached: none is, and the budget does not hold one more.
            ModelError: the server cannot be reached, or refuses.
        """
        upcoming = chain.from_iterable(requests)
        first = next(upcoming, None)
        if first is None:
            return
        pending = AnswersPending()
        lines: dict[str, Usage] = {}
        # Locked, so that no other process takes a job that is being submitted for one of a dead
        # process. The file is on disk, since it may be larger than memory.
        lock = self._store.lock("batch requests")
        with lock, self._sync_client() as client, TemporaryFile() as file:
            self._catch_up(client)
            for number, request in chain([first], upcoming):
                name = self._request_name(request)
                if (answer := self._jobs.stored_answer(name)) is not None:
                    self.costs.settle(0, answer.usage if isinstance(answer, Answer) else None)
                    yield number, answer
                    # Only now: the caller has stored the answer when it asks for the next one.
                    self._jobs.forget_answer(name)
                elif name in lines or self._jobs.is_pending(name):
                    pending.waiting += 1
                elif (answered := self._probe(number, request)) is not None:
                    yield answered
                elif (reserved := self._reserve(request.max_usage)) is None:
                    pending.deferred += 1
                else:
                    pending.submitted += 1
                    pending.cost += reserved
                    line = self._line(name, request)
                    is_full = file.tell() + len(line) > self.max_bytes
                    if is_full or len(lines) == self.max_requests:
                        self._submit(client, file, lines)
                    with self._translate_errors():
                        file.write(line)
                    lines[name] = request.max_usage()
            self._submit(client, file, lines)
        if pending.submitted or pending.waiting:
            raise pending
        if pending.deferred:
            # Batches of other requests may free the budget, else the run cannot go on.
            is_waiting = self._jobs.pending_usage() != Usage()
            raise pending if is_waiting or not self._budget_reached else self._budget_reached

    def _request_name(self, request: ChatRequest) -> str:
        """A name that stays the same from run to run, whatever the server's capabilities."""
        content = json.dumps([self._server_id, self.model, *request])
        return hashlib.sha256(content.encode()).hexdigest()

    def _line(self, name: str, request: ChatRequest) -> bytes:
        line = {
            **{"custom_id": name, "method": "POST", "url": "/v1/chat/completions"},
            "body": self._capabilities.request_body(self.model, request),
        }
        return json.dumps(line).encode() + b"\n"

    def _probe(self, number: int, request: ChatRequest) -> tuple[int, Answer | Failure] | None:
        """Make an ordinary call while none of that kind was answered, and the budget holds it."""
        is_plain = request.schema is None
        if is_plain in self._probed or self._budget_reached is not None:
            return None
        try:
            ((number, answer),) = super().complete(iter([[(number, request)]]))
        except BudgetReached as reached:
            self._budget_reached = reached
            return None
        if isinstance(answer, Answer):
            self._probed.add(is_plain)
        return number, answer

    def _reserve(self, max_usage: Callable[[], Usage]) -> float | None:
        """US dollars reserved for requests; None once the budget does not hold them."""
        # That ends nothing but new requests: what was submitted is still collected.
        if self._budget_reached is None:
            try:
                return self.costs.reserve(max_usage)
            except BudgetReached as reached:
                self._budget_reached = reached
        return None

    def _submit(self, client: OpenAI, file: IO[bytes], lines: dict[str, Usage]) -> None:
        """Make a batch of a file's lines, if there are any; empties both."""
        if not lines:
            return
        token = uuid.uuid4().hex
        self._jobs.add(token, lines)
        with self._translate_errors():
            file.flush()  # The openai package asks the disk for the length.
            file.seek(0)
            uploaded = client.files.create(file=(f"mmrec-{token}.jsonl", file), purpose="batch")
        self._jobs.record_file(token, uploaded.id)
        with self._translate_errors():
            # Without a retry, which could make a second batch where only the response was lost.
            batch = client.with_options(max_retries=0).batches.create(
                input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        self._jobs.record_batch(token, batch.id)
        file.seek(0)
        file.truncate()
        lines.clear()

    def _catch_up(self, client: OpenAI) -> None:
        """Once a run: look at every batch, and keep the answers of those that have ended.

        Raises:
            ModelError: a batch was refused as a whole; it is forgotten, and may be submitted again.
        """
        if self._caught_up:
            return
        refusals = []
        for job in self._jobs.unfinished_jobs():
            with self._translate_errors():
                batch = self._find_batch(client, job)
            if batch is None:
                self._jobs.finish(job.token)
            elif batch.status == "failed":
                refusals.append(_describe_refusal(batch, self._jobs.finish(job.token)))
            elif batch.status in ("completed", "expired", "cancelled"):
                self._collect(client, job, batch)
            else:
                _report(batch)
        if refusals:
            raise ModelError("; ".join(refusals))
        self._caught_up = True
        self._reserve(self._jobs.pending_usage)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """As for ordinary calls; and a full disk of temporary files is no error of the server."""
        try:
            with super()._translate_errors():
                yield
        except OSError as error:
            raise StoreError(
                f"a temporary file cannot be written: {error}; see that {gettempdir()} has room"
            ) from error

    def _find_batch(self, client: OpenAI, job: BatchJob) -> Batch | None:
        """The batch of a job as the server has it; None where there is none, and never will be."""
        from openai import NotFoundError

        client = client.with_options(max_retries=2)  # a later run looks again
        if job.batch_id is not None:
            try:
                return client.batches.retrieve(job.batch_id)
            except NotFoundError:
                self._check_resubmit(job.batch_id)
                return None
        if job.file_id is None:
            return None
        # The process died before it recorded the batch, which has the file's id.
        batch = _listed_batch(client, job.file_id)
        if batch is None:
            # The call that makes a batch of the file may still be on its way: now it fails.
            with suppress(NotFoundError):
                client.files.delete(job.file_id)
            batch = _listed_batch(client, job.file_id)
        if batch is not None:
            self._jobs.record_batch(job.token, batch.id)
        return batch

    def _check_resubmit(self, missing: str) -> None:
        """Raise a ModelError unless what the server has lost may be paid for again."""
        if not self._resubmit:
            raise ModelError(
                f"{self._server} does not know {missing}: bring the key of the project that "
                "submitted it, or submit its requests again with --retry-failed"
            ) from None

    def _collect(self, client: OpenAI, job: BatchJob, batch: Batch) -> None:
        """Keep the answers of a batch that has ended; its other requests may be submitted again."""
        from openai import NotFoundError

        with TemporaryFile() as file:
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                with self._translate_errors():
                    try:
                        with client.files.with_streaming_response.content(file_id) as content:
                            file.writelines(content.iter_bytes())
                    except NotFoundError:
                        self._check_resubmit(f"the answers of {batch.id}")
            file.seek(0)
            answers = filter(None, map(parse_batch_result, file))
            lost = self._jobs.finish(job.token, answers)
        _report(batch, f"; {lost:,} have no answer and are submitted again" if lost else "")


def _listed_batch(client: OpenAI, file_id: str) -> Batch | None:
    batches = client.batches.list(limit=100)
    return next((batch for batch in batches if batch.input_file_id == file_id), None)


def _report(batch: Batch, remark: str = "") -> None:
    counts = batch.request_counts
    progress = f", {counts.completed:,} of {counts.total:,} done" if counts and counts.total else ""
    console.print(f"batch {batch.id}: {batch.status}{progress}{remark}", markup=False)


def _describe_refusal(batch: Batch, lost: int) -> str:
    """Why a batch of so many requests was refused as a whole."""
    errors = (batch.errors.data if batch.errors else None) or []
    messages = dict.fromkeys(str(error.message) for error in errors)  # without repetitions
    reason = "; ".join(list(messages)[:3]) or "no reason given"
    return (
        f"the server refused batch {batch.id} of {lost:,} requests: {escape_text(reason, 500)}. "
        "The next run submits them again; --budget submits less at a time"
    )
