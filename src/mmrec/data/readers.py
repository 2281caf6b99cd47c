"""Reading reviews and items: from a file in any layout to checked `Reviews`."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from pydantic import ValidationError

from mmrec.config import ReadConfig
from mmrec.console import escape_text
from mmrec.data.files import Record, read_records
from mmrec.data.images import check_photos, is_url
from mmrec.data.schema import (
    ITEM_SCHEMA,
    REJECT_SCHEMA,
    REVIEW_SCHEMA,
    ItemRow,
    ReviewRow,
    Reviews,
    explain_refusal,
)
from mmrec.errors import ConfigError, DataError, PhotoError

_Columns = Mapping[str, tuple[str, ...]]
_Row = TypeVar("_Row", ItemRow, ReviewRow)
_PLAIN: dict[str, tuple[str, ...]] = {
    "review_id": ("review_id", "reviewId"),
    "user": ("user", "user_id", "userId"),
    "item": ("item", "item_id", "business_id", "itemId", "parent_asin", "asin"),
    "rating": ("rating", "stars", "score"),
    "text": ("text", "review_text", "review"),
    "time": ("time", "timestamp", "date"),
    "photos": ("photos", "pics", "images"),
}
LAYOUTS: dict[str, _Columns] = {
    "plain": _PLAIN,
    "kaggle": _PLAIN
    | {"user": ("user_id",), "item": ("business_id",)}
    | {"text": ("review_text",), "photos": ("pics",)},
    "yelp": _PLAIN | {"user": ("user_id",), "item": ("business_id",), "rating": ("stars",)},
    "amazon": _PLAIN
    | {"user": ("reviewerID", "user_id"), "item": ("parent_asin", "asin")}
    | {"rating": ("overall", "rating"), "text": ("reviewText", "text")}
    | {"time": ("unixReviewTime", "timestamp"), "photos": ("image", "images")},
}
"""Layout -> canonical column -> the names it may have in a file; the first one in a row counts.

