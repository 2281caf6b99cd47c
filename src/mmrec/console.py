"""Progress bars with time left, on standard error so that standard output stays clean."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["console", "track"]

_SECONDS = 0.1
_WIDE = 110
console = Console(stderr=True)
_busy: ContextVar[bool] = ContextVar("busy", default=False)


@contextmanager
def track(title: str, total: int, status: Callable[[], str] = str) -> Iterator[Callable[..., None]]:
    """Show a bar for `total` units of work; the yielded function takes how many are done, and failed.

    Work inside of work that has a bar already shows none of its own.

    Args:
        title: title.
        total: units of work.
        status: what else there is to say, asked at every step.
    """
    if _busy.get():
        yield lambda done, failed=0: None
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description:<18}")]
    if status is str or console.width > _WIDE:
        # Where a line has no room for all, the words of the status say more than a bar.
        columns += [BarColumn(bar_width=30 if console.width > _WIDE else 12)]
    columns += [MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn(compact=True)]
    columns += [TextColumn("{task.fields[said]}")]
    token = _busy.set(True)
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, said="")
            waiting, bad, shown = 0, 0, 0.0

            def advance(done: int, failed: int = 0) -> None:
                nonlocal waiting, bad, shown
                waiting, bad = waiting + done, bad + failed
                # Thousands of small steps a second are not worth a look each.
                if time.monotonic() - shown > _SECONDS:
                    show()

            def show() -> None:
                nonlocal waiting, shown
                said = ([f"{bad:,} failed"] if bad else []) + [one for one in [status()] if one]
                bar.update(task, advance=waiting, said=", ".join(said))
                waiting, shown = 0, time.monotonic()

            try:
                yield advance
            finally:
                show()
    finally:
        _busy.reset(token)
