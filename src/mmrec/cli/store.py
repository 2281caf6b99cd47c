"""`mmrec store`: what the store of slow and paid results holds; out of it, into it, and away with it."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mmrec.cache import admin
from mmrec.cache.admin import Selection
from mmrec.cache.store import Store, default_store_path
from mmrec.cli.options import AsJson, print_json, stdout
from mmrec.errors import ConfigError, DataError

__all__ = ["store_app"]

store_app = App(
    name="store", help="Look into the store of slow and paid results, copy it, thin it out."
)

StorePath = Annotated[Path | None, Parameter(help="The database; the default one otherwise.")]
Kind = Annotated[
    str | None, Parameter(help="Only results of this kind, as `mmrec store stats` names it.")
]
Model = Annotated[str | None, Parameter(help="Only results of this model.")]
Flag = Annotated[bool, Parameter(negative=())]


@store_app.command
def stats(*, store: StorePath = None, json: AsJson = False) -> None:
    """Say what the store holds: results and failures, their size, and the tokens that were paid for them."""
    path = _existing(store)
    with closing(Store(path)) as db:
        found = admin.stats(db, Selection())
    size = path.stat().st_size
    _print(
        {"store": path, "bytes": size, "holdings": found}, json, f"{path}: {_number(size)} bytes"
    )


@store_app.command
def export(
    file: Path,
    /,
    *,
    kind: Kind = None,
    model: Model = None,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """Write results to a file, one JSON object a line, for another machine's `mmrec store import`.

    Args:
        file: where to, as results.jsonl.gz or results.jsonl.
    """
    path = _existing(store)
    with closing(Store(path)) as db:
        written = admin.export(db, file, Selection(kind, model))
    _print({"store": path, "file": file, "results": written}, json, f"{written:,} results: {file}")


@store_app.command(name="import")
def import_(file: Path, /, *, store: StorePath = None, json: AsJson = False) -> None:
    """Add what `mmrec store export` wrote; what the store has already, it keeps.

    An answer cannot be checked against what was asked: import only from people whom you trust.
    """
    path = store or default_store_path()
    with closing(Store(path)) as db:
        done = admin.import_(db, file)
    said = f"{done.new:,} new, {done.present:,} present already, {done.refused:,} refused"
    _print(
        {"store": path, "file": file, **asdict(done)}, json, f"{said}; {done.reason}".rstrip("; ")
    )


@store_app.command
def prune(
    *,
    kind: Kind = None,
    model: Model = None,
    older_than: int | None = None,
    failures: Flag = False,
    yes: Flag = False,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """Delete results for good; without --yes, only say what would be deleted.

    Args:
        older_than: only what is older than so many days, or of unknown age.
        failures: only what failed, so that it is tried again.
        yes: delete.
    """
    if kind is None and model is None and older_than is None and not failures:
        raise ConfigError("say what to delete: --kind, --model, --older-than or --failures")
    before = None if older_than is None else time.time() - older_than * 86400
    choice = Selection(kind, model, before, failures)
    path = _existing(store)
    with closing(Store(path)) as db:
        found = admin.stats(db, choice)
        if yes:
            admin.prune(db, choice)
    what = f"{sum(row['results'] + row['failed'] for row in found):,} results and failures"
    said = f"{what} deleted" if yes else f"{what} would be deleted; --yes deletes them for good"
    _print({"store": path, "deleted": yes, "holdings": found}, json, said)


def _existing(path: Path | None) -> Path:
    path = path or default_store_path()
    if not path.is_file():
        raise DataError(f"{path}: no store is there; name one with --store")
    return path


def _print(result: dict[str, Any], json: bool, text: str) -> None:
    """Print a result as JSON, or as text and a table of what it holds."""
    if json:
        print_json(result)
        return
    stdout.print(text, markup=False, soft_wrap=True)
    if not (rows := result.get("holdings")):
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for name, value in rows[0].items():
        table.add_column(
            name, justify="right" if isinstance(value, int) else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*[_cell(value) for value in row.values()])
    stdout.print(table)


def _cell(value: object) -> Text:
    if isinstance(value, int):
        return Text(_number(value))
    # Names may come from a file of a stranger, and a terminal obeys what it is shown.
    return Text("".join(letter if letter.isprintable() else "�" for letter in str(value or "")))


def _number(number: int) -> str:
    return f"{number / 1e6:,.1f}M" if number >= 1e6 else f"{number:,}"
