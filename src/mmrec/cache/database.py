"""The tables of the store, and how those of earlier versions become them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from mmrec.errors import ModelError

__all__ = ["open_database"]

_VERSION = 2
_PATIENCE_SECONDS = 10
_TABLES = """
CREATE TABLE makers (id INTEGER PRIMARY KEY, maker TEXT NOT NULL UNIQUE);
CREATE TABLE results (
    key BLOB PRIMARY KEY, maker INTEGER NOT NULL, value BLOB NOT NULL, made INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE failures (
    key BLOB PRIMARY KEY, maker INTEGER NOT NULL, reason TEXT NOT NULL, final INTEGER NOT NULL,
    made REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE claims (key BLOB PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
"""
_FROM_VERSION_1 = f"""
ALTER TABLE results RENAME TO earlier;
{_TABLES}
INSERT INTO makers (maker) SELECT DISTINCT json_object('kind', kind) FROM earlier;
INSERT INTO results SELECT key, id, value, 0 FROM earlier JOIN makers ON maker = json_object('kind', kind);
DROP TABLE earlier;
"""


def open_database(path: Path | None) -> sqlite3.Connection:
    """Open a store's file, made with its folder when absent; None is in memory.

    Raises:
        ModelError: it was written by a newer version.
        OSError, sqlite3.Error: it cannot be opened, or is no store.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return _opened(path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            # SQLite itself does not wait for a process that switches the file to WAL just now.
            time.sleep(0.05)


def _opened(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(path or ":memory:", timeout=60, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        # Moving what was written into the database waits for the disk; at 16 MB, not at every 4.
        db.execute("PRAGMA wal_autocheckpoint=4000")
        if _version(db) != _VERSION:
            _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path | None) -> None:
    with db:
        db.execute("BEGIN IMMEDIATE")
        version = _version(db)  # Again: another process may have come first.
        if version > _VERSION:
            raise ModelError(
                f"the store {path} was written by a newer mmrec: update mmrec, or name another"
            )
        if version == _VERSION:
            return
        tables = {
            name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if tables and "results" not in tables:
            raise ModelError(
                f"{path} is a database of something else: name another file for the store"
            )
        earlier = "results" in tables
        for statement in (_FROM_VERSION_1 if earlier else _TABLES).split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {_VERSION}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
