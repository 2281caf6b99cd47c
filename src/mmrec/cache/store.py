"""Results of slow, paid or random calls, kept for good under the hash of all that made them."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrec.cache.database import open_database
from mmrec.cache.locks import Claims, parts
from mmrec.console import track
from mmrec.errors import ModelError

__all__ = ["Compute", "Failure", "Result", "Store", "default_store_path", "result_keys"]

_CLAIMED = 16  # a claim for each answer alone would take as long as writing it down
_POLL_SECONDS = 0.1, 1.0
_DISK = ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")


@dataclass(frozen=True)
class Failure:
    """Why there is no result; a final one is not tried again unless that is asked for."""

    reason: str
    final: bool = True


Result = bytes | Failure
Compute = Callable[[Iterator[list[int]]], Generator[tuple[int, Result]]]
"""Takes blocks of positions as it can work on them, gives results in any order, each with its position."""


def default_store_path() -> Path:
    """`store.sqlite` in `$MMREC_CACHE`, or in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MMREC_CACHE") or Path(cache) / "mmrec") / "store.sqlite"


def result_keys(provenance: dict[str, object], inputs: Iterable[str]) -> list[bytes]:
    """Keys of results: sha256 over what made them (kind, model, revision, parameters) and each input."""
    head = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode() + b"\0")
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
        retry: whether what failed for good before now is tried again.

    Raises:
        ModelError: the file cannot be opened or is no such database.
    """

    def __init__(self, path: Path | None = None, retry: bool = False) -> None:
        self.path = path
        self._since = time.time() if retry else 0.0
        with self.translate_errors():
            self.db = open_database(path)
        self.claims = Claims(self.db, path)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are stored."""
        return dict(self._select("SELECT key, value FROM results WHERE key IN ({})", keys))

    def failures(self, keys: Iterable[bytes]) -> dict[bytes, Failure]:
        """What failed, and why, among some keys."""
        rows = self._select("SELECT key, reason, final FROM failures WHERE key IN ({})", keys)
        return {key: Failure(reason, bool(final)) for key, reason, final in rows}

    def put(self, provenance: dict[str, object], results: Iterable[tuple[bytes, Result]]) -> None:
        """Write results in one transaction; a key that has a value already keeps it."""
        results = list(results)
        now = time.time()
        with self.translate_errors(), self.db:
            own = self._maker(provenance)
            good = [
                (key, own, value, int(now))
                for key, value in results
                if not isinstance(value, Failure)
            ]
            bad = [
                (key, own, why.reason, why.final, now)
                for key, why in results
                if isinstance(why, Failure)
            ]
            self.db.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)", good)
            self.db.executemany("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", bad)
            keys = [(key,) for key, _ in results]
            self.db.executemany(
                "DELETE FROM failures WHERE key IN (SELECT key FROM results WHERE key = ?)", keys
            )
            self.db.executemany("DELETE FROM claims WHERE key = ?", keys)

    def get_or_compute(
        self,
        provenance: dict[str, object],
        inputs: Iterable[str],
        compute: Compute,
        *,
        title: str,
        chunk: int,
        order: Callable[[int], tuple[int, str]] | None = None,
        status: Callable[[], str] = str,
    ) -> list[Result]:
        """The results of some inputs; those that are not there yet are computed, and kept as they arrive.

        Work that another process has begun on the same inputs is waited for, not done twice.

        Args:
            provenance: all that determines a result besides its input, with a `kind`.
            inputs: equal ones are computed once.
            compute: makes the results of the inputs at some positions.
            title: title of the progress bar.
            chunk: positions in a block; a crash costs the blocks that are being worked on.
            order: sort key of positions, where the order of computing matters for speed.
            status: what else the progress bar says.

        Returns:
            One result an input; a failure where there is none.
        """
        keys = result_keys(provenance, inputs)
        first = {key: at for at, key in reversed(list(enumerate(keys)))}
        found = self._known(first)
        todo = sorted((at for key, at in first.items() if key not in found), key=order)
        if todo:
            with track(title, len(todo), status) as advance:
                self._work(_Work(provenance, keys, compute, chunk, found, advance), todo)
        return [found[key] for key in keys]

    def missing(self, provenance: dict[str, object], inputs: Iterable[str]) -> dict[bytes, int]:
        """The different inputs that `get_or_compute` would have to compute: their keys and positions."""
        keys = result_keys(provenance, inputs)
        first = {key: at for at, key in reversed(list(enumerate(keys)))}
        known = self._known(first)
        return {key: at for key, at in first.items() if key not in known}

    def counts(self) -> dict[str, int]:
        """Stored results by kind."""
        kind = "json_extract(makers.maker, '$.kind')"
        query = (
            f"SELECT {kind}, count(*) FROM results JOIN makers ON id = results.maker "
            "GROUP BY 1 ORDER BY 1"
        )
        with self.translate_errors():
            return dict(self.db.execute(query))

    def close(self) -> None:
        """Close the database. A killed process loses no result; a power cut may lose the last ones."""
        self.claims.close()
        self.db.close()

    def _known(self, keys: Collection[bytes]) -> dict[bytes, Result]:
        """What need not be computed: values, and what failed for good."""
        found: dict[bytes, Result] = {**self.get(keys)}
        query = f"SELECT key, reason FROM failures WHERE final AND made > {self._since!r} AND key IN ({{}})"
        lacking = self._select(query, (key for key in keys if key not in found))
        found.update((key, Failure(reason)) for key, reason in lacking)
        return found

    def _work(self, work: _Work, todo: list[int]) -> None:
        """Rounds over what is to do, until it is found, here or by another process."""
        keys, found = work.keys, work.found
        self._round(work, todo)
        pause, most = _POLL_SECONDS
        while left := [at for at in todo if keys[at] not in found]:
            pause = _POLL_SECONDS[0] if len(left) < len(todo) else min(2 * pause, most)
            todo = left
            time.sleep(pause)
            work.tell(self._known([keys[at] for at in todo]))
            with self.translate_errors():
                held = self.claims.held([keys[at] for at in todo])
            if free := [at for at in todo if keys[at] not in held and keys[at] not in found]:
                self._round(work, free)

    def _round(self, work: _Work, todo: list[int]) -> None:
        """Compute what no other process works on; what came of it is kept, whatever happens."""
        taken: set[bytes] = set()
        kept: list[tuple[bytes, Result]] = []
        with ExitStack() as at_last:
            at_last.callback(self._release, taken)
            at_last.callback(self._keep, work, kept, taken)
            results = work.compute(self._blocks(work, todo, taken))
            at_last.callback(results.close)
            for at, result in results:
                kept.append((work.keys[at], result))
                if len(kept) >= work.chunk:
                    self._keep(work, kept, taken)
        if lost := taken - work.found.keys():
            raise RuntimeError(f"{len(lost)} inputs were neither answered nor refused")

    def _blocks(self, work: _Work, todo: list[int], taken: set[bytes]) -> Iterator[list[int]]:
        """Positions to compute, claimed block by block; what another process did meanwhile is found."""
        step = max(work.chunk, _CLAIMED // work.chunk * work.chunk)
        for start in range(0, len(todo), step):
            some = todo[start : start + step]
            with self.translate_errors():
                mine = self.claims.take([work.keys[at] for at in some])
            taken |= mine
            work.tell(self._known(mine))
            free = [at for at in some if work.keys[at] in mine and work.keys[at] not in work.found]
            for first in range(0, len(free), work.chunk):
                yield free[first : first + work.chunk]

    def _keep(self, work: _Work, results: list[tuple[bytes, Result]], taken: set[bytes]) -> None:
        """Write results, which gives back their claims, and empty the list."""
        if results:
            self.put(work.maker, results)
            work.tell(dict(results))
            taken.difference_update(key for key, _ in results)
            results.clear()

    def _release(self, keys: set[bytes]) -> None:
        with self.translate_errors():
            self.claims.release(keys)

    def _maker(self, maker: dict[str, object]) -> int:
        # Looked up every time: what is remembered here outlives a transaction that is rolled back.
        text = json.dumps(maker, sort_keys=True)
        query = "SELECT id FROM makers WHERE maker = ?"
        while (row := self.db.execute(query, (text,)).fetchone()) is None:
            self.db.execute("INSERT OR IGNORE INTO makers (maker) VALUES (?)", (text,))
        (number,) = row
        return int(number)

    def _select(self, query: str, keys: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
        with self.translate_errors():
            for part in parts(dict.fromkeys(keys)):
                yield from self.db.execute(query.format(",".join("?" * len(part))), part)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn errors of the database into ones that name the store, and the mend."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise ModelError(
                f"the store {self.path} cannot be used: {error}; {_mend(error)}"
            ) from error


@dataclass(frozen=True)
class _Work:
    """What one call of `get_or_compute` works on, and has found so far."""

    maker: dict[str, object]
    keys: Sequence[bytes]
    compute: Compute
    chunk: int
    found: dict[bytes, Result]
    advance: Callable[[int, int], None]

    def tell(self, results: dict[bytes, Result]) -> None:
        """Add to what is found, and to the bar."""
        new = [result for key, result in results.items() if key not in self.found]
        self.found.update(results)
        if new:
            self.advance(len(new), sum(isinstance(result, Failure) for result in new))


def _mend(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return "another process has it locked; try again when that is done"
    if isinstance(error, OSError) or name.startswith(_DISK):
        return "see that the disk has room and that you may write there; what is in it is kept"
    return "move it away, or name another"
