"""Progress bars with time left, on standard error so that standard output stays clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["console", "track"]

console = Console(stderr=True)
_busy: ContextVar[bool] = ContextVar("busy", default=False)


@contextmanager
def track(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for `total` units of work; the yielded function advances it by so many units.

    Work inside of work that has a bar already shows none of its own.
    """
    if _busy.get():
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    token = _busy.set(True)
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, advance=done)
    finally:
        _busy.reset(token)
