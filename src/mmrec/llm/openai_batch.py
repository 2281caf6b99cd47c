"""OpenAI's Batch API: requests go as files, and a later run collects answers at half the price."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, ClassVar, Literal

from pydantic import TypeAdapter

from mmrec.cache.store import Failure, Store
from mmrec.config import LanguageConfig
from mmrec.console import console, escape_text
from mmrec.errors import ModelError, StoreError
from mmrec.llm import openai_protocol as protocol
from mmrec.llm.cost import AnswersPending, BudgetReached, CostTracker
from mmrec.llm.openai_client import ChatClient
from mmrec.llm.openai_protocol import ChatRequest, Endpoint, NumberedRequests
from mmrec.llm.types import Answer, AnswerStream, Usage

_CHAT = "/v1/chat/completions"


class BatchJobStore:
    """Submitted requests of one server, and collected answers that were not yet taken."""

    _answers: ClassVar[TypeAdapter[Answer | Failure]] = TypeAdapter(Answer | Failure)
    _pending = "FROM batch_requests WHERE answer IS NULL AND server = ?"

    def __init__(self, store: Store, server: str = "") -> None:
        self._store, self._server = store, server
        self._execute(
            "CREATE TABLE IF NOT EXISTS batch_requests (name TEXT PRIMARY KEY, "
            "server TEXT NOT NULL, token TEXT NOT NULL, file_id TEXT, batch_id TEXT, "
            "input INTEGER NOT NULL, output INTEGER NOT NULL, answer TEXT)"
        )

    def count_pending(self) -> int:
        """Requests that were submitted, to any server, and have no answer yet."""
        ((count,),) = self._execute("SELECT count(*) FROM batch_requests WHERE answer IS NULL")
        return int(count)

    def find(self, name: str) -> tuple[bool, Answer | Failure | None]:
        """Whether a request was submitted, and its answer if that was collected."""
        rows = self._execute("SELECT answer FROM batch_requests WHERE name = ?", name)
        if not rows or rows[0][0] is None:
            return bool(rows), None
        return True, self._answers.validate_json(rows[0][0])

    def forget_answer(self, name: str) -> None:
        """Delete a request whose answer has been stored among the results."""
        self._execute("DELETE FROM batch_requests WHERE name = ?", name)

    def pending_usage(self) -> Usage:
        """The most tokens of the requests that are with the server."""
        query = f"SELECT total(input), total(output) {self._pending}"
        ((tokens, output_tokens),) = self._execute(query, self._server)
        return Usage(input=tokens, output=output_tokens)

    def unfinished_jobs(self) -> list[tuple[str, str | None, str | None]]:
        """Token, file id and batch id of each job that was not collected yet."""
        jobs = f"SELECT token, file_id, batch_id {self._pending} GROUP BY token"
        return self._execute(f"{jobs} ORDER BY min(rowid)", self._server)

    def add(self, token: str, requests: Mapping[str, Usage]) -> None:
        """Record a job before the server is called: its requests, and the most tokens of each."""
        insert = "INSERT OR REPLACE INTO batch_requests VALUES (?, ?, ?, NULL, NULL, ?, ?, NULL)"
        with self._store.transaction() as db:
            for name, usage in requests.items():
                db.execute(insert, (name, self._server, token, usage.input, usage.output))

    def record(self, token: str, column: Literal["file_id", "batch_id"], server_id: str) -> None:
        """The file was uploaded, so that it may have a batch; or that was created."""
        update = f"UPDATE batch_requests SET {column} = ? WHERE token = ?"
        self._execute(update, server_id, token)

    def finish(self, token: str, answers: Iterable[tuple[str, Answer | Failure]] = ()) -> int:
        """Keep the answers of a job, all or none; forget the other requests, and count them."""
        update = "UPDATE batch_requests SET answer = ? WHERE name = ? AND token = ?"
        with self._store.transaction() as db:
            for name, answer in answers:
                content = self._answers.dump_json(answer).decode()
                db.execute(update, (content, name, token))
            delete = "DELETE FROM batch_requests WHERE token = ? AND answer IS NULL"
            return db.execute(delete, (token,)).rowcount

    def _execute(self, statement: str, *values: str) -> list[Any]:
        with self._store.transaction() as db:
            return db.execute(statement, values).fetchall()


class BatchClient(ChatClient):
    """A chat model whose answers come later: the same command, run again, collects them.

    Ordinary calls are made until one is answered: what the server refuses of it (JSON schema, a
    parameter) it would refuse of every line of a batch, a day later. With `retry_failed`, requests
    are submitted again whose batch the server has forgotten.
    """

    max_requests = 50_000  # of one batch file
    max_bytes = 100_000_000
    _remedy = " What was submitted is remembered, run the same again"
    _not_found_hint = "if it takes no batches, leave --batch away"

    def __init__(
        self, endpoint: Endpoint, costs: CostTracker, store: Store, language: LanguageConfig
    ) -> None:
        super().__init__(endpoint, 1, costs, language.call_tokens)
        self._store, self._resubmit = store, language.retry_failed
        self._server_id = (endpoint.url or endpoint.provider).rstrip("/")
        self._jobs = BatchJobStore(store, self._server_id)
        self._caught_up = False
        self._probed: set[bool] = set()
        self._budget_reached: BudgetReached | None = None

    def _stream(self, requests: NumberedRequests) -> AnswerStream:
        """Give the answers that have come; submit what was not submitted before.

        Raises AnswersPending where some are still with the server, BudgetReached where none is and
        the budget holds no more, and ModelError.
        """
        waiting = iter(requests)
        first = next(waiting, None)
        if first is None:
            return
        pending = AnswersPending()
        lines: dict[str, Usage] = {}  # of the file, which may be larger than memory
        # Locked, so that no other process takes a job that is being submitted for a lost one.
        lock, openai = self._store.lock("batch requests"), self._openai
        with lock, openai.OpenAI(**self._client_options) as client, TemporaryFile() as file:
            self._catch_up(client)
            for number, request in chain([first], waiting):
                content = json.dumps([self._server_id, self.model, *request])
                name = hashlib.sha256(content.encode()).hexdigest()
                is_submitted, answer = self._jobs.find(name)
                if answer is not None:
                    self.costs.settle(0, answer)
                    yield number, answer
                    # Only now: the caller has stored the answer when it asks for the next one.
                    self._jobs.forget_answer(name)
                elif is_submitted or name in lines:
                    pending.waiting += 1
                elif (outcome := self._ask_or_reserve(request)) is None:
                    pending.deferred += 1
                elif isinstance(outcome, Answer | Failure):
                    yield number, outcome
                else:
                    pending.submitted += 1
                    pending.cost += outcome
                    body = protocol.request_body(self.model, request, self._refused)
                    call = {"custom_id": name, "method": "POST", "url": _CHAT, "body": body}
                    line = json.dumps(call).encode() + b"\n"
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

    def _ask_or_reserve(self, request: ChatRequest) -> Answer | Failure | float | None:
        """The answer of a first ordinary call, else dollars reserved; None without budget."""
        if self._budget_reached is not None:
            return None
        is_plain = request.schema is None
        try:
            if is_plain in self._probed:
                return self.costs.reserve(request.max_usage)
            ((_, answer),) = super()._stream([(0, request)])
        except BudgetReached as reached:
            self._budget_reached = reached
            return None
        if isinstance(answer, Answer):
            self._probed.add(is_plain)
        return answer

    def _submit(self, client: Any, file: IO[bytes], lines: dict[str, Usage]) -> None:
        """Make a batch of a file's lines, if there are any; empty both."""
        if not lines:
            return
        token = uuid.uuid4().hex
        self._jobs.add(token, lines)
        with self._translate_errors():
            file.flush()  # The openai package asks the disk for the length.
            file.seek(0)
            uploaded = client.files.create(file=(f"mmrec-{token}.jsonl", file), purpose="batch")
        self._jobs.record(token, "file_id", uploaded.id)
        # A retry could make a second batch where only the response was lost.
        create = client.with_options(max_retries=0).batches.create
        with self._translate_errors():
            batch = create(input_file_id=uploaded.id, endpoint=_CHAT, completion_window="24h")
        self._jobs.record(token, "batch_id", batch.id)
        file.seek(0)
        file.truncate()
        lines.clear()

    def _catch_up(self, client: Any) -> None:
        """Once a run: look at every batch; ModelError where one was refused as a whole."""
        if self._caught_up:
            return
        refusals = []
        for token, file_id, batch_id in self._jobs.unfinished_jobs():
            with self._translate_errors():
                batch = self._find_batch(client, token, file_id, batch_id)
            if batch is None:
                self._jobs.finish(token)
            elif batch.status == "failed":
                lost = self._jobs.finish(token)
                refused = f"the server refused batch {batch.id} of {lost:,} requests"
                errors = (batch.errors and batch.errors.data) or []
                reasons = "; ".join(dict.fromkeys(str(error.message) for error in errors))
                reason = escape_text(reasons or "no reason given", 500)
                remedy = "The next run submits them again; --budget submits less at a time"
                refusals.append(f"{refused}: {reason}. {remedy}")
            else:
                self._collect(client, token, batch)
        if refusals:
            raise ModelError("; ".join(refusals))
        self._caught_up = True
        try:
            self.costs.reserve(self._jobs.pending_usage)
        except BudgetReached as reached:
            self._budget_reached = reached

    def _find_batch(
        self, client: Any, token: str, file_id: str | None, batch_id: str | None
    ) -> Any:
        """The batch of a job as the server has it; None where there is none, and never will be."""
        client = client.with_options(max_retries=2)  # a later run looks again
        if batch_id is not None:
            with self._allow_missing(batch_id):
                return client.batches.retrieve(batch_id)
        # A process that died before it recorded the batch may have made one with the file. If there
        # is none, the call may still be on its way: without a file it fails.
        if file_id is not None and batch_id is None:
            for file_is_deleted in (False, True):
                for batch in client.batches.list(limit=100):
                    if batch.input_file_id == file_id:
                        self._jobs.record(token, "batch_id", batch.id)
                        return batch
                if not file_is_deleted:
                    with suppress(self._openai.NotFoundError):
                        client.files.delete(file_id)
        return None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            with super()._translate_errors():
                yield
        except OSError as error:
            mend = f"see that {gettempdir()} has room"
            message = f"a temporary file cannot be written: {error}; {mend}"
            raise StoreError(message) from error

    @contextmanager
    def _allow_missing(self, name: str) -> Iterator[None]:
        """Raise a ModelError where the server has lost something, unless that may be paid again."""
        try:
            yield
        except self._openai.NotFoundError:
            if not self._resubmit:
                owner = "bring the key of the project that submitted it"
                remedy = f"{owner}, or submit its requests again with --retry-failed"
                raise ModelError(f"{self._server} does not know {name}: {remedy}") from None

    def _collect(self, client: Any, token: str, batch: Any) -> None:
        """Report a batch; of one that has ended keep the answers, and forget the other requests."""
        counts, report = batch.request_counts, f"batch {batch.id}: {batch.status}"
        if counts and counts.total:
            report += f", {counts.completed:,} of {counts.total:,} done"
        if batch.status in ("completed", "expired", "cancelled"):
            download = client.files.with_streaming_response.content
            with TemporaryFile() as file:
                for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                    allow_missing = self._allow_missing(f"the answers of {batch.id}")
                    with self._translate_errors(), allow_missing, download(file_id) as content:
                        file.writelines(content.iter_bytes())
                file.seek(0)
                answers = filter(None, map(protocol.parse_batch_result, file))
                lost = self._jobs.finish(token, answers)
            if lost:
                report += f"; {lost:,} have no answer and are submitted again"
        console.print(report, markup=False)
