"""What a store holds: counted, written to a file, read from a file, deleted."""

import base64
import gzip
import json
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, JsonValue, ValidationError

from mmrec.cache.store import Store
from mmrec.errors import ConfigError, DataError, StoreError

# A condition on results or failures, with the fields of a selection as parameters.
_SELECTED = """
provenance IN (
    SELECT id FROM provenances
    WHERE coalesce(json_extract(content, '$.kind') = :kind, :kind IS NULL)
    AND coalesce(json_extract(content, '$.model') = :model, :model IS NULL)
) AND coalesce(created < :before, TRUE)
"""


class Selection(NamedTuple):
    """Which results of a store are meant; None stands for any."""

    kind: str | None = None
    model: str | None = None
    before: float | None = None  # seconds since 1970
    failures: bool = False  # only failures


def _moment(clock: object) -> int:
    """Seconds since 1970 as SQLite holds them, whenever that is; 0 (of unknown age) if it is no moment."""
    try:
        if isinstance(clock, str):
            moment = datetime.fromisoformat(clock)
            clock = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        seconds = int(clock) if isinstance(clock, int | float) else 0
    except (OverflowError, ValueError):  # NaN, and what is no number
        return 0
    return seconds if -(2**63) <= seconds < 2**63 else 0


class _ExportedResult(BaseModel, strict=True):
    key: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    provenance: dict[str, JsonValue]
    value: str
    base64: bool = False
    created: Annotated[int, BeforeValidator(_moment)] = 0  # what a clock said costs no answer


@dataclass
class ImportCounts:
    """Lines that were new, present already or refused, and why the first one was refused."""

    new: int = 0
    present: int = 0
    refused: int = 0
    reason: str = ""


def stats(store: Store, selection: Selection) -> list[dict[str, Any]]:
    """Results and failures by kind and model: numbers, bytes, tokens, day of the oldest result."""
    # Values are bytes of any kind; answers of language models are JSON with the tokens used.
    text = "CAST(value AS TEXT)"
    tokens = f"CASE WHEN json_valid({text}) THEN json_extract({text}, '$.usage.%s') END"
    columns = ("results", "failed", "bytes", "input", "output")
    # `total` instead of `sum`, which overflows on odd values.
    sums = ", ".join(f"CAST(total({column}) AS INTEGER)" for column in columns)
    query = f"""
    SELECT json_extract(content, '$.kind'), json_extract(content, '$.model'),
        {sums}, date(min(created), 'unixepoch')
    FROM (
        SELECT provenance, created, 1 AS results, 0 AS failed, length(value) AS bytes,
            CAST({tokens % "input"} AS INTEGER) AS input,
            CAST({tokens % "output"} AS INTEGER) AS output
        FROM results WHERE {_SELECTED} AND NOT :failures
        UNION ALL SELECT provenance, created, 0, 1, 0, 0, 0
        FROM failures WHERE {_SELECTED}
    ) AS entries JOIN provenances ON id = entries.provenance GROUP BY 1, 2 ORDER BY 1, 2
    """
    names = ("kind", "model", *columns, "oldest")
    rows = store.select(query, selection._asdict())
    return [dict(zip(names, row, strict=True)) for row in rows]


def export(store: Store, path: Path, selection: Selection) -> int:
    """Write results as lines of JSON, ordered by key; return their number, or raise a DataError."""
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"{path}: name a file that ends in .jsonl or .jsonl.gz")
    content = "(SELECT content FROM provenances WHERE id = results.provenance)"
    query = f"SELECT key, {content}, value, created FROM results WHERE {_SELECTED} ORDER BY key"
    temporary = path.with_name(f".{path.name}.part")  # on the same disk, to be renamed
    written, zipped = 0, path.suffix == ".gz"
    try:
        with gzip.open(temporary, "wb") if zipped else temporary.open("wb") as file:
            for key, provenance, value, created in store.select(query, selection._asdict()):
                line = {
                    "key": key.hex(),
                    "provenance": json.loads(provenance),
                    "created": _moment(created),
                }
                try:
                    line["value"] = value.decode()  # readable where it is text
                except UnicodeDecodeError:
                    line |= {"value": base64.b64encode(value).decode(), "base64": True}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                written += 1
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; see that there is room") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return written


def import_(store: Store, path: Path) -> ImportCounts:
    """Add the results of an exported file, of a trusted author, that the store lacks."""
    from mmrec.data.files import read_records  # takes long to import

    counts = ImportCounts()
    with store.transaction() as db:
        for number, content, raw in read_records(path):
            try:
                if isinstance(content, str):
                    raise ValueError(content)
                line = _ExportedResult.model_validate_json(raw)
                if not isinstance(line.provenance.get("kind"), str):
                    raise ValueError("provenance: its kind is no text")
                key, value = bytes.fromhex(line.key), line.value.encode()
                if line.base64:
                    value = base64.b64decode(line.value, validate=True)
                new = store.insert(dict(line.provenance), [(key, value)], line.created)
            except ValueError as error:
                reason = str(error)
                if isinstance(error, ValidationError):
                    first = error.errors(include_url=False, include_input=False)[0]
                    reason = ": ".join([*map(str, first["loc"]), first["msg"]])
                counts.refused += 1  # a bad line costs only itself
                counts.reason = counts.reason or f"line {number}: {reason}"
                continue
            counts.new += new
            counts.present += 1 - new
            if (counts.new + counts.present) % 1000 == 0:
                db.commit()  # so that other processes can write in between
    return counts


def prune(store: Store, selection: Selection) -> None:
    """Delete results and failures for good; a StoreError if another process computes such results."""
    with ExitStack() as locks:
        for kind in store.counts():
            if not locks.enter_context(store.lock(kind, max_wait=0)):
                raise StoreError(f"{store.path}: another process computes: {kind}; wait for it")
        with store.transaction() as db:
            for table in ("failures",) if selection.failures else ("results", "failures"):
                db.execute(f"DELETE FROM {table} WHERE {_SELECTED}", selection._asdict())
    with store.translate_errors():
        store.db.execute("VACUUM")
