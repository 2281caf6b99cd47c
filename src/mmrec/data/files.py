"""Containers: JSON lines, JSON, CSV and Parquet as one stream of numbered rows; a bad row costs itself."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mmrec.errors import DataError

__all__ = ["SUFFIXES", "Record", "read_records"]

_TEXTS = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES = (*_TEXTS, *(f"{suffix}.gz" for suffix in _TEXTS), ".parquet")
"""Names that a data file may end in, in any case."""

MAX_LINE = 16 * 2**20
"""Bytes of one line of text; a longer one is refused, so that no line can fill the memory."""

MAX_RECORD_LINES = 1000
"""Lines of one CSV record; past this, an opened quote counts as never closed."""

_BOM = b"\xef\xbb\xbf"
_SPLITS = ("train", "val", "test")
_DOCUMENT = re.compile(rb'\s*(\[|\{\s*"(train|val|test)"\s*:\s*\[)')
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class Record(NamedTuple):
    """One row of a file.

    Attributes:
        line: 1-based; of text lines the line where the row starts, else the row's number.
        content: the row's columns, or the reason why it cannot be read.
        raw: the row as the file spells it; empty where the container has no lines.
    """

    line: int
    content: dict[str, Any] | str
    raw: str = ""


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file in its order; blank lines are no rows.

    Raises:
        DataError: the file is absent, no regular file, of an unknown suffix, or broken as a whole.
    """
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise DataError(f"{path}: not a file; name the file itself, one of {', '.join(SUFFIXES)}")
    if suffix is None:
        raise DataError(
            f"{path}: unknown kind of file; its name must end in one of {', '.join(SUFFIXES)}"
        )
    try:
        yield from _container(path, suffix.removesuffix(".gz"))(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = f"the gzip data is cut off or damaged ({error}); fetch or write the file again"
        raise DataError(f"{path}: {reason}") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error}); check the file and its permissions"
        ) from error


def _container(path: Path, suffix: str) -> Callable[[Path], Iterator[Record]]:
    if suffix == ".json":
        with _opened(path) as handle:
            if _DOCUMENT.match(handle.read(2**16).removeprefix(_BOM)):
                return _document
    return {".parquet": _parquet, ".csv": _csv}.get(suffix, _json_lines)


