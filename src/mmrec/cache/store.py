"""Results of slow, paid or random calls, kept for good under the hash of all that determines them.

A *key* is the hash of a *provenance* (kind, model, revision, parameters) and of one input. A *result*
is the value that a call gave, or the *failure* that says why there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Container, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrec.cache.database import open_database, remedy
from mmrec.cache.locks import hold_lock
from mmrec.console import track
from mmrec.errors import StoreError

__all__ = [
    "Compute",
    "Failure",
    "Provenance",
    "Result",
    "Store",
    "default_store_path",
    "result_keys",
]


@dataclass(frozen=True)
class Failure:
    """Why there is no value; a final failure is not tried again unless that is asked for."""

    reason: str
    final: bool = True


Provenance = dict[str, object]
"""All that determines a result besides its input: `kind`, model, revision, parameters."""
Result = bytes | Failure
Compute = Callable[[Iterator[list[int]]], Generator[tuple[int, Result]]]
"""Takes blocks of positions as it can work on them, and gives (position, result) in any order."""


def default_store_path() -> Path:
    """`store.sqlite` in `$MMREC_CACHE`, or in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MMREC_CACHE") or Path(cache) / "mmrec") / "store.sqlite"


def result_keys(provenance: Provenance, inputs: Iterable[str]) -> list[bytes]:
    """The key of each input's result: sha256 over the provenance and the input."""
    prefix = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode() + b"\0")
    keys = []
    for text in inputs:
        key = prefix.copy()
        key.update(text.encode("utf-8", "surrogatepass"))
        keys.append(key.digest())
    return keys


