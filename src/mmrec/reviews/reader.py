"""Reading: any supported file in, the canonical `Reviews` and a list of what was refused out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

import polars as pl

from mmrec.config import ReadConfig
from mmrec.errors import DataError, PhotoError
from mmrec.reviews.containers import Record, records
from mmrec.reviews.formats import (
    LAYOUTS,
    Refused,
    as_captions,
    as_id,
    as_rating,
    as_text,
    as_time,
    choose_columns,
    escaped,
    pick,
)
from mmrec.reviews.photos import check_photos, photo_names
from mmrec.reviews.table import ITEM_SCHEMA, REVIEW_SCHEMA, Reviews

__all__ = ["read_reviews"]

HEAD_ROWS = 1000
"""First rows whose columns decide the layout, so that one odd first row decides nothing."""

_DEFAULTS = ReadConfig()
_REJECT_SCHEMA = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "row": pl.String}
_Row = tuple[Any, ...]

log = logging.getLogger(__name__)


@dataclass
class _Draft:
    """Accepted rows of one file without their photos, and its refusals as (line, reason, row)."""

    path: Path
    root: Path
    columns: list[str] = field(default_factory=list)
    rows: list[_Row] = field(default_factory=list)
    origins: list[Record] = field(default_factory=list)
    photos: list[list[str]] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    rejects: list[tuple[int, str, str]] = field(default_factory=list)
    remote: int = 0

    def accept(self, row: _Row, photos: Any, captions: list[str], origin: Record) -> None:
        names, remote = photo_names(photos)
        self.rows.append(row)
        self.photos.append(names)
        self.captions.append(captions)
        # Only a row with photos can still be complained of; the others need not stay in memory.
        self.origins.append(origin if names else Record(origin.line, {}))
        self.remote += remote

    def refuse(self, origin: Record, reason: str) -> None:
        self.rejects.append((origin.line, escaped(reason), escaped(_spelt(origin))))


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
    path = Path(path)
    if config.photos is not None and not config.photos.is_dir():
        raise DataError(f"{config.photos}: no such folder of photos; check --photos")
    reviews = _reviews_draft(path, config)
    drafts = [reviews]
    if config.items is not None:
        drafts.append(_items_draft(config.items, config))
    _check_captions(drafts, config.captions_column)
    checked = check_photos(
        [(name, draft.root) for draft in drafts for names in draft.photos for name in names],
        config.max_pixels,
    )
    tables = [_table(draft, checked) for draft in drafts]
    rejects = [(str(draft.path), *reject) for draft in drafts for reject in sorted(draft.rejects, key=_line)]
    remote = sum(draft.remote for draft in drafts)
    if remote:
        log.info("%s: %d photos are URLs and were left out", path, remote)
    return Reviews(
        table=pl.DataFrame(tables[0], schema=REVIEW_SCHEMA, orient="row"),
        items=pl.DataFrame(tables[1] if len(tables) > 1 else [], schema=ITEM_SCHEMA, orient="row"),
        rejects=pl.DataFrame(rejects, schema=_REJECT_SCHEMA, orient="row"),
        source=str(path),
    )


def _line(reject: tuple[int, str, str]) -> int:
    return reject[0]


def _reviews_draft(path: Path, config: ReadConfig) -> _Draft:
    draft = _Draft(path, config.photos or path.parent)
    columns, stream = _started(draft)
    names = choose_columns(columns, config, str(path))
    latest = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    first_line: dict[str, int] = {}
    review_ids: set[str] = set()
    for record in stream:
        try:
            row = _columns(record)
            content = (
                as_id(pick(row, names["user"]), "user"),
                as_id(pick(row, names["item"]), "item"),
                as_rating(pick(row, names["rating"])),
                as_text(pick(row, names["text"]), config.max_text),
                as_time(pick(row, names["time"]), latest),
            )
            captions = _captions(row, config)
            digest = _digest(content)
            if digest in first_line:
                raise Refused(f"exact duplicate of an earlier row: line {first_line[digest]}")
        except Refused as refusal:
            draft.refuse(record, str(refusal))
            continue
        first_line[digest] = record.line
        review_id = _review_id(pick(row, names["review_id"]), digest, review_ids)
        review_ids.add(review_id)
        draft.accept((review_id, *content), pick(row, names["photos"]), captions, record)
    _check_share(draft, config.max_reject_share)
    return draft


def _items_draft(path: Path, config: ReadConfig) -> _Draft:
    draft = _Draft(path, config.photos or path.parent)
    columns, stream = _started(draft)
    names = LAYOUTS["plain"]["item"]
    if config.map.get("item") in columns:
        names = (config.map["item"], *names)
    if not any(name in columns for name in names):
        listed = escaped(", ".join(columns), 500)
        raise DataError(f"{path}: no column for item among: {listed}. Name it with --map item=COLUMN")
    first_line: dict[str, int] = {}
    for record in stream:
        try:
            row = _columns(record)
            item = as_id(pick(row, names), "item")
            name = " ".join(as_text(pick(row, ("name", "title")), config.max_text).split())
            captions = _captions(row, config)
            if item in first_line:
                raise Refused(f"item was described before: line {first_line[item]}")
        except Refused as refusal:
            draft.refuse(record, str(refusal))
            continue
        first_line[item] = record.line
        draft.accept((item, name or None), pick(row, LAYOUTS["plain"]["photos"]), captions, record)
    _check_share(draft, config.max_reject_share)
    return draft


def _started(draft: _Draft) -> tuple[list[str], Iterator[Record]]:
    """Return the columns of the file's first rows, and all of its rows."""
    stream = records(draft.path)
    head = list(islice(stream, HEAD_ROWS))
    if not head:
        raise DataError(f"{draft.path}: the file holds no rows; check that it was written to its end")
    readable = [record.content for record in head if isinstance(record.content, dict)]
    if not readable:
        for record in head:
            draft.refuse(record, str(record.content))
        raise _too_many(draft)
    draft.columns = list(dict.fromkeys(column for row in readable for column in row))
    return draft.columns, chain(head, stream)


