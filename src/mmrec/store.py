"""Results of slow, paid or random calls, kept for good under the hash of all that made them."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmrec.errors import ModelError
from mmrec.progress import track

__all__ = ["Store", "default_store", "digest"]

_AT_ONCE = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    key BLOB PRIMARY KEY,
    kind TEXT NOT NULL,
    value BLOB NOT NULL
) WITHOUT ROWID
"""


def default_store() -> Path:
    """`store.sqlite` in `$MMREC_CACHE`, or in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MMREC_CACHE") or Path(cache) / "mmrec") / "store.sqlite"


def digest(maker: dict[str, object], inputs: Sequence[str]) -> list[bytes]:
    """Keys of results: sha256 over what made them (kind, model, revision, parameters) and each input."""
    head = hashlib.sha256(json.dumps(maker, sort_keys=True).encode() + b"\0")
    keys = []
    for text in inputs:
        one = head.copy()
        one.update(text.encode("utf-8", "surrogatepass"))
        keys.append(one.digest())
    return keys


class Store:
    """A SQLite database of results; many processes may read and write it at the same time.

    Args:
        path: the database file, made with its folder when absent; None keeps everything in memory.

    Raises:
        ModelError: the file cannot be opened or is no such database.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path or ":memory:", timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ModelError(
                f"cannot open the store {path}: {error}; move it away or name another"
            ) from error

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are stored."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, bytes] = {}
        with self._told():
            for at in range(0, len(wanted), _AT_ONCE):
                part = wanted[at : at + _AT_ONCE]
                marks = ",".join("?" * len(part))
                found.update(self._db.execute(f"SELECT key, value FROM results WHERE key IN ({marks})", part))
        return found

    def put(self, kind: str, results: Iterable[tuple[bytes, bytes]]) -> None:
        """Write results in one transaction; a key that is there already keeps its first value."""
        with self._told(), self._db:
            rows = ((key, kind, value) for key, value in results)
            self._db.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?)", rows)

    def remember(
        self,
        kind: str,
        keys: Sequence[bytes],
        compute: Callable[[list[int]], Sequence[bytes]],
        *,
        what: str,
        chunk: int,
        order: Callable[[int], tuple[int, str]] | None = None,
    ) -> list[bytes]:
        """The results under `keys`, computing and keeping those that are not there yet.

        Args:
            kind: what the results are.
            keys: one key an input; equal keys are computed once.
            compute: makes the results of the inputs at some positions, in their order.
            what: title of the progress bar.
            chunk: inputs that are computed, and then written, at a time; a crash costs one chunk at most.
            order: sort key of positions, where the order of computing matters for speed.

        Returns:
            One result a key.
        """
        found = self.get(keys)
        first = {key: at for at, key in reversed(list(enumerate(keys))) if key not in found}
        todo = sorted(first.values())
        if order is not None:
            todo.sort(key=order)
        if todo:
            with track(what, len(todo)) as advance:
                for start in range(0, len(todo), chunk):
                    part = todo[start : start + chunk]
                    new = [keys[at] for at in part]
                    self.put(kind, zip(new, compute(part), strict=True))
                    # Read back, since another process may have been first, and its answer is the one kept.
                    found.update(self.get(new))
                    advance(len(part))
        return [found[key] for key in keys]

    def counts(self) -> dict[str, int]:
        """Stored results by kind."""
        with self._told():
            return dict(self._db.execute("SELECT kind, count(*) FROM results GROUP BY kind ORDER BY kind"))

    def close(self) -> None:
        """Close the database. A killed process loses no result; a power cut may lose the last ones."""
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ModelError(f"the store {self.path} cannot be used: {error}; move it away") from error
