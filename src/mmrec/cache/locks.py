"""Who is working on what: so that two processes on one store never pay for the same answer."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

__all__ = ["Claims", "parts"]

_AT_ONCE = 500


class Claims:
    """Claims on keys, kept in the store's database.

    A process proves that it is alive by a lock that the operating system takes back when it dies, so what
    a killed process had claimed is free again at once.

    Args:
        db: the store's connection.
        path: the store's file, beside which locks are kept; None where no other process can see it.
    """

    def __init__(self, db: sqlite3.Connection, path: Path | None) -> None:
        self._db = db
        self._folder = path.with_name(path.name + ".owners") if path else None
        self._name: str | None = None

    @property
    def owner(self) -> str:
        """This process's name, under a lock from first use on."""
        if self._name is None:
            name = uuid.uuid4().hex
            if self._folder is not None:
                self._lock = self._begin(self._folder, name)
            self._name = name
        return self._name

    def take(self, keys: Collection[bytes]) -> set[bytes]:
        """Claim keys; those that a living owner holds already are left out."""
        owner = self.owner
        mine: set[bytes] = set()
        for part in parts(keys):
            with self._db:
                held = self._take(owner, part)
                if self._bury(set(held.values())):
                    held = self._take(owner, part)
            mine.update(key for key, holder in held.items() if holder == owner)
        return mine

    def held(self, keys: Collection[bytes]) -> set[bytes]:
        """Those keys that other owners, who live, have claimed."""
        holders: dict[bytes, str] = {}
        for part in parts(keys):
            holders.update(self._holders(part))
        others = {owner for owner in holders.values() if owner != self._name and self._alive(owner)}
        return {key for key, owner in holders.items() if owner in others}

    def release(self, keys: Iterable[bytes]) -> None:
        """Give up claims of this process."""
        rows = [(key, self.owner) for key in keys]
        try:
            with self._db:
                self._db.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", rows)
        except sqlite3.Error:
            self.close()  # The claims of an owner who is gone are free too.
            raise

    def living(self) -> int:
        """How many claims owners hold who live."""
        return sum(count for owner, count in self._counts().items() if self._alive(owner))

    def close(self) -> None:
        """End this process's ownership."""
        if self._name is not None and self._folder is not None:
            self._lock.release()
            (self._folder / self._name).unlink(missing_ok=True)
        self._name = None

    def _begin(self, folder: Path, name: str) -> BaseFileLock:
        """Clear away what dead owners left, and become one."""
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / name, thread_local=False)
        with self._db:
            # Alone, since others would take a file that is not locked yet for one that a dead owner left.
            self._db.execute("BEGIN IMMEDIATE")
            self._bury({file.name for file in folder.iterdir()} | self._counts().keys())
            lock.acquire()
        return lock

    def _take(self, owner: str, keys: Sequence[bytes]) -> dict[bytes, str]:
        self._db.executemany(
            "INSERT OR IGNORE INTO claims VALUES (?, ?)", [(key, owner) for key in keys]
        )
        return self._holders(keys)

    def _holders(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        marks = ",".join("?" * len(keys))
        return dict(self._db.execute(f"SELECT key, owner FROM claims WHERE key IN ({marks})", keys))

    def _counts(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT owner, count(*) FROM claims GROUP BY owner"))

    def _bury(self, owners: set[str]) -> bool:
        """Free what dead owners had claimed; whether there was one."""
        dead = [owner for owner in owners if not self._alive(owner)]
        self._db.executemany("DELETE FROM claims WHERE owner = ?", [(owner,) for owner in dead])
        for owner in dead:
            if self._folder is not None:
                with suppress(OSError):  # Windows deletes no file that is being looked at.
                    (self._folder / owner).unlink()
        return bool(dead)

    def _alive(self, owner: str) -> bool:
        if owner == self._name:
            return True
        if self._folder is None or not (self._folder / owner).exists():
            return False
        try:
            with FileLock(self._folder / owner, timeout=0):
                return False
        except Timeout:
            return True


def parts(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """As many keys at once as a query may name."""
    ordered = list(keys)
    return (ordered[at : at + _AT_ONCE] for at in range(0, len(ordered), _AT_ONCE))
