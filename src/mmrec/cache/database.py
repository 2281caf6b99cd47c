"""The database of a store: its tables, how it is opened, and what to do about its errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mmrec.errors import StoreError

__all__ = ["open_database", "remedy"]

_FORMAT = 3
# Provenances are few and long, so a result names its own by a number. Failures are
# dated in fractions of seconds, to tell those of this run from earlier ones.
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


def open_database(path: Path | None) -> sqlite3.Connection:
    """Open a store's database, and make its tables if it is new; None is in memory.

    Raises:
        StoreError: it is no store, or one of another version.
        OSError, sqlite3.Error: it cannot be opened.
    """
    db = sqlite3.connect(path or ":memory:", timeout=60, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        # In this mode a killed process loses nothing, and writing does not wait for the disk.
        db.execute("PRAGMA synchronous=NORMAL")
        # A checkpoint waits for the disk: every 16 MB instead of every 4.
        db.execute("PRAGMA wal_autocheckpoint=4000")
        ((version,),) = db.execute("PRAGMA user_version")
        ((tables,),) = db.execute("SELECT count(*) FROM sqlite_master")
        if version == 0 and tables == 0:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_FORMAT}; COMMIT;")
        elif version != _FORMAT:
            raise StoreError(f"{path} is no store of this version of mmrec: name another file")
    except BaseException:
        db.close()
        raise
    return db


def remedy(error: Exception) -> str:
    """What a user can do about an error of the database."""
    name = getattr(error, "sqlite_errorname", "")
    disk = ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")
    if name.startswith("SQLITE_BUSY"):
        return "another process has it locked; try again when that is done"
    if isinstance(error, OSError) or name.startswith(disk):
        return "see that the disk has room and that you may write there; its results are kept"
    return "move it away, or name another"
