"""JSON lines, JSON, CSV and Parquet as one stream of numbered rows; a bad row costs only itself."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mmrec.errors import DataError

__all__ = ["SUFFIXES", "Record", "read_records"]

_TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet")
"""Endings of names of data files, in any case."""

MAX_LINE = 16 * 2**20
"""Bytes of a line of text; a longer one is refused, so that no line can fill the memory."""


class Record(NamedTuple):
    """One row of a file: its first line or its number from 1, and its columns.

    `content` is a text where the row cannot be read, and says why. `raw` is the row as the file
    spells it; empty where the file has no lines.
    """

    line: int
    content: dict[str, Any] | str
    raw: str = ""


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file in its order; blank lines are skipped.

    Raises:
        DataError: the file is absent, no regular file, of an unknown suffix, or broken as a whole.
    """
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    endings = ", ".join(SUFFIXES)
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise DataError(f"{path}: not a file; name the file itself, one of {endings}")
    if not suffix:
        raise DataError(f"{path}: unknown kind of file; its name must end in one of {endings}")
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path)
        elif suffix.startswith(".csv"):
            yield from _read_csv(path)
        elif suffix in (".json", ".json.gz") and _is_document(path):
            yield from _read_json_document(path)
        else:
            yield from _read_json_lines(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = "the gzip data is cut off or damaged"
        raise DataError(f"{path}: {reason} ({error}); fetch or write the file again") from error
    except OSError as error:
        mend = "check the file and its permissions"
        raise DataError(f"{path}: cannot be read ({error}); {mend}") from error


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _read_lines(handle: BufferedIOBase) -> Iterator[Record]:
    """Yield lines as they are spelt; the content is "" or the reason why a line cannot be read."""
    for number in count(1):
        line = handle.readline(MAX_LINE)
        if not line:
            return
        problem = ""
        if number == 1:
            line = line.removeprefix(BOM_UTF8)
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            problem = f"line is longer than {MAX_LINE} bytes"
            line = line[:1000]
            while (rest := handle.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            byte = f"{line[error.start]:#04x}"
            problem = problem or f"not UTF-8: byte {byte} at position {error.start}"
            text = line.decode(errors="backslashreplace")
        yield Record(number, problem, text)


def _read_json_lines(path: Path) -> Iterator[Record]:
    with _open(path) as handle:
        for line in _read_lines(handle):
            if line.content:
                yield line
            elif line.raw.strip():
                yield Record(line.line, _parse_json(line.raw), line.raw)


def _parse_json(text: str) -> dict[str, Any] | str:
    try:
        return _check_object(json.loads(text))
    except json.JSONDecodeError as error:
        return f"broken JSON: {error.msg} at position {error.pos}"
    except ValueError:
        return "broken JSON: a number has too many digits"
    except RecursionError:
        return "broken JSON: nested too deeply"


def _check_object(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"not an object: {type(value).__name__}"


def _is_document(path: Path) -> bool:
    """Tell whether a `.json` file is one list, or Kaggle's object of lists, and not JSON lines."""
    with _open(path) as handle:
        head = handle.read(2**16).removeprefix(BOM_UTF8)
    return re.match(rb'\s*(\[|\{\s*"(train|val|test)"\s*:\s*\[)', head) is not None


def _read_json_document(path: Path) -> Iterator[Record]:
    with _open(path) as handle:
        data = handle.read().removeprefix(BOM_UTF8)
    # Bytes that are not UTF-8 become lone surrogates, so that they cost their row and not the file.
    text = data.decode(errors="surrogateescape")
    not_utf8 = re.compile("[\udc80-\udcff]")
    damaged = not_utf8.search(text) is not None
    del data
    try:
        document = json.loads(text, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}: broken JSON ({error.msg})"
        raise DataError(f"{path}: {reason}; write it again") from error
    except RecursionError as error:
        mend = "write one object a line (.jsonl)"
        raise DataError(f"{path}: JSON nested too deeply; {mend}") from error
    lists = [document]
    if isinstance(document, dict):
        lists = [document[name] for name in ("train", "val", "test") if name in document]
    if not all(isinstance(rows, list) for rows in lists):
        raise DataError(f"{path}: of train, val and test each must be a list of reviews")
    for number, row in enumerate(chain.from_iterable(lists), start=1):
        if damaged and not_utf8.search(json.dumps(row, ensure_ascii=False)):
            yield Record(number, "not UTF-8: bytes that are no text")
        else:
            yield Record(number, _check_object(row))


def _parse_int(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:  # more than 4,300 digits; a rating of infinity is refused
        return float(digits)


def _read_parquet(path: Path) -> Iterator[Record]:
    # Polars 2.1 may abort the process on forged Parquet sizes, which nothing here can catch: a
    # Parquet file must come from a trusted source, text files from anywhere.
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


def _read_csv(path: Path) -> Iterator[Record]:
    # The module's limit on a cell would refuse long texts; it is global, so it is put back.
    limit = csv.field_size_limit(MAX_LINE)
    try:
        with _open(path) as handle:
            header: list[str] | None = None
            for record, cells in _csv_records(_read_lines(handle)):
                if header is None:
                    header = _check_header(path, record, cells)
                elif record.content:
                    yield record
                elif len(cells) != len(header):
                    counts = f"{len(cells)}, and the header has {len(header)}"
                    yield record._replace(content=f"wrong number of cells: {counts}")
                else:
                    yield record._replace(content=dict(zip(header, cells, strict=True)))
    finally:
        csv.field_size_limit(limit)


def _check_header(path: Path, record: Record, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    reason = ""
    if record.content:
        reason = f"the header cannot be read ({record.content}); write the file as UTF-8 CSV"
    elif len(set(header)) < len(header):
        reason = "the header names a column twice; rename one of them"
    if reason:
        raise DataError(f"{path}: line {record.line}: {reason}")
    return header


def _csv_records(lines: Iterator[Record]) -> Iterator[tuple[Record, list[str]]]:
    """Yield each record, the header too, with its cells; its content is "" or what is wrong.

    A record that cannot be parsed costs its first line only: reading goes on at the line after it,
    since a quote that is never closed would swallow the rest of the file.
    """
    first = next(lines, None)
    if first is None:
        return
    delimiter = max(",;\t", key=first.raw.count)
    unread = deque([first])  # lines to read again, before the stream goes on
    while True:
        read: list[Record] = []
        reader = csv.reader(_record_lines(unread, lines, read), delimiter=delimiter, strict=True)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            unread.extendleft(reversed(read[1:]))
            yield read[0]._replace(content=f"broken CSV: {error}"), []
            continue
        if cells is None:
            return
        if cells:
            problems = [line.content for line in read if line.content]
            raw = "".join(line.raw for line in read)
            yield Record(read[0].line, problems[0] if problems else "", raw), cells


def _record_lines(
    unread: deque[Record], lines: Iterator[Record], read: list[Record]
) -> Iterator[str]:
    """Yield the lines of one CSV record, and append them to `read`."""
    # After a thousand lines, a quote counts as never closed.
    while len(read) < 1000:
        line = unread.popleft() if unread else next(lines, None)
        if line is None:
            return
        read.append(line)
        yield line.raw
