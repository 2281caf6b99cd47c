"""What was handed in as batches, noted in the store: a crash at any point neither pays twice nor loses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from mmrec.cache.store import Store
from mmrec.llm.types import Usage

__all__ = ["BatchJob", "BatchJobStore", "BatchLine"]

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS batches (token TEXT PRIMARY KEY, server TEXT NOT NULL, file TEXT, id TEXT)",
    "CREATE TABLE IF NOT EXISTS batched (request TEXT PRIMARY KEY, token TEXT NOT NULL, "
    "input INTEGER NOT NULL, output INTEGER NOT NULL, answer TEXT) WITHOUT ROWID",
)


class BatchLine(NamedTuple):
    """A request in a file: its name, its bytes, and the most tokens that it can use."""

    name: str
    size: int
    input: int
    output: int


class BatchJob(NamedTuple):
    """A batch: our name of it, and the server's names of its file and of itself, as far as they are known.

    Without a file nothing was created; with a file but no id, the process died before it knew.
    """

    token: str
    file: str | None
    id: str | None


class BatchJobStore:
    """Which requests are with a server, in which batch, and answers that nobody has taken yet.

    Args:
        store: in whose database it is kept.
        server: whose batches.
    """

    def __init__(self, store: Store, server: str) -> None:
        self._store = store
        self._server = server
        with store.transaction() as db:
            for statement in _SCHEMA:
                db.execute(statement)

    def stored_answer(self, request: str) -> str | None:
        """The answer to a request; empty while it is with the server; None when it was not handed in."""
        query = "SELECT coalesce(answer, '') FROM batched WHERE request = ?"
        with self._store.translate_errors():
            row: tuple[str] | None = self._store.db.execute(query, (request,)).fetchone()
        return row[0] if row else None

    def forget_answer(self, request: str) -> None:
        """The answer to a request has been stored where it belongs."""
        self._write("DELETE FROM batched WHERE request = ?", request)

    @staticmethod
    def count_pending(store: Store) -> int:
        """Asks of a store that were handed in as batches, and whose answers were not fetched yet."""
        with store.translate_errors():
            tables = "SELECT count(*) FROM sqlite_master WHERE name = 'batched'"
            if store.db.execute(tables).fetchone() == (0,):
                return 0
            return int(
                store.db.execute("SELECT count(*) FROM batched WHERE answer IS NULL").fetchone()[0]
            )

    def pending_usage(self) -> Usage:
        """The most tokens of what is with the server."""
        query = (
            "SELECT coalesce(sum(input), 0), coalesce(sum(output), 0) FROM batched "
            "JOIN batches USING (token) WHERE answer IS NULL AND server = ?"
        )
        with self._store.translate_errors():
            most, out = self._store.db.execute(query, (self._server,)).fetchone()
        return Usage(input=most, output=out)

    def unfinished_jobs(self) -> list[BatchJob]:
        """Batches that were not collected yet; waits while another process submits one."""
        query = "SELECT token, file, id FROM batches WHERE server = ? ORDER BY rowid"
        with self._store.lock("batch submission"), self._store.translate_errors():
            rows = self._store.db.execute(query, (self._server,)).fetchall()
        return [BatchJob(*row) for row in rows]

    @contextmanager
    def submitting(self, token: str, lines: Sequence[BatchLine]) -> Iterator[None]:
        """Note a batch before the server hears of it; nobody takes it for dead within the context."""
        with self._store.lock("batch submission"):
            with self._store.transaction() as db:
                db.execute("INSERT INTO batches VALUES (?, ?, NULL, NULL)", (token, self._server))
                rows = ((line.name, token, line.input, line.output) for line in lines)
                db.executemany("INSERT OR REPLACE INTO batched VALUES (?, ?, ?, ?, NULL)", rows)
            yield

    def record_file(self, token: str, file: str) -> None:
        """The file is there; from now on there may be a batch of it."""
        self._write("UPDATE batches SET file = ? WHERE token = ?", file, token)

    def record_batch(self, token: str, batch: str) -> None:
        """The batch is there."""
        self._write("UPDATE batches SET id = ? WHERE token = ?", batch, token)

    def finish(self, token: str, answers: Iterable[tuple[str, str]] = ()) -> int:
        """Keep the answers of a batch, by request, and forget the batch.

        Returns:
            How many of its requests have no answer; they may be handed in again.
        """
        rows = ((answer, request, token) for request, answer in answers)
        with self._store.transaction() as db:
            db.executemany("UPDATE batched SET answer = ? WHERE request = ? AND token = ?", rows)
            lost = db.execute(
                "DELETE FROM batched WHERE token = ? AND answer IS NULL", (token,)
            ).rowcount
            db.execute("DELETE FROM batches WHERE token = ?", (token,))
        return lost

    def _write(self, statement: str, *values: str) -> None:
        with self._store.transaction() as db:
            db.execute(statement, values)
