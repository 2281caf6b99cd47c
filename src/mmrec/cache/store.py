"""Results of slow, paid or random calls, kept for good under the hash of all that determines them.

A *key* is the hash of a *provenance* and of one input; a *result* is a value or a *failure*.
"""

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from mmrec.console import console, track
from mmrec.errors import StoreError

_FORMAT = 3
# Failures are dated in fractions of seconds, to tell those of this run from earlier ones.
_TABLES = """
CREATE TABLE provenances (id INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE);
CREATE TABLE results (
    key BLOB PRIMARY KEY, provenance INTEGER NOT NULL, value BLOB NOT NULL,
    created INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE failures (
    key BLOB PRIMARY KEY, provenance INTEGER NOT NULL, reason TEXT NOT NULL,
    final INTEGER NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Failure:
    """Why there is no value; a final failure is not tried again unless that is asked for."""

    reason: str
    final: bool = True


Provenance = dict[str, object]
"""All that determines a result besides its input: `kind`, model, revision, parameters; and the
`provider` of a model behind HTTP, whose calls may cost money."""
Result = bytes | Failure
Compute = Callable[[Iterator[list[int]]], Generator[tuple[int, Result]]]
"""Takes blocks of positions as it can work on them, and gives (position, result) in any order."""


def default_store_path() -> Path:
    """`store.sqlite` in `$MMREC_CACHE`, or in the user's cache folder; a StoreError if there is none."""
    cache = os.environ.get("MMREC_CACHE")
    if not cache:
        try:
            user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError as error:  # as in a container with a user id that has no name
            mend = "name a folder for results by the environment variable MMREC_CACHE"
            raise StoreError(f"this user has no home folder; {mend}") from error
        cache = f"{user_cache}/mmrec"
    return Path(cache) / "store.sqlite"


def result_keys(provenance: Provenance, inputs: Iterable[str]) -> list[bytes]:
    """The key of each input's result: sha256 over the provenance and the input."""
    prefix = json.dumps(provenance, sort_keys=True).encode() + b"\0"
    encoded = (text.encode("utf-8", "surrogatepass") for text in inputs)
    return [hashlib.sha256(prefix + content).digest() for content in encoded]


