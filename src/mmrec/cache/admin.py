"""What a store holds: counted, written to a file, read from one, thrown away."""

from __future__ import annotations

import base64
import gzip
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mmrec.cache.store import Store
from mmrec.errors import ConfigError, DataError, ModelError

__all__ = ["ImportCounts", "Selection", "export", "import_", "prune", "stats"]

_CHOSEN = """
maker IN (
    SELECT id FROM makers WHERE coalesce(json_extract(maker, '$.kind') = :kind, :kind IS NULL)
    AND coalesce(json_extract(maker, '$.model') = :model, :model IS NULL)
) AND coalesce(made < :before, TRUE)
"""
_SUMS = ("results", "failed", "bytes", "input", "output")
_TEXT = "CAST(value AS TEXT)"
_INPUT, _OUTPUT = (
    f"CASE WHEN json_valid({_TEXT}) THEN CAST(json_extract({_TEXT}, '$.usage.{name}') AS INTEGER) END"
    for name in ("input", "output")
)
# Results of the first version of the store were made at 0, that is, nobody knows when.
_STATS = f"""
SELECT json_extract(makers.maker, '$.kind') AS kind, json_extract(makers.maker, '$.model') AS model,
    {", ".join(f"CAST(total({name}) AS INTEGER) AS {name}" for name in _SUMS)},
    date(min(nullif(made, 0)), 'unixepoch') AS oldest
FROM (
    SELECT maker, made, 1 AS results, 0 AS failed, length(value) AS bytes, {_INPUT} AS input,
        {_OUTPUT} AS output FROM results WHERE {_CHOSEN} AND NOT :failures
    UNION ALL SELECT maker, made, 0, 1, 0, 0, 0 FROM failures WHERE {_CHOSEN}
) AS one JOIN makers ON id = one.maker GROUP BY 1, 2 ORDER BY 1, 2
"""
_EXPORT = f"""
SELECT key, (SELECT makers.maker FROM makers WHERE id = results.maker), value, made
FROM results WHERE {_CHOSEN} ORDER BY key
"""


class Selection(NamedTuple):
    """Some of what is in a store; None is any.

    Attributes:
        kind: of results, as `note`.
        model: that made them, as its maker names it.
        before: seconds since 1970; what was made earlier.
        failures: only what failed.
    """

    kind: str | None = None
    model: str | None = None
    before: float | None = None
    failures: bool = False


class _Line(BaseModel):
    model_config = ConfigDict(strict=True)

    key: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    maker: dict[str, JsonValue]
    value: str
    base64: bool = False
    made: Annotated[int, Field(ge=0, lt=2**40)]


@dataclass
class ImportCounts:
    """How many lines were new, known already and refused, and why the first of the last."""

    new: int = 0
    present: int = 0
    refused: int = 0
    reason: str = ""


def stats(store: Store, selection: Selection) -> list[dict[str, Any]]:
    """Results and failures by kind and model: their numbers, bytes, tokens paid, oldest day."""
    with store.translate_errors():
        rows = store.db.execute(_STATS, selection._asdict())
        names = [name for name, *_ in rows.description]
        return [dict(zip(names, row, strict=True)) for row in rows]


def export(store: Store, path: Path, selection: Selection) -> int:
    """Write results as lines of JSON, in the order of their keys; the file is there when it is whole.

    Returns:
        The number of results.

    Raises:
        DataError: the file cannot be written.
    """
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"{path}: name a file that ends in .jsonl or .jsonl.gz")
    part = path.with_name(f".{path.name}.part")
    written = 0
    try:
        with gzip.open(part, "wb") if path.suffix == ".gz" else part.open("wb") as file:
            for line in _lines(store, selection):
                file.write(line)
                written += 1
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; see that there is room") from error
    finally:
        with suppress(OSError):
            part.unlink()
    return written


def import_(store: Store, path: Path) -> ImportCounts:
    """Add the lines of a file that `export` wrote; a store keeps what it has, and a bad line costs itself.

    No value can be checked against its key, so that a file is to be trusted like the one who made it.

    Raises:
        DataError: the file is absent or damaged.
    """
    from mmrec.data.files import read_records  # Takes long to import, and is needed here only.

    done = ImportCounts()
    with store.translate_errors(), store.db:
        for line, content, raw in read_records(path):
            try:
                new = _add(store.db, content, raw)
            except ValueError as error:
                done.refused += 1
                done.reason = done.reason or f"line {line}: {_reason(error)}"
                continue
            done.new += new
            done.present += not new
            if (done.new + done.present) % 1000 == 0:
                store.db.commit()  # Others may want to write too.
    return done


def prune(store: Store, selection: Selection) -> None:
    """Delete results and failures for good.

    Raises:
        ModelError: another process works for this store.
    """
    with store.translate_errors():
        with store.db:
            store.db.execute("BEGIN IMMEDIATE")
            if living := store.claims.living():
                raise ModelError(
                    f"{store.path}: other processes make {living:,} results; wait for them"
                )
            for table in ("failures",) if selection.failures else ("results", "failures"):
                store.db.execute(f"DELETE FROM {table} WHERE {_CHOSEN}", selection._asdict())
        store.db.execute("VACUUM")


def _lines(store: Store, choice: Selection) -> Iterator[bytes]:
    with store.translate_errors():
        for key, maker, value, made in store.db.execute(_EXPORT, choice._asdict()):
            line = {"key": key.hex(), "maker": json.loads(maker), "made": made}
            try:
                line["value"] = value.decode()
            except UnicodeDecodeError:
                line |= {"value": base64.b64encode(value).decode(), "base64": True}
            yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _add(db: sqlite3.Connection, content: object, raw: str) -> bool:
    """Store a line's result; whether it was new."""
    if isinstance(content, str):
        raise ValueError(content)
    one = _Line.model_validate_json(raw)  # Stricter than what Python takes for JSON.
    if not isinstance(one.maker.get("kind"), str):
        raise ValueError("maker: its kind is no text")
    key, maker = bytes.fromhex(one.key), json.dumps(one.maker, sort_keys=True, allow_nan=False)
    value = base64.b64decode(one.value, validate=True) if one.base64 else one.value.encode()
    db.execute("INSERT OR IGNORE INTO makers (maker) VALUES (?)", (maker,))
    insert = "INSERT OR IGNORE INTO results SELECT ?, id, ?, ? FROM makers WHERE maker = ?"
    new = db.execute(insert, (key, value, one.made, maker)).rowcount == 1
    db.execute("DELETE FROM failures WHERE key = ?", (key,))
    return new


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join([*map(str, first["loc"]), first["msg"]])
