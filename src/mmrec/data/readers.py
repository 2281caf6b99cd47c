"""Reading: any supported file in, the canonical `Reviews` and a list of what was refused out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from mmrec.config import ReadConfig
from mmrec.data.columns import (
    LAYOUTS,
    RowError,
    as_captions,
    as_id,
    as_rating,
    as_text,
    as_time,
    choose_columns,
    first_value,
)
from mmrec.data.files import Record, read_records
from mmrec.data.images import check_photos, photo_names
from mmrec.data.schema import ITEM_SCHEMA, REJECT_SCHEMA, REVIEW_SCHEMA, Reviews
from mmrec.errors import DataError, PhotoError
from mmrec.text import escape_text

__all__ = ["read_reviews"]

HEAD_ROWS = 1000
"""First rows whose columns decide the layout, so that one odd first row decides nothing."""

_DEFAULTS = ReadConfig()
_Row = tuple[Any, ...]

log = logging.getLogger(__name__)


def read_reviews(path: Path | str, config: ReadConfig = _DEFAULTS) -> Reviews:
    """Read reviews, and items where `config.items` names their file.

    Args:
        path: JSON lines, JSON, CSV (each also with `.gz`) or Parquet, in a layout of `formats.LAYOUTS`.
        config: layout, columns, folders and limits.

    Returns:
        Reviews in the order of the file. A row that cannot be used is in `rejects` and nowhere else; a
        photo that cannot be used is in `rejects` and missing from its row.

    Raises:
        ConfigError: `config.map` names a column that mmrec does not have.
        DataError: the file as a whole cannot be used, or more than `max_reject_share` of its rows.
    """
    path, column = Path(path), config.captions_column
    if config.photos is not None and not config.photos.is_dir():
        raise DataError(f"{config.photos}: no such folder of photos; check --photos")
    drafts = [
        _reviews(path, config),
        *([_items(config.items, config)] if config.items is not None else []),
    ]
    if column is not None and not any(column in draft.columns for draft in drafts):
        files = "; ".join(
            f"{draft.path} has {escape_text(', '.join(draft.columns), 300)}" for draft in drafts
        )
        raise DataError(f"--captions-column {column}: no such column in the first rows; {files}")
    photos = [
        (name, draft.root) for draft in drafts for _, names, *_ in draft.accepted for name in names
    ]
    checked = check_photos(photos, config.max_pixels)
    table, items, *_ = *(draft.rows(checked) for draft in drafts), []
    rejects = [
        (str(draft.path), *one)
        for draft in drafts
        for one in sorted(draft.rejects, key=itemgetter(0))
    ]
    if remote := sum(draft.remote for draft in drafts):
        log.info("%s: %d photos are URLs and were left out", path, remote)
    return Reviews(
        table=pl.DataFrame(table, schema=REVIEW_SCHEMA, orient="row"),
        items=pl.DataFrame(items, schema=ITEM_SCHEMA, orient="row"),
        rejects=pl.DataFrame(rejects, schema=REJECT_SCHEMA, orient="row"),
        source=str(path),
    )


def _reviews(path: Path, config: ReadConfig) -> _Draft:
    draft = _Draft(path, config)
    names = choose_columns(draft.columns, config, str(path))
    latest = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    ids: set[str] = set()

    def cells(row: dict[str, Any], line: int) -> _Row:
        content = (
            as_id(first_value(row, names["user"]), "user"),
            as_id(first_value(row, names["item"]), "item"),
            as_rating(first_value(row, names["rating"])),
            as_text(first_value(row, names["text"]), config.max_text),
            as_time(first_value(row, names["time"]), latest),
        )
        digest = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
        draft.only_once(digest, line, "exact duplicate of an earlier row")
        return _new_id(first_value(row, names["review_id"]), digest, ids), *content

    draft.fill(cells, names["photos"])
    return draft


def _items(path: Path, config: ReadConfig) -> _Draft:
    draft = _Draft(path, config)
    names = LAYOUTS["plain"]["item"]
    if config.map.get("item") in draft.columns:
        names = (config.map["item"], *names)
    if not any(name in draft.columns for name in names):
        listed = escape_text(", ".join(draft.columns), 500)
        raise DataError(
            f"{path}: no column for item among: {listed}. Name it with --map item=COLUMN"
        )

    def cells(row: dict[str, Any], line: int) -> _Row:
        item = as_id(first_value(row, names), "item")
        name = " ".join(as_text(first_value(row, ("name", "title")), config.max_text).split())
        draft.only_once(item, line, "item was described before")
        return item, name or None

    draft.fill(cells, LAYOUTS["plain"]["photos"])
    return draft


class _Draft:
    """One file whose photos are not checked yet: rows that can be used, and refusals.

    Attributes:
        accepted: (cells, names of photos, captions, where it comes from) of a row.
        rejects: (line, reason, row).
        remote: photos that are URLs.

    Raises:
        DataError: the file has no rows, or not one of the first can be read.
    """

    def __init__(self, path: Path, config: ReadConfig) -> None:
        self.path = path
        self.root = config.photos or path.parent
        self.accepted: list[tuple[_Row, list[str], list[str], Record]] = []
        self.rejects: list[tuple[int, str, str]] = []
        self.remote = 0
        self._config = config
        self._lines: dict[str, int] = {}
        stream = read_records(path)
        head = list(islice(stream, HEAD_ROWS))
        if not head:
            raise DataError(f"{path}: the file holds no rows; check that it was written to its end")
        readable = [record.content for record in head if isinstance(record.content, dict)]
        if not readable:
            for record in head:
                self._refuse(record, str(record.content))
            raise self._too_many()
        self.columns = list(dict.fromkeys(column for row in readable for column in row))
        self._records = chain(head, stream)

    def only_once(self, key: str, line: int, again: str) -> None:
        """Refuse a row that says the same as the one of an earlier line."""
        first = self._lines.setdefault(key, line)
        if first != line:
            raise RowError(f"{again}: line {first}")

    def fill(self, cells: Callable[[dict[str, Any], int], _Row], photos: Sequence[str]) -> None:
        """Read all rows; `cells` reads one of a line, `photos` are the columns that may name its photos.

        Raises:
            DataError: no row can be used, or more are refused than may be.
        """
        column = self._config.captions_column
        for record in self._records:
            try:
                if isinstance(record.content, str):
                    raise RowError(record.content)
                captions = (
                    as_captions(record.content.get(column), self._config.max_text) if column else []
                )
                row = cells(record.content, record.line)
            except RowError as refusal:
                self._refuse(record, str(refusal))
                continue
            names, remote = photo_names(first_value(record.content, photos))
            # Only a row with photos can still be complained of; the others need not stay in memory.
            origin = record if names else Record(record.line, {})
            self.accepted.append((row, names, captions, origin))
            self.remote += remote
        share = len(self.rejects) / (len(self.rejects) + len(self.accepted))
        if share > self._config.max_reject_share or not self.accepted:
            raise self._too_many()

    def rows(self, checked: Mapping[tuple[str, Path], Path | PhotoError]) -> list[_Row]:
        """The rows with the paths of their usable photos; the other photos are refused."""
        rows = []
        for cells, names, captions, origin in self.accepted:
            paths: dict[str, None] = {}
            for name in names:
                outcome = checked[name, self.root]
                if isinstance(outcome, PhotoError):
                    self._refuse(origin, f"photo {escape_text(name, 80)}: {outcome}")
                else:
                    paths[str(outcome)] = None
            rows.append((*cells, list(paths), captions))
        return rows

    def _refuse(self, record: Record, reason: str) -> None:
        self.rejects.append((record.line, escape_text(reason), escape_text(_spelt(record))))

    def _too_many(self) -> DataError:
        # A reason is `kind: detail`; the kinds are counted.
        kinds = Counter(reason.partition(":")[0] for _, reason, _ in self.rejects)
        examples = {
            reason.partition(":")[0]: (line, reason) for line, reason, _ in reversed(self.rejects)
        }
        listed = "\n".join(
            f"  {number} rows: {examples[kind][1]} (line {examples[kind][0]})"
            for kind, number in kinds.most_common(3)
        )
        total = len(self.rejects) + len(self.accepted)
        return DataError(
            f"{self.path}: {len(self.rejects)} of {total} rows were refused:\n{listed}\n"
            "Mend the file, name its columns with --map, or allow more with --max-reject-share"
        )


def _spelt(record: Record) -> str:
    if record.raw or isinstance(record.content, str):
        return record.raw.rstrip("\r\n")
    try:
        return json.dumps(record.content, ensure_ascii=False, default=str)
    except (RecursionError, ValueError, TypeError):
        return "(cannot be shown)"


def _new_id(value: Any, digest: str, taken: set[str]) -> str:
    """Return the file's own id while it is usable and new, else one derived from the review's content."""
    try:
        own = as_id(value, "review_id")
    except RowError:
        own = ""
    while not own or own in taken:  # a file may hold an id that equals a derived one
        own, digest = digest[:16], hashlib.sha256(digest.encode()).hexdigest()
    taken.add(own)
    return own
