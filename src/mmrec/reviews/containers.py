"""Containers: JSON lines, JSON, CSV and Parquet as one stream of numbered rows; a bad row costs itself."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mmrec.errors import DataError

__all__ = ["SUFFIXES", "Record", "records"]

SUFFIXES = (
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".jsonl.gz",
    ".ndjson.gz",
    ".json.gz",
    ".csv.gz",
    ".parquet",
)
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


class _Line(NamedTuple):
    number: int
    text: str
    problem: str


def records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file in its order; blank lines are no rows.

    Raises:
        DataError: the file is absent, no regular file, of an unknown suffix, or broken as a whole.
    """
    name = path.name.lower()
    suffix = max((s for s in SUFFIXES if name.endswith(s)), key=len, default=None)
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise DataError(f"{path}: not a file; name the file itself, one of {', '.join(SUFFIXES)}")
    if suffix is None:
        raise DataError(f"{path}: unknown kind of file; its name must end in one of {', '.join(SUFFIXES)}")
    return _rows(path, suffix.removesuffix(".gz"))


def _rows(path: Path, suffix: str) -> Iterator[Record]:
    try:
        yield from _container(path, suffix)(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = f"the gzip data is cut off or damaged ({error}); fetch or write the file again"
        raise DataError(f"{path}: {reason}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file and its permissions") from error


def _container(path: Path, suffix: str) -> Callable[[Path], Iterator[Record]]:
    if suffix == ".parquet":
        return _parquet
    if suffix == ".csv":
        return _csv
    if suffix == ".json":
        with _opened(path) as handle:
            if _DOCUMENT.match(handle.read(2**16).removeprefix(_BOM)):
                return _document
    return _json_lines


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as handle:
        yield handle


def _lines(handle: BufferedIOBase) -> Iterator[_Line]:
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
            problem = problem or f"not UTF-8: byte {line[error.start]:#04x} at position {error.start}"
            text = line.decode(errors="backslashreplace")
        yield _Line(number, text, problem)


def _json_lines(path: Path) -> Iterator[Record]:
    with _opened(path) as handle:
        for line in _lines(handle):
            if line.problem:
                yield Record(line.number, line.problem, line.text)
            elif line.text.strip():
                yield Record(line.number, _parsed(line.text), line.text)


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
        raise DataError(f"{path}: line {error.lineno}: broken JSON ({error.msg}); write it again") from error
    except RecursionError as error:
        raise DataError(f"{path}: JSON nested too deeply; write one object a line (.jsonl)") from error
    for number, value in enumerate(_document_rows(path, document), start=1):
        if spoilt and _ESCAPED_BYTE.search(json.dumps(value, ensure_ascii=False)):
            yield Record(number, "not UTF-8: bytes that are no text")
        else:
            yield Record(number, _object(value))


def _int(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:  # Python refuses more than 4,300 digits; infinity fails every later check of a row
        return float(digits)


def _document_rows(path: Path, document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    lists = [document[name] for name in _SPLITS if name in document]
    if not all(isinstance(rows, list) for rows in lists):
        raise DataError(f"{path}: of train, val and test each must be a list of reviews")
    return [row for rows in lists for row in rows]


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
        raise DataError(f"{path}: not a readable Parquet file ({reason}); write it again") from error


def _csv(path: Path) -> Iterator[Record]:
    # The module's limit on a cell would refuse long texts, which are to be cut; it is global, so put back.
    limit = csv.field_size_limit(MAX_LINE)
    try:
        with _opened(path) as handle:
            rows = _csv_rows(_lines(handle))
            header = _csv_header(path, next(rows, None))
            for line, cells, raw in rows:
                if isinstance(cells, str):
                    yield Record(line, cells, raw)
                elif len(cells) != len(header):
                    reason = f"wrong number of cells: {len(cells)}, and the header has {len(header)}"
                    yield Record(line, reason, raw)
                else:
                    yield Record(line, dict(zip(header, cells, strict=True)), raw)
    finally:
        csv.field_size_limit(limit)


def _csv_header(path: Path, first: tuple[int, list[str] | str, str] | None) -> list[str]:
    if first is None:
        return []
    line, cells, _ = first
    if isinstance(cells, str):
        raise DataError(
            f"{path}: line {line}: the header cannot be read ({cells}); write the file as UTF-8 CSV"
        )
    header = [cell.strip() for cell in cells]
    if len(set(header)) < len(header):
        raise DataError(f"{path}: line {line}: the header names a column twice; rename one of them")
    return header


def _csv_rows(lines: Iterator[_Line]) -> Iterator[tuple[int, list[str] | str, str]]:
    """Yield (line, cells or reason, raw) of every record, the header too.

    A record that cannot be parsed costs its first line only: reading goes on at the line after it, since
    a quote that is never closed would else swallow the rest of the file.
    """
    first = next(lines, None)
    waiting = deque([first] if first else [])
    delimiter = max(",;\t", key=first.text.count) if first else ","
    while True:
        taken: list[_Line] = []
        try:
            cells = next(csv.reader(_feed(waiting, lines, taken), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            waiting.extendleft(reversed(taken[1:]))
            yield taken[0].number, f"broken CSV: {error}", taken[0].text
            continue
        if cells is None:
            return
        if cells:
            raw = "".join(line.text for line in taken)
            problem = next((line.problem for line in taken if line.problem), "")
            yield taken[0].number, problem or cells, raw


def _feed(waiting: deque[_Line], lines: Iterator[_Line], taken: list[_Line]) -> Iterator[str]:
    while len(taken) < MAX_RECORD_LINES:
        line = waiting.popleft() if waiting else next(lines, None)
        if line is None:
            return
        taken.append(line)
        yield line.text