Sources: Kaggle `hwwang98/google-restaurants`; the Yelp academic data set; the Amazon reviews of 2014,
2018 and 2023."""

_DEFAULTS = ReadConfig()

log = logging.getLogger(__name__)


def read_reviews(path: Path | str, config: ReadConfig = _DEFAULTS) -> Reviews:
    """Read reviews, and items where `config.items` names their file.

    The file is JSON lines, JSON, CSV (each also with `.gz`) or Parquet, in one of `LAYOUTS`. A row
    that cannot be used is in `rejects` and nowhere else; a photo that cannot be used is in `rejects`
    and missing from its row.

    Raises:
        ConfigError: `config.map` names a column that mmrec does not have.
        DataError: the file as a whole cannot be used, or more than `max_reject_share` of its rows.
    """
    path, captions = Path(path), config.captions_column
    if config.photos is not None and not config.photos.is_dir():
        raise DataError(f"{config.photos}: no such folder of photos; check --photos")
    files = [_read_review_file(path, config)]
    if config.items is not None:
        files.append(_read_item_file(config.items, config))
    if captions is not None and not any(captions in file.columns for file in files):
        present = [f"{file.path} has {escape_text(', '.join(file.columns), 300)}" for file in files]
        reason = f"no such column in the first rows; {'; '.join(present)}"
        raise DataError(f"--captions-column {captions}: {reason}")
    photos = chain.from_iterable(file.local_photos() for file in files)
    checked = check_photos(photos, config.max_pixels)
    tables = [file.to_table(checked) for file in files]
    items = tables[1] if len(files) > 1 else pl.DataFrame(schema=ITEM_SCHEMA)
    rejects = pl.concat([file.rejects_table() for file in files])
    return Reviews(tables[0], items, rejects, str(path))


def choose_columns(columns: Sequence[str], config: ReadConfig, file: str) -> _Columns:
    """Return the names that each canonical column may have in a file, given its columns.

    Raises a ConfigError if `config.map`, which overrides single columns of the layout, names one that
    is not canonical; a DataError if the file lacks a mapped column, or one for user, item or rating.
    """
    layout: str = config.format
    if layout == "auto":  # the first layout whose columns the file has
        signatures: tuple[tuple[str, set[str]], ...] = (
            ("amazon", {"reviewerID", "asin", "overall"}),
            ("amazon", {"user_id", "parent_asin", "rating"}),
            ("kaggle", {"user_id", "business_id", "rating", "review_text", "pics"}),
            ("yelp", {"user_id", "business_id", "stars", "text"}),
            ("plain", set()),
        )
        layout = next(name for name, needed in signatures if needed <= set(columns))
    names = dict(LAYOUTS[layout])
    present = f"there are: {escape_text(', '.join(columns), 500)}"
    for name, column in config.map.items():
        if name not in _PLAIN:
            known = ", ".join(_PLAIN)
            raise ConfigError(f"--map {name}=...: no such column of mmrec; map one of {known}")
        if column not in columns:
            raise DataError(
                f"{file}: --map {name}={column}: no such column in the first rows; {present}. "
                f"Mend it with --map {name}=COLUMN"
            )
        names[name] = (column,)
    for name in ("user", "item", "rating"):
        if set(columns).isdisjoint(names[name]):
            raise DataError(
                f"{file}: no column for {name} (looked for {', '.join(names[name])}; "
                f"layout {layout}); {present}. Name it with --map {name}=COLUMN"
            )
    return names


def _read_review_file(path: Path, config: ReadConfig) -> _FileReader:
    file = _FileReader(path, config, REVIEW_SCHEMA)
    columns = choose_columns(file.columns, config, str(path))
    ids: set[str] = set()
    for record, row in file.valid_rows(ReviewRow, columns):
        content = (row.user, row.item, row.rating, row.text, row.time)
        digest = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
        if file.is_first(digest, record, "exact duplicate of an earlier row"):
            # Without an id that is free, one is derived from the review. A loop, because a file may
            # hold an id that equals a derived one.
            while row.review_id is None or row.review_id in ids:
                row.review_id = digest[:16]
                digest = hashlib.sha256(digest.encode()).hexdigest()
            ids.add(row.review_id)
            file.accept(record, row)
    file.check_reject_share()
    return file


def _read_item_file(path: Path, config: ReadConfig) -> _FileReader:
    file = _FileReader(path, config, ITEM_SCHEMA)
    columns = {"item": _PLAIN["item"], "name": ("name", "title"), "photos": _PLAIN["photos"]}
    if config.map.get("item") in file.columns:
        columns["item"] = (config.map["item"],)
    if set(file.columns).isdisjoint(columns["item"]):
        present = escape_text(", ".join(file.columns), 500)
        mend = "Name it with --map item=COLUMN"
        raise DataError(f"{path}: no column for item among: {present}. {mend}")
    for record, row in file.valid_rows(ItemRow, columns):
        if file.is_first(row.item, record, "item was described before"):
            file.accept(record, row)
    file.check_reject_share()
    return file


class _FileReader:
    """One file whose photos are not checked yet: `columns` of its first rows, accepted rows, refusals."""

    def __init__(self, path: Path, config: ReadConfig, schema: Mapping[str, pl.DataType]) -> None:
        self.path = path
        self._config = config
        self._schema = schema
        self._photo_root = config.photos or path.parent
        # Cells are in the order of the schema, which ends with photos and captions.
        self._accepted: list[tuple[Record | None, tuple[Any, ...]]] = []
        self._rejects: list[tuple[str, int, str, str]] = []
        self._first_lines: dict[str, int] = {}
        stream = read_records(path)
        # Many rows tell the columns, so that an odd first row decides nothing.
        head = list(islice(stream, 1000))
        if not head:
            raise DataError(f"{path}: the file holds no rows; check that it was written to its end")
        self._records = chain(head, stream)
        rows = [record.content for record in head if isinstance(record.content, dict)]
        self.columns = list(dict.fromkeys(chain.from_iterable(rows)))
        if not rows:
            for record in head:
                self.refuse(record, str(record.content))
            self.check_reject_share()

    def valid_rows(self, model: type[_Row], columns: _Columns) -> Iterator[tuple[Record, _Row]]:
        """Yield the rows that pass a model's checks, with each field from its first column; refuse others."""
        captions = self._config.captions_column
        columns = {**columns, "captions": (captions,) if captions else ()}
        for record in self._records:
            content = record.content
            if isinstance(content, str):
                self.refuse(record, content)
                continue
            values = {}
            for name, names in columns.items():
                value = None
                for column in names:
                    if column in content:
                        value = content[column]
                        break
                # Absent or null, the field keeps its default or is missing; pandas writes NaN.
                if value is not None and not (isinstance(value, float) and math.isnan(value)):
                    values[name] = value
            try:
                row = model.model_validate(values, context=self._config)
            except ValidationError as error:
                self.refuse(record, explain_refusal(error))
            else:
                yield record, row

    def is_first(self, key: str, record: Record, reason: str) -> bool:
        first = self._first_lines.setdefault(key, record.line)
        if first != record.line:
            self.refuse(record, f"{reason}: line {first}")
        return first == record.line

    def accept(self, record: Record, row: ReviewRow | ItemRow) -> None:
        """Keep a row; its record only if a photo of it can still be refused."""
        # Tuples of plain values, because the garbage collector would scan millions of lists.
        self._accepted.append((record if row.photos else None, tuple(vars(row).values())))

    def refuse(self, record: Record, reason: str) -> None:
        """Note a refusal; the reason is `kind: detail`."""
        raw = record.raw.rstrip("\r\n")
        if not record.raw and not isinstance(record.content, str):
            try:
                raw = json.dumps(record.content, ensure_ascii=False, default=str)
            except (RecursionError, ValueError, TypeError):
                raw = "(cannot be shown)"
        self._rejects.append((str(self.path), record.line, escape_text(reason), escape_text(raw)))

    def local_photos(self) -> list[tuple[str, Path]]:
        names = [name for _, (*_, photos, _) in self._accepted for name in photos]
        local = [(name, self._photo_root) for name in names if not is_url(name)]
        if remote := len(names) - len(local):
            log.info("%s: %d photos are URLs and were left out", self.path, remote)
        return local

    def to_table(self, checked: Mapping[tuple[str, Path], Path | PhotoError]) -> pl.DataFrame:
        """Return the accepted rows with the paths of usable photos; refuse the other photos."""
        rows = []
        for record, (*cells, names, captions) in self._accepted:
            paths: dict[str, None] = {}
            for name in names:
                photo = checked.get((name, self._photo_root))
                if isinstance(photo, PhotoError) and record is not None:
                    self.refuse(record, f"photo {escape_text(name, 80)}: {photo}")
                elif photo is not None:
                    paths[str(photo)] = None
            rows.append((*cells, list(paths), list(captions)))
        return pl.DataFrame(rows, schema=self._schema, orient="row")

    def rejects_table(self) -> pl.DataFrame:
        table = pl.DataFrame(self._rejects, schema=REJECT_SCHEMA, orient="row")
        return table.sort("line", maintain_order=True)

    def check_reject_share(self) -> None:
        """Raise a DataError if no row can be used, or more are refused than `max_reject_share`."""
        refused, total = len(self._rejects), len(self._rejects) + len(self._accepted)
        if self._accepted and refused / total <= self._config.max_reject_share:
            return
        kinds: dict[str, list[str]] = {}
        for _, line, reason, _ in self._rejects:
            kinds.setdefault(reason.partition(":")[0], []).append(f"{reason} (line {line})")
        common = sorted(kinds.values(), key=len, reverse=True)[:3]
        examples = "".join(f"\n  {len(reasons)} rows: {reasons[0]}" for reasons in common)
        raise DataError(
            f"{self.path}: {refused} of {total} rows were refused:{examples}\n"
            "Mend the file, name its columns with --map, or allow more with --max-reject-share"
        )
