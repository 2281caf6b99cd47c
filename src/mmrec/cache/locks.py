"""One lock for each kind of result, so that processes queue instead of paying twice for a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from mmrec.console import console

__all__ = ["hold_lock"]


@contextmanager
def hold_lock(database: Path, kind: str, max_wait: float | None = None) -> Iterator[bool]:
    """Hold the lock of a kind of results; all other processes and threads wait for it.

    The lock is a file beside the database. It is reentrant within its thread, and the operating
    system frees it when its process dies, also by kill -9.

    Kinds nest as results are made of each other: a note is made of vectors, so whoever holds
    `note` may wait for `vector`. Nesting them the other way round too would be a deadlock.

    Args:
        max_wait: seconds to wait before going on without the lock; None waits without limit.

    Yields:
        Whether the lock is held.

    Raises:
        OSError: the lock file cannot be made.
    """
    folder = database.with_name(f"{database.name}.locks")
    folder.mkdir(exist_ok=True)
    # A singleton, so that within a thread two stores on one file are the same owner.
    lock = FileLock(folder / f"{quote(kind, safe='')}.lock", is_singleton=True)
    held = True
    try:
        lock.acquire(timeout=2.0 if max_wait is None else max_wait)
    except Timeout:
        held = max_wait is None
        if held:
            console.print(f"- waiting for another process that computes: {kind}", markup=False)
            lock.acquire()
    try:
        yield held
    finally:
        if held:
            lock.release()