def _captions(row: dict[str, Any], config: ReadConfig) -> list[str]:
    return as_captions(row.get(config.captions_column), config.max_text) if config.captions_column else []


def _check_captions(drafts: list[_Draft], column: str | None) -> None:
    if column is not None and not any(column in draft.columns for draft in drafts):
        files = "; ".join(f"{draft.path} has {escaped(', '.join(draft.columns), 300)}" for draft in drafts)
        raise DataError(f"--captions-column {column}: no such column in the first rows; {files}")


def _columns(record: Record) -> dict[str, Any]:
    if isinstance(record.content, str):
        raise Refused(record.content)
    return record.content


def _spelt(record: Record) -> str:
    if record.raw or isinstance(record.content, str):
        return record.raw.rstrip("\r\n")
    try:
        return json.dumps(record.content, ensure_ascii=False, default=str)
    except (RecursionError, ValueError, TypeError):
        return "(cannot be shown)"


def _digest(content: _Row) -> str:
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _review_id(value: Any, digest: str, taken: set[str]) -> str:
    """Return the file's own id while it is usable and new, else one derived from the review's content."""
    try:
        own = as_id(value, "review_id")
    except Refused:
        own = ""
    if own and own not in taken:
        return own
    while digest[:16] in taken:  # a file may hold an id that equals a derived one
        digest = hashlib.sha256(digest.encode()).hexdigest()
    return digest[:16]


def _check_share(draft: _Draft, most: float) -> None:
    share = len(draft.rejects) / (len(draft.rejects) + len(draft.rows))
    if share > most or not draft.rows:
        raise _too_many(draft)


def _too_many(draft: _Draft) -> DataError:
    # A reason is `kind: detail`; the kinds are counted.
    kinds = Counter(reason.partition(":")[0] for _, reason, _ in draft.rejects)
    examples = {reason.partition(":")[0]: (line, reason) for line, reason, _ in reversed(draft.rejects)}
    listed = "\n".join(
        f"  {number} rows: {examples[kind][1]} (line {examples[kind][0]})"
        for kind, number in kinds.most_common(3)
    )
    total = len(draft.rejects) + len(draft.rows)
    return DataError(
        f"{draft.path}: {len(draft.rejects)} of {total} rows were refused:\n{listed}\n"
        "Mend the file, name its columns with --map, or allow more with --max-reject-share"
    )


def _table(draft: _Draft, checked: dict[tuple[str, Path], Path | PhotoError]) -> list[_Row]:
    """Return the rows with the paths of their usable photos; list the other photos as refused."""
    rows = []
    every = zip(draft.rows, draft.origins, draft.photos, draft.captions, strict=True)
    for row, origin, names, captions in every:
        paths: dict[str, None] = {}
        for name in names:
            outcome = checked[name, draft.root]
            if isinstance(outcome, PhotoError):
                draft.refuse(origin, f"photo {escaped(name, 80)}: {outcome}")
            else:
                paths[str(outcome)] = None
        rows.append((*row, list(paths), captions))
    return rows
