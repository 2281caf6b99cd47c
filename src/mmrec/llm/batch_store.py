"""Which requests were submitted in which batch, and collected answers, in the store's database.

A crash at any point neither pays twice nor loses answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from pydantic import TypeAdapter

from mmrec.cache.store import Failure, Store
from mmrec.errors import MmrecError
from mmrec.llm.types import Answer, Usage

__all__ = ["AnswersPending", "BatchJob", "BatchJobStore"]


@dataclass(eq=False)
class AnswersPending(MmrecError):
    """Answers are still with the server: numbers of requests.

    Attributes:
        submitted: now, for at most `cost` US dollars (0 where that is unknown).
        waiting: submitted by an earlier run.
        deferred: not submitted, since the budget does not hold them.
    """

    submitted: int = 0
    cost: float = 0.0
    waiting: int = 0
    deferred: int = 0

    def __str__(self) -> str:
        parts = []
        if self.submitted:
            price = f" for at most ${self.cost:,.2f}" if self.cost >= 0.01 else ""
            parts.append(f"{self.submitted:,} submitted now{price}")
        if self.waiting:
            parts.append(f"{self.waiting:,} with the server already")
        if self.deferred:
            parts.append(f"{self.deferred:,} left for later, since --budget holds no more")
        when = "Answers take up to 24 hours; run the same command again to collect them"
        return f"requests: {', '.join(parts)}. {when}"

    def __add__(self, pending: AnswersPending) -> AnswersPending:
        return AnswersPending(
            self.submitted + pending.submitted,
            self.cost + pending.cost,
            self.waiting + pending.waiting,
            self.deferred + pending.deferred,
        )


class BatchJob(NamedTuple):
    """A batch: our token for it, and the server's ids of its file and of the batch, once recorded.

    Without a file id nothing was created. With a file id but no batch id the process may have died
    between the creation of the batch and its record.
    """

    token: str
    file_id: str | None
    batch_id: str | None


class BatchJobStore:
    """Submitted requests of one server, and answers that were collected but not yet taken."""

    _answers: ClassVar[TypeAdapter[Answer | Failure]] = TypeAdapter(Answer | Failure)

    def __init__(self, store: Store, server: str) -> None:
        self._store = store
        self._server = server
        self._execute(
            "CREATE TABLE IF NOT EXISTS batch_requests (name TEXT PRIMARY KEY, "
            "server TEXT NOT NULL, token TEXT NOT NULL, file_id TEXT, batch_id TEXT, "
            "input INTEGER NOT NULL, output INTEGER NOT NULL, answer TEXT)"
        )

    @staticmethod
    def count_pending(store: Store) -> int:
        """Requests in a store that were submitted, to any server, and have no answer yet."""
        jobs = BatchJobStore(store, "")
        ((count,),) = jobs._execute("SELECT count(*) FROM batch_requests WHERE answer IS NULL")
        return int(count)

    def stored_answer(self, name: str) -> Answer | Failure | None:
        """The answer to a request; None where it has none, or was not submitted."""
        rows = self._execute("SELECT answer FROM batch_requests WHERE name = ?", name)
        return self._answers.validate_json(rows[0][0]) if rows and rows[0][0] else None

    def is_pending(self, name: str) -> bool:
        """Whether a request is with the server."""
        query = "SELECT 1 FROM batch_requests WHERE name = ? AND answer IS NULL"
        return bool(self._execute(query, name))

    def forget_answer(self, name: str) -> None:
        """Delete a request whose answer has been stored among the results."""
        self._execute("DELETE FROM batch_requests WHERE name = ?", name)

    def pending_usage(self) -> Usage:
        """The most tokens of the requests that are with the server."""
        query = (
            "SELECT total(input), total(output) FROM batch_requests "
            "WHERE answer IS NULL AND server = ?"
        )
        ((input_tokens, output_tokens),) = self._execute(query, self._server)
        return Usage(input=input_tokens, output=output_tokens)

    def unfinished_jobs(self) -> list[BatchJob]:
        """Jobs that were not collected yet."""
        query = (
            "SELECT token, file_id, batch_id FROM batch_requests "
            "WHERE answer IS NULL AND server = ? GROUP BY token ORDER BY min(rowid)"
        )
        return [BatchJob(*row) for row in self._execute(query, self._server)]

    def add(self, token: str, requests: Mapping[str, Usage]) -> None:
        """Record a job before the server is called: its requests, and the most tokens of each."""
        columns = "name, server, token, input, output"
        insert = f"INSERT OR REPLACE INTO batch_requests ({columns}) VALUES (?, ?, ?, ?, ?)"
        with self._store.transaction() as db:
            for name, usage in requests.items():
                db.execute(insert, (name, self._server, token, usage.input, usage.output))

    def record_file(self, token: str, file_id: str) -> None:
        """The file was uploaded; from now on there may be a batch of it."""
        self._execute("UPDATE batch_requests SET file_id = ? WHERE token = ?", file_id, token)

    def record_batch(self, token: str, batch_id: str) -> None:
        """The batch was created."""
        self._execute("UPDATE batch_requests SET batch_id = ? WHERE token = ?", batch_id, token)

    def finish(self, token: str, answers: Iterable[tuple[str, Answer | Failure]] = ()) -> int:
        """Keep the answers of a job, and forget the others: how many, since these may be resubmitted."""
        # One transaction: a process that dies meanwhile leaves the job as it was.
        update = "UPDATE batch_requests SET answer = ? WHERE name = ? AND token = ?"
        with self._store.transaction() as db:
            for name, answer in answers:
                content = self._answers.dump_json(answer).decode()
                db.execute(update, (content, name, token))
            delete = "DELETE FROM batch_requests WHERE token = ? AND answer IS NULL"
            return db.execute(delete, (token,)).rowcount

    def _execute(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with self._store.transaction() as db:
            return db.execute(statement, values).fetchall()