def _opened(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _lines(handle: BufferedIOBase) -> Iterator[Record]:
    """Yield lines as they are spelt, not parsed yet; the content of one that cannot be read says why."""
    for number in count(1):
        line = handle.readline(MAX_LINE)
        if not line:
            return
        if number == 1:
            line = line.removeprefix(_BOM)
        problem = ""
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            problem = f"line is longer than {MAX_LINE} bytes"
            line = line[:1000]
            while (rest := handle.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            problem = (
                problem or f"not UTF-8: byte {line[error.start]:#04x} at position {error.start}"
            )
            text = line.decode(errors="backslashreplace")
        yield Record(number, problem or {}, text)


def _json_lines(path: Path) -> Iterator[Record]:
    with _opened(path) as handle:
        for line in _lines(handle):
            if line.content:
                yield line
            elif line.raw.strip():
                yield Record(line.line, _parsed(line.raw), line.raw)


def _parsed(text: str) -> dict[str, Any] | str:
    try:
        return _object(json.loads(text))
    except json.JSONDecodeError as error:
        return f"broken JSON: {error.msg} at position {error.pos}"
    except ValueError:
        return "broken JSON: a number has too many digits"
    except RecursionError:
        return "broken JSON: nested too deeply"


def _object(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"not an object: {type(value).__name__}"


def _document(path: Path) -> Iterator[Record]:
    with _opened(path) as handle:
        data = handle.read().removeprefix(_BOM)
    # Bytes that are not UTF-8 survive as lone surrogates, so that they cost their row and not the file.
    text = data.decode(errors="surrogateescape")
    spoilt = _ESCAPED_BYTE.search(text) is not None
    del data
    try:
        document = json.loads(text, parse_int=_int)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {error.lineno}: broken JSON ({error.msg}); write it again"
        ) from error
    except RecursionError as error:
        raise DataError(
            f"{path}: JSON nested too deeply; write one object a line (.jsonl)"
        ) from error
    lists = [document]
    if isinstance(document, dict):
        lists = [document[name] for name in _SPLITS if name in document]
    if not all(isinstance(rows, list) for rows in lists):
        raise DataError(f"{path}: of train, val and test each must be a list of reviews")
    for number, value in enumerate(chain.from_iterable(lists), start=1):
        if spoilt and _ESCAPED_BYTE.search(json.dumps(value, ensure_ascii=False)):
            yield Record(number, "not UTF-8: bytes that are no text")
        else:
            yield Record(number, _object(value))


def _int(digits: str) -> float:
    try:
        return int(digits)
    except (
        ValueError
    ):  # Python refuses more than 4,300 digits; infinity fails every later check of a row
        return float(digits)


def _parquet(path: Path) -> Iterator[Record]:
    # Polars 2.1 may abort the process on forged Parquet sizes, which nothing here can catch: a Parquet file
    # is to come from a source that one trusts, the text containers from anywhere.
    try:
        with path.open("rb") as handle:  # not by its path, which may hold `*` or `[`
            table = pl.read_parquet(handle)
        for number, row in enumerate(table.iter_rows(named=True), start=1):
            yield Record(number, row)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{path}: not a readable Parquet file ({reason}); write it again"
        ) from error


def _csv(path: Path) -> Iterator[Record]:
    # The module's limit on a cell would refuse long texts, which are to be cut; it is global, so put back.
    limit = csv.field_size_limit(MAX_LINE)
    try:
        with _opened(path) as handle:
            rows = _csv_rows(_lines(handle))
            header = next((_header(path, *row) for row in rows), [])
            for row, cells in rows:
                if row.content:
                    yield row
                elif len(cells) != len(header):
                    reason = (
                        f"wrong number of cells: {len(cells)}, and the header has {len(header)}"
                    )
                    yield row._replace(content=reason)
                else:
                    yield Record(row.line, dict(zip(header, cells, strict=True)), row.raw)
    finally:
        csv.field_size_limit(limit)


def _header(path: Path, row: Record, cells: list[str]) -> list[str]:
    if row.content:
        raise DataError(
            f"{path}: line {row.line}: the header cannot be read ({row.content}); write the file as UTF-8 CSV"
        )
    header = [cell.strip() for cell in cells]
    if len(set(header)) < len(header):
        raise DataError(
            f"{path}: line {row.line}: the header names a column twice; rename one of them"
        )
    return header


def _csv_rows(lines: Iterator[Record]) -> Iterator[tuple[Record, list[str]]]:
    """Yield every record, the header too, as it is spelt, and its cells; its content says what is wrong.

    A record that cannot be parsed costs its first line only: reading goes on at the line after it, since
    a quote that is never closed would else swallow the rest of the file.
    """
    waiting = deque(islice(lines, 1))
    delimiter = max(",;\t", key=waiting[0].raw.count) if waiting else ","
    while True:
        taken: list[Record] = []
        try:
            cells = next(
                csv.reader(_feed(waiting, lines, taken), delimiter=delimiter, strict=True), None
            )
        except csv.Error as error:
            waiting.extendleft(reversed(taken[1:]))
            yield taken[0]._replace(content=f"broken CSV: {error}"), []
            continue
        if cells is None:
            return
        if cells:
            problem = next((line.content for line in taken if line.content), {})
            yield Record(taken[0].line, problem, "".join(line.raw for line in taken)), cells


def _feed(waiting: deque[Record], lines: Iterator[Record], taken: list[Record]) -> Iterator[str]:
    while len(taken) < MAX_RECORD_LINES:
        line = waiting.popleft() if waiting else next(lines, None)
        if line is None:
            return
        taken.append(line)
        yield line.raw