class Store:
    """A SQLite database of results; many processes and threads may use it at the same time.

    Args:
        path: the database file, made with its folder when absent; None keeps all in memory.
        retry: whether final failures of earlier runs are tried again.

    Attributes:
        max_wait: seconds to wait for a process that computes results of the same kind. Then they are
            computed at once, and the same call might be paid for twice. None waits without limit.

    Raises:
        StoreError: the file cannot be opened or is no such database.
    """

    def __init__(self, path: Path | None = None, retry: bool = False) -> None:
        self.path = path
        self.max_wait: float | None = None
        self._retry_before = time.time() if retry else 0.0
        self._writing = threading.RLock()
        if path is not None:
            with self.translate_errors():
                path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite does not wait for a process that switches the file to WAL at this moment.
        with self.lock("opening"), self.translate_errors():
            self.db = open_database(path)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that have one."""
        return dict(self._select("SELECT key, value FROM results WHERE key IN ({})", keys))

    def put(self, provenance: Provenance, results: Iterable[tuple[bytes, Result]]) -> None:
        """Write results by key in one transaction; a key that has a value keeps it."""
        with self.transaction():
            self.insert(provenance, results, time.time())

    def insert(
        self, provenance: Provenance, results: Iterable[tuple[bytes, Result]], created: float
    ) -> int:
        """Write results within a `transaction`; `created` is in seconds since 1970.

        Returns:
            How many values are new.
        """
        content = json.dumps(provenance, sort_keys=True, allow_nan=False)
        self.db.execute("INSERT OR IGNORE INTO provenances (content) VALUES (?)", (content,))
        query = "SELECT id FROM provenances WHERE content = ?"
        ((number,),) = self.db.execute(query, (content,))
        values, failures = [], []
        for key, result in results:
            if isinstance(result, Failure):
                failures.append((key, number, result.reason, result.final, created))
            else:
                values.append((key, number, result, int(created)))
        insert = "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)"
        new = self.db.executemany(insert, values).rowcount if values else 0
        self.db.executemany("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", failures)
        # A value wins over a failure, whichever came first.
        delete = "DELETE FROM failures WHERE key = ? AND key IN (SELECT key FROM results)"
        self.db.executemany(delete, [(row[0],) for row in (*values, *failures)])
        return new

    def get_or_compute(
        self,
        provenance: Provenance,
        inputs: Iterable[str],
        compute: Compute,
        *,
        title: str,
        chunk: int,
        order: Callable[[int], tuple[int, str]] | None = None,
        status: Callable[[], str] = str,
    ) -> list[Result]:
        """The results of some inputs; missing ones are computed, and written as they arrive.

        Nothing is computed twice: who needs missing results waits until no other process or thread
        computes results of this kind, and looks again.

        Args:
            provenance: of the results.
            inputs: equal ones are computed once.
            compute: computes the results of the inputs at some positions.
            title: of the progress bar.
            chunk: positions in a block; a crash costs the blocks that are being worked on.
            order: sort key of positions, where the order of computing matters for speed.
            status: additional text for the progress bar.

        Returns:
            One result for each input.
        """
        keys = result_keys(provenance, inputs)
        results = self._settled(keys)
        if todo := _missing_positions(keys, results):  # results that are stored never wait
            with track(title, len(todo), status) as advance, self.lock(str(provenance["kind"])):

                def record(new: dict[bytes, Result]) -> None:
                    failed = sum(isinstance(result, Failure) for result in new.values())
                    results.update(new)
                    advance(len(new), failed)

                # Whoever held the lock may have computed some of them.
                record(self._settled([keys[position] for position in todo]))
                if todo := sorted(_missing_positions(keys, results), key=order):
                    self._compute(provenance, keys, todo, compute, chunk, record)
        return [results[key] for key in keys]

    def missing(self, provenance: Provenance, inputs: Iterable[str]) -> dict[bytes, int]:
        """Keys and first positions of the inputs that `get_or_compute` would compute."""
        keys = result_keys(provenance, inputs)
        positions = _missing_positions(keys, self._settled(keys))
        return {keys[position]: position for position in positions}

    def counts(self) -> dict[str, int]:
        """Number of values by kind."""
        query = """
            SELECT json_extract(content, '$.kind'), count(*)
            FROM results JOIN provenances ON id = results.provenance GROUP BY 1 ORDER BY 1
        """
        with self.translate_errors():
            return dict(self.db.execute(query))

    def close(self) -> None:
        """Close the database. A killed process loses no result; a power cut may lose the last ones."""
        self.db.close()

    @contextmanager
    def lock(self, kind: str) -> Iterator[None]:
        """Hold the lock of a kind of results (see `hold_lock`); a store in memory needs none."""
        with ExitStack() as held:
            if self.path is not None:
                with self.translate_errors():
                    held.enter_context(hold_lock(self.path, kind, self.max_wait))
            yield

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write to the database, all or nothing; threads that share the store take turns."""
        with self._writing, self.translate_errors(), self.db:
            yield self.db

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn errors of the database and its disk into a StoreError that says what to do."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            message = f"the store {self.path} cannot be used: {error}; {remedy(error)}"
            raise StoreError(message) from error

    def _compute(
        self,
        provenance: Provenance,
        keys: Sequence[bytes],
        todo: Sequence[int],
        compute: Compute,
        chunk: int,
        record: Callable[[dict[bytes, Result]], None],
    ) -> None:
        """Compute the results at some positions; what has arrived is written whatever happens."""
        unwritten: dict[bytes, Result] = {}

        def write() -> None:
            self.put(provenance, unwritten.items())
            record(unwritten)
            unwritten.clear()

        blocks = (list(todo[start : start + chunk]) for start in range(0, len(todo), chunk))
        answered = 0
        try:
            # Closed before the last results are written, so that no call stays under way.
            with closing(compute(blocks)) as results:
                for position, result in results:
                    unwritten[keys[position]] = result
                    answered += 1
                    if len(unwritten) >= chunk:
                        write()
        finally:
            if unwritten:
                write()
        if answered < len(todo):
            raise RuntimeError(f"{len(todo) - answered} inputs were neither answered nor refused")

    def _settled(self, keys: Collection[bytes]) -> dict[bytes, Result]:
        """The results that need not be computed: values, and final failures."""
        settled: dict[bytes, Result] = {**self.get(keys)}
        # With `retry`, only failures since this store was opened are final.
        final = f"final AND created > {self._retry_before!r}"
        query = f"SELECT key, reason FROM failures WHERE {final} AND key IN ({{}})"
        missing = [key for key in keys if key not in settled]
        for key, reason in self._select(query, missing):
            settled[key] = Failure(reason)
        return settled

    def _select(self, query: str, keys: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query whose `{}` stands for keys; as many at once as a query may name."""
        unique, size = list(dict.fromkeys(keys)), 500  # below SQLite's limit of variables
        with self.translate_errors():
            for start in range(0, len(unique), size):
                batch = unique[start : start + size]
                marks = ",".join("?" * len(batch))
                yield from self.db.execute(query.format(marks), batch)


def _missing_positions(keys: Sequence[bytes], results: Container[bytes]) -> list[int]:
    """The first position of each key that has no result."""
    first: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        if key not in results:
            first.setdefault(key, position)
    return list(first.values())
