"""Files: rows of JSON lines, JSON, CSV and Parquet as one stream of records; large arrays on disk."""

import csv
import gzip
import json
import math
import os
import re
import tempfile
import zlib
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import DTypeLike

from mmrec.errors import DataError

_MAX_LINE = 16 * 2**20  # bytes; longer lines are refused, lest one fill the memory
_LARGE = 100_000_000  # bytes from which an array is mapped; 10^5 reviews stay in memory


class Record(NamedTuple):
    """One row of a file."""

    line: int  # its first line, or its number from 1
    content: dict[str, Any] | str  # its columns, or why it cannot be read
    raw: str = ""  # as the file spells it; empty where the file has no lines


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file, bad ones too; raises a DataError if it is broken as a whole."""
    name = path.name.lower()
    endings = ".jsonl, .ndjson, .json, .csv, .jsonl.gz, .ndjson.gz, .json.gz, .csv.gz, .parquet"
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise DataError(f"{path}: not a file; name the file itself, one of {endings}")
    if not name.endswith(tuple(endings.split(", "))):
        raise DataError(f"{path}: unknown kind of file; its name must end in {endings}")
    try:
        if name.endswith(".parquet"):
            yield from _read_parquet(path)
        elif name.endswith((".csv", ".csv.gz")):
            yield from _read_csv(path)
        elif name.endswith((".json", ".json.gz")):
            with _open(path) as handle:
                head = handle.read(2**16).removeprefix(BOM_UTF8)
            # One list, or Kaggle's object of lists; else it holds JSON lines.
            is_document = re.match(rb'\s*(\[|\{\s*"(train|val|test)"\s*:\s*\[)', head)
            yield from _read_json_document(path) if is_document else _read_json_lines(path)
        else:
            yield from _read_json_lines(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = f"the gzip data is cut off or damaged ({error})"
        raise DataError(f"{path}: {reason}; fetch or write the file again") from error
    except OSError as error:
        reason = f"cannot be read ({error}); check the file and its permissions"
        raise DataError(f"{path}: {reason}") from error


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _read_lines(path: Path) -> Iterator[Record]:
    """Yield lines as they are spelt; the content is "" or the reason why a line cannot be read."""
    with _open(path) as handle:
        for number in count(1):
            line = handle.readline(_MAX_LINE)
            if not line:
                return
            problem = ""
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                problem = f"line is longer than {_MAX_LINE} bytes"
                line = line[:1000]
                while (rest := handle.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                byte = f"{line[error.start]:#04x}"
                problem = problem or f"not UTF-8: byte {byte} at position {error.start}"
                text = line.decode(errors="backslashreplace")
            yield Record(number, problem, text)


def _read_json_lines(path: Path) -> Iterator[Record]:
    for number, content, raw in _read_lines(path):
        if not content:
            if not raw.strip():
                continue
            try:
                content = _check_object(json.loads(raw))
            except json.JSONDecodeError as error:
                content = f"broken JSON: {error.msg} at position {error.pos}"
            except ValueError:
                content = "broken JSON: a number has too many digits"
            except RecursionError:
                content = "broken JSON: nested too deeply"
        yield Record(number, content, raw)


def _check_object(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"not an object: {type(value).__name__}"


def _read_json_document(path: Path) -> Iterator[Record]:
    def parse_int(digits: str) -> float:
        # Python refuses thousands of digits, for which no rating and no id has room.
        return int(digits) if len(digits) < 600 else float(digits)

    with _open(path) as handle:
        # Bytes that are not UTF-8 become lone surrogates, so that they cost their row only.
        text = handle.read().removeprefix(BOM_UTF8).decode(errors="surrogateescape")
    not_utf8 = re.compile("[\udc80-\udcff]")
    damaged = not_utf8.search(text) is not None
    try:
        document = json.loads(text, parse_int=parse_int)
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}: broken JSON ({error.msg})"
        raise DataError(f"{path}: {reason}; write it again") from error
    except RecursionError as error:
        mend = "write one object a line (.jsonl)"
        raise DataError(f"{path}: JSON nested too deeply; {mend}") from error
    if isinstance(document, dict):
        lists = [document.get(name, []) for name in ("train", "val", "test")]
        if not all(isinstance(rows, list) for rows in lists):
            raise DataError(f"{path}: of train, val and test each must be a list of reviews")
        document = chain.from_iterable(lists)
    for number, row in enumerate(document, start=1):
        if damaged and not_utf8.search(json.dumps(row, ensure_ascii=False)):
            yield Record(number, "not UTF-8: bytes that are no text")
        else:
            yield Record(number, _check_object(row))


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
        message = f"{path}: not a readable Parquet file ({reason}); write it again"
        raise DataError(message) from error


def _read_csv(path: Path) -> Iterator[Record]:
    # The module's limit on a cell would refuse long texts; it is global, so it is put back.
    limit = csv.field_size_limit(_MAX_LINE)
    try:
        records = _csv_records(_read_lines(path))
        first, header = next(records, (Record(1, ""), []))
        header = [cell.strip() for cell in header]
        if first.content or len(set(header)) < len(header):
            reason = "the header names a column twice; rename one of them"
            if first.content:
                reason = f"the header cannot be read ({first.content}); write it as UTF-8 CSV"
            raise DataError(f"{path}: line {first.line}: {reason}")
        for record, cells in records:
            content = record.content
            if not content and len(cells) != len(header):
                counts = f"{len(cells)}, and the header has {len(header)}"
                content = f"wrong number of cells: {counts}"
            yield record._replace(content=content or dict(zip(header, cells, strict=True)))
    finally:
        csv.field_size_limit(limit)


def _csv_records(lines: Iterator[Record]) -> Iterator[tuple[Record, list[str]]]:
    """Yield each record, the header too, with its cells; its content is "" or what is wrong."""
    unread = deque(islice(lines, 1))  # lines to read again, before the stream goes on
    delimiter = max(",;\t", key=unread[0].raw.count) if unread else ","
    read: list[Record] = []  # lines of the record at hand

    def next_lines() -> Iterator[str]:
        while len(read) < 1000:  # after so many lines, a quote counts as never closed
            line = unread.popleft() if unread else next(lines, None)
            if line is None:
                return
            read.append(line)
            yield line.raw

    while True:
        read.clear()
        try:
            cells = next(csv.reader(next_lines(), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            # An unclosed quote costs its own line only.
            unread.extendleft(reversed(read[1:]))
            yield read[0]._replace(content=f"broken CSV: {error}"), []
            continue
        if cells is None:
            return
        if cells:
            problem = next((line.content for line in read if line.content), "")
            yield Record(read[0].line, problem, "".join(line.raw for line in read)), cells


def parse_list(text: str) -> list[Any] | None:
    """Return the list that a text spells, in JSON or as pandas writes it; None if it spells none."""
    if text.lstrip().startswith("["):
        for spelling in (text, text.replace("'", '"')):
            try:
                return list(json.loads(spelling))
            except (ValueError, RecursionError):
                continue
    return None


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return zeros; a large array is mapped to a nameless file in `TMPDIR`, or raises a DataError."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.zeros(shape, dtype=dtype)
    try:
        with tempfile.TemporaryFile(prefix="mmrec") as file:
            # Without this, a full disk would be noticed on writing, where it kills the process.
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, size)
            return np.asarray(np.memmap(file, dtype, "w+", shape=shape))
    except OSError as error:
        need = f"{size / 1e9:.1f} GB of features ({error.strerror})"
        mend = "set TMPDIR to a folder on a disk that has"
        raise DataError(f"{tempfile.gettempdir()} has no room for {need}; {mend}") from error


def to_float32(values: np.ndarray) -> np.ndarray:
    """Return float32 of float16, ten times as fast as NumPy; an array of another type as it is."""
    import torch  # takes seconds, and reading files needs none

    return torch.from_numpy(values).float().numpy() if values.dtype == np.float16 else values


def to_float16(values: np.ndarray) -> np.ndarray:
    """Return float16 of any floats."""
    import torch

    return torch.from_numpy(values).half().numpy()
