"""`mmrec store`: count, export, import and delete stored results of slow or paid calls."""

import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from mmrec.cache import admin
from mmrec.cache.admin import Selection
from mmrec.cache.store import Store, default_store_path
from mmrec.cli.options import AsJson, StorePath, print_json, print_table, stdout
from mmrec.errors import ConfigError, DataError

store_app = App(name="store", help="Manage stored results of slow or paid calls.")

Kind = Annotated[str | None, Parameter(help="Only this kind (see `mmrec store stats`).")]
OfModel = Annotated[str | None, Parameter(help="Only results of this model.")]
Flag = Annotated[bool, Parameter(negative=())]


@store_app.command
def stats(*, store: StorePath = None, json: AsJson = False) -> None:
    """Show the number and size of results and failures, and the tokens that they cost."""
    path = _existing(store)
    with closing(Store(path)) as db:
        holdings = admin.stats(db, Selection())
    size = path.stat().st_size
    result = {"store": path, "bytes": size, "holdings": holdings}
    _print(result, json, f"{path}: {size:,} bytes")


@store_app.command
def export(
    file: Path,
    /,
    *,
    kind: Kind = None,
    model: OfModel = None,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """Write results to a file of JSON lines, for `mmrec store import` on another machine.

    Args:
        file: results.jsonl or results.jsonl.gz.
    """
    path = _existing(store)
    with closing(Store(path)) as db:
        count = admin.export(db, file, Selection(kind, model))
    _print({"store": path, "file": file, "results": count}, json, f"{count:,} results: {file}")


@store_app.command(name="import")
def import_(file: Path, /, *, store: StorePath = None, json: AsJson = False) -> None:
    """Add the results of `mmrec store export` that the store lacks.

    Answers cannot be verified, so import only files that you trust.
    """
    path = store or default_store_path()
    with closing(Store(path)) as db:
        counts = admin.import_(db, file)
    text = f"{counts.new:,} new, {counts.present:,} present before, {counts.refused:,} refused"
    text = f"{text}; {counts.reason}".rstrip("; ")
    _print({"store": path, "file": file, **asdict(counts)}, json, text)


@store_app.command
def prune(
    *,
    kind: Kind = None,
    model: OfModel = None,
    older_than: int | None = None,
    failures: Flag = False,
    yes: Flag = False,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """Delete results for good; without --yes, only show what would be deleted.

    Args:
        older_than: only results that are older than this many days, or of unknown age.
        failures: only failures, so that the calls are tried again.
        yes: delete.
    """
    before = None if older_than is None else time.time() - older_than * 86400
    selection = Selection(kind, model, before, failures)
    # Without a flag the command must not empty the store.
    if selection == Selection():
        raise ConfigError("select what to delete: --kind, --model, --older-than or --failures")
    path = _existing(store)
    with closing(Store(path)) as db:
        holdings = admin.stats(db, selection)
        if yes:
            admin.prune(db, selection)
    count = sum(row["results"] + row["failed"] for row in holdings)
    outcome = "deleted" if yes else "would be deleted; --yes deletes them for good"
    result = {"store": path, "deleted": yes, "holdings": holdings}
    _print(result, json, f"{count:,} results and failures {outcome}")


def _existing(path: Path | None) -> Path:
    path = path or default_store_path()
    # Opening a store creates it, which only commands that write to it should do.
    if not path.is_file():
        raise DataError(f"{path}: there is no store; name one with --store")
    return path


def _print(result: dict[str, Any], json: bool, text: str) -> None:
    """Print a result as JSON, or as a text with a table of its holdings."""
    if json:
        print_json(result)
        return
    stdout.print(text, markup=False, soft_wrap=True)
    if holdings := result.get("holdings"):
        # Kinds and models are words; numbers and the day of the oldest result follow.
        print_table([*holdings[0]], [[*row.values()] for row in holdings], words=(0, 1))