class Store:
    """A SQLite database of results; many processes and threads may use it at the same time.

    Without a path all is kept in memory. With `retry`, final failures of earlier runs are tried again.
    After `max_wait` seconds, results that another process computes are computed a second time; paid
    ones never. Raises a StoreError if the file is no such database.
    """

    def __init__(self, path: Path | None = None, retry: bool = False) -> None:
        self.path = path
        self.max_wait: float | None = None
        self._opened = time.time() if retry else None
        self._writing = threading.RLock()
        # SQLite does not wait for a process that switches the file to WAL at this moment.
        with self.lock("opening"), self.translate_errors():
            self.db = _open_database(path)

    def put(self, provenance: Provenance, results: Iterable[tuple[bytes, Result]]) -> None:
        """Write results by key in one transaction; a key that has a value keeps it."""
        with self.transaction():
            self.insert(provenance, results, time.time())

    def insert(
        self, provenance: Provenance, results: Iterable[tuple[bytes, Result]], created: float
    ) -> int:
        """Write results of a moment (seconds since 1970) in a `transaction`; count the new values."""
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

        Nothing is computed twice: other processes and threads that need results of this kind wait. A
        crash costs the blocks, of `chunk` positions, that are being worked on. `order` is a sort key.
        """
        keys = result_keys(provenance, inputs)
        results = self._settled(keys)
        if missing := _missing_positions(keys, results):
            # Other providers may cost money, so what they compute is never repeated.
            is_local = provenance.get("provider", "transformers") == "transformers"
            lock = self.lock(str(provenance["kind"]), self.max_wait if is_local else None)
            with track(title, len(missing), status) as advance, lock:
                settled = self._settled(missing)  # by whoever held the lock before
                todo = sorted(_missing_positions(keys, results | settled).values(), key=order)
                # Closed before the lock is free, so that no call is still under way then.
                with closing(self._compute(provenance, keys, todo, compute, chunk)) as computed:
                    for new in chain([settled], computed if todo else ()):
                        results |= new
                        failed = [result for result in new.values() if isinstance(result, Failure)]
                        advance(len(new), len(failed))
        if missing := _missing_positions(keys, results):
            raise RuntimeError(f"{len(missing)} inputs were neither answered nor refused")
        return [results[key] for key in keys]

    def missing(self, provenance: Provenance, inputs: Iterable[str]) -> dict[bytes, int]:
        """Keys and first positions of the inputs that `get_or_compute` would compute."""
        keys = result_keys(provenance, inputs)
        return _missing_positions(keys, self._settled(keys))

    def counts(self) -> dict[str, int]:
        """Number of values by kind."""
        join = "results JOIN provenances ON id = results.provenance GROUP BY 1 ORDER BY 1"
        return dict(self.select(f"SELECT json_extract(content, '$.kind'), count(*) FROM {join}"))

    def select(self, query: str, values: Any = ()) -> Iterator[tuple[Any, ...]]:
        """Rows of a query, whose errors are StoreErrors."""
        with self.translate_errors():
            yield from self.db.execute(query, values)

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    @contextmanager
    def lock(self, kind: str, max_wait: float | None = None) -> Iterator[bool]:
        """Hold the lock of a kind of results, so that processes queue instead of paying twice.

        Yields whether it is held: after `max_wait` seconds work goes on without it. It is reentrant in
        its thread. Whoever holds `note` may wait for `vector`, not the other way (a deadlock).
        """
        if self.path is None:
            yield True
            return
        with self.translate_errors():
            folder = self.path.with_name(f"{self.path.name}.locks")
            folder.mkdir(parents=True, exist_ok=True)
            # A singleton, so that within a thread two stores on one file are the same owner.
            lock = FileLock(folder / f"{quote(kind, safe='')}.lock", is_singleton=True)
            is_held = True
            try:
                lock.acquire(timeout=2.0 if max_wait is None else max_wait)
            except Timeout:
                is_held = max_wait is None
                if is_held:
                    note = f"- waiting for another process that computes: {kind}"
                    console.print(note, markup=False)
                    lock.acquire()
        try:
            yield is_held
        finally:
            if is_held:
                lock.release()

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
            name = getattr(error, "sqlite_errorname", "")
            disk = ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")
            mend = "move it away, or name another --store"
            if name.startswith("SQLITE_BUSY"):
                mend = "another process has it locked; try again when that is done"
            elif isinstance(error, OSError) or name.startswith(disk):
                mend = "see that the disk has room and that you may write there, or set MMREC_CACHE"
                mend += " to a folder where you may"
            message = f"the store {self.path} cannot be used: {error}; {mend}"
            raise StoreError(message) from error

    def _compute(
        self,
        provenance: Provenance,
        keys: list[bytes],
        todo: list[int],
        compute: Compute,
        chunk: int,
    ) -> Generator[dict[bytes, Result]]:
        """Compute results, and yield them once they are written; an error costs none that arrived."""
        unwritten: dict[bytes, Result] = {}
        blocks = (todo[start : start + chunk] for start in range(0, len(todo), chunk))
        try:
            # Closed before the last results are written, so that no call stays under way.
            with closing(compute(blocks)) as results:
                for position, result in results:
                    unwritten[keys[position]] = result
                    if len(unwritten) >= chunk:
                        self.put(provenance, unwritten.items())
                        yield unwritten
                        unwritten = {}
        finally:
            if unwritten:
                self.put(provenance, unwritten.items())
        yield unwritten

    def _settled(self, keys: Iterable[bytes]) -> dict[bytes, Result]:
        """The results that need not be computed: values, and final failures."""
        results: dict[bytes, Result] = {}
        unique = iter(dict.fromkeys(keys))
        while batch := list(islice(unique, 500)):  # below SQLite's limit of variables
            marks = ",".join(f"?{number}" for number in range(1, 1 + len(batch)))
            # With `retry`, only failures since this store was opened are final; clocks may have been wrong.
            is_final = "final"
            if self._opened is not None:
                is_final += f" AND created BETWEEN {self._opened!r} AND {time.time()!r}"
            query = f"""
            SELECT key, value, NULL FROM results WHERE key IN ({marks})
            UNION ALL SELECT key, NULL, reason FROM failures
            WHERE key IN ({marks}) AND {is_final}
            """
            for key, value, reason in self.select(query, batch):
                results[key] = Failure(reason) if value is None else value
        return results


def _missing_positions(keys: list[bytes], results: Container[bytes]) -> dict[bytes, int]:
    """The keys that have no result, and the first position of each."""
    first: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        if key not in results:
            first.setdefault(key, position)
    return first


def _open_database(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(path or ":memory:", timeout=60, check_same_thread=False)
    try:
        # Writing waits for the disk only at a checkpoint: every 16 MB instead of every 4.
        for setting in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=4000"):
            db.execute(f"PRAGMA {setting}")
        ((version,),) = db.execute("PRAGMA user_version")
        ((tables,),) = db.execute("SELECT count(*) FROM sqlite_master")
        if version == 0 and tables == 0:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_FORMAT}; COMMIT;")
        elif version != _FORMAT:
            raise StoreError(f"{path} is no store of this version of mmrec; name another --store")
    except BaseException:
        db.close()
        raise
    return db
