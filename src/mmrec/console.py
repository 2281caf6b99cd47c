"""What people see: progress on standard error, and text from outside, cleaned and escaped."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich import progress
from rich.console import Console
from rich.markup import escape

console = Console(stderr=True, emoji=False)
hides_bars = False  # set where nobody looks on, as in a service
_has_bar: ContextVar[bool] = ContextVar("has_bar", default=False)
# Newline and tab stay. Lone surrogates go: they cannot be encoded as UTF-8.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@contextmanager
def track(title: str, total: int, status: Callable[[], str] = str) -> Iterator[Callable[..., None]]:
    """Show a bar for `total` units of work; the yielded function takes how many are done, and failed.

    The `status` returns more to show, some ten times a second; `str` returns nothing.
    """
    if hides_bars or _has_bar.get():  # work inside of work that has a bar shows none
        yield lambda done, failed=0: None
        return
    columns: list[progress.ProgressColumn] = [progress.TextColumn("{task.description:<18}")]
    wide = console.width > 110
    if status is str or wide:  # where a line is too short for both, the status tells more
        columns.append(progress.BarColumn(bar_width=30 if wide else 12))
    columns += [progress.MofNCompleteColumn(), progress.TextColumn("left")]
    remaining = progress.TimeRemainingColumn(compact=True)
    columns += [remaining, progress.TextColumn("{task.fields[status]}")]
    done, failed, shown = 0, 0, 0.0
    with progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, status="")

        def advance(more_done: int, more_failed: int = 0, *, last: bool = False) -> None:
            nonlocal done, failed, shown
            done, failed = done + more_done, failed + more_failed
            # There may be thousands of steps a second.
            if time.monotonic() - shown > 0.1 or last:
                notes = [f"{failed:,} failed"] if failed else []
                notes.append(status())
                bar.update(task, completed=done, status=", ".join(filter(None, notes)))
                shown = time.monotonic()

        token = _has_bar.set(True)
        try:
            yield advance
        finally:
            _has_bar.reset(token)
            advance(0, last=True)


def print_error(error: Exception) -> None:
    """Print what the user can mend."""
    console.print(f"[bold red]mmrec:[/] {escape(str(error))}", soft_wrap=True, highlight=False)


def remove_control_characters(text: str) -> str:
    """Return text without control characters and lone surrogates; every line ends with a newline."""
    if text.isprintable():  # as most texts are, and much faster than the pattern
        return text
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def single_line(text: str) -> str:
    """Return text with every run of white space replaced by one blank."""
    return " ".join(text.split())


def escape_text(text: str, limit: int = 200) -> str:
    """Return text of at most `limit` characters, unprintable ones escaped, safe for terminals."""
    shown = ""
    for character in text[: limit + 1]:
        if not character.isprintable():
            character = character.encode("unicode_escape").decode("ascii")
        shown += character
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
