"""Reading reviews and items: from a file in any layout to checked `Reviews`."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

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
    files = [_read_file(path, config, ReviewRow)]
    if config.items is not None:
        files.append(_read_file(config.items, config, ItemRow))
    if captions is not None and not any(captions in file.columns for file in files):
        present = [f"{file.path} has {escape_text(', '.join(file.columns), 300)}" for file in files]
        reason = f"no such column in the first rows; {'; '.join(present)}"
        raise DataError(f"--captions-column {captions}: {reason}")
    photos: list[tuple[str, Path]] = []
    for file in files:
        names = [name for _, (*_, names, _) in file.accepted for name in names]
        local = [(name, file.photo_root) for name in names if not is_url(name)]
        if remote := len(names) - len(local):
            log.info("%s: %d photos are URLs and were left out", file.path, remote)
        photos += local
    checked = check_photos(photos, config.max_pixels)
    schemas = (REVIEW_SCHEMA, ITEM_SCHEMA)
    tables = [
        _to_table(file, schema, checked) for file, schema in zip(files, schemas, strict=False)
    ]
    items = tables[1] if len(files) > 1 else pl.DataFrame(schema=ITEM_SCHEMA)
    rejects = []
    for file in files:
        table = pl.DataFrame(file.rejects, schema=REJECT_SCHEMA, orient="row")
        rejects.append(table.sort("line", maintain_order=True))
    return Reviews(tables[0], items, pl.concat(rejects), str(path))


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
            reason = f"--map {name}={column}: no such column in the first rows"
            raise DataError(f"{file}: {reason}; {present}. Mend it with --map {name}=COLUMN")
        names[name] = (column,)
    for name in ("user", "item", "rating"):
        if set(columns).isdisjoint(names[name]):
            searched = f"looked for {', '.join(names[name])}; layout {layout}"
            reason = f"no column for {name} ({searched}); {present}"
            raise DataError(f"{file}: {reason}. Name it with --map {name}=COLUMN")
    return names


def _choose_item_columns(columns: Sequence[str], config: ReadConfig, file: str) -> _Columns:
    names = {"item": _PLAIN["item"], "name": ("name", "title"), "photos": _PLAIN["photos"]}
    if config.map.get("item") in columns:
        names["item"] = (config.map["item"],)
    if set(columns).isdisjoint(names["item"]):
        reason = f"no column for item among: {escape_text(', '.join(columns), 500)}"
        raise DataError(f"{file}: {reason}. Name it with --map item=COLUMN")
    return names


@dataclass
class _FileRows:
    """The rows of a file whose photos are not checked yet, and its refusals."""

    path: Path
    photo_root: Path
    columns: list[str]  # of the first rows
    # With the record only if a photo of the row can still be refused. Tuples of plain values, photos
    # and captions last, because the garbage collector would scan millions of lists.
    accepted: list[tuple[Record | None, tuple[Any, ...]]] = field(default_factory=list)
    rejects: list[tuple[str, int, str, str]] = field(default_factory=list)

    def refuse(self, record: Record, reason: str) -> None:
        """Note a refusal; the reason is `kind: detail`."""
        raw = record.raw.rstrip("\r\n")
        if not record.raw and not isinstance(record.content, str):
            try:
                raw = json.dumps(record.content, ensure_ascii=False, default=str)
            except (RecursionError, ValueError, TypeError):
                raw = "(cannot be shown)"
        self.rejects.append((str(self.path), record.line, escape_text(reason), escape_text(raw)))


def _read_file(path: Path, config: ReadConfig, model: type[ReviewRow | ItemRow]) -> _FileRows:
    """Read the rows that pass a model's checks, each once.

    Raises a DataError if no row can be used, or more are refused than `max_reject_share`.
    """
    stream = read_records(path)
    # Many rows tell the columns, so that an odd first row decides nothing.
    head = list(islice(stream, 1000))
    if not head:
        raise DataError(f"{path}: the file holds no rows; check that it was written to its end")
    rows = [record.content for record in head if isinstance(record.content, dict)]
    file = _FileRows(
        path, config.photos or path.parent, [*dict.fromkeys(chain.from_iterable(rows))]
    )
    columns: dict[str, tuple[str, ...]] = {}
    if rows:
        choose = choose_columns if model is ReviewRow else _choose_item_columns
        columns |= choose(file.columns, config, str(path))
    columns["captions"] = (config.captions_column,) if config.captions_column else ()
    first_lines: dict[str, int] = {}  # of each review or item
    ids: set[str] = set()
    for record in chain(head, stream if rows else ()):
        if isinstance(record.content, str):
            file.refuse(record, record.content)
            continue
        try:
            row = model.model_validate(_pick_values(record.content, columns), context=config)
        except ValidationError as error:
            file.refuse(record, explain_refusal(error))
            continue
        key, reason = row.item, "item was described before"
        if isinstance(row, ReviewRow):
            review = (row.user, row.item, row.rating, row.text, row.time)
            key = hashlib.sha256(json.dumps(review, default=str).encode()).hexdigest()
            reason = "exact duplicate of an earlier row"
        if (first := first_lines.setdefault(key, record.line)) != record.line:
            file.refuse(record, f"{reason}: line {first}")
            continue
        if isinstance(row, ReviewRow):
            # Without an id that is free, one is derived from the review. A loop, because a file may
            # hold an id that equals a derived one.
            while row.review_id is None or row.review_id in ids:
                row.review_id = key[:16]
                key = hashlib.sha256(key.encode()).hexdigest()
            ids.add(row.review_id)
        file.accepted.append((record if row.photos else None, tuple(vars(row).values())))
    _check_reject_share(file, config.max_reject_share)
    return file


def _pick_values(content: Mapping[str, Any], columns: _Columns) -> dict[str, Any]:
    """Return the value of each field that is neither absent nor null, from its first column."""
    values = {}
    for name, names in columns.items():
        for column in names:
            if column in content:
                value = content[column]
                if value is not None and not (isinstance(value, float) and math.isnan(value)):
                    values[name] = value  # pandas writes NaN for null
                break
    return values


def _check_reject_share(file: _FileRows, max_share: float) -> None:
    refused, total = len(file.rejects), len(file.rejects) + len(file.accepted)
    if file.accepted and refused / total <= max_share:
        return
    kinds: dict[str, list[str]] = {}
    for _, line, reason, _ in file.rejects:
        kinds.setdefault(reason.partition(":")[0], []).append(f"{reason} (line {line})")
    common = sorted(kinds.values(), key=len, reverse=True)[:3]
    examples = "".join(f"\n  {len(reasons)} rows: {reasons[0]}" for reasons in common)
    raise DataError(
        f"{file.path}: {refused} of {total} rows were refused:{examples}\n"
        "Mend the file, name its columns with --map, or allow more with --max-reject-share"
    )


def _to_table(
    file: _FileRows,
    schema: Mapping[str, pl.DataType],
    checked: Mapping[tuple[str, Path], Path | PhotoError],
) -> pl.DataFrame:
    """Return the accepted rows with the paths of usable photos; refuse the other photos."""
    rows = []
    for record, (*cells, names, captions) in file.accepted:
        paths: dict[str, None] = {}
        for name in names:
            photo = checked.get((name, file.photo_root))
            if isinstance(photo, PhotoError) and record is not None:
                file.refuse(record, f"photo {escape_text(name, 80)}: {photo}")
            elif photo is not None:
                paths[str(photo)] = None
        rows.append((*cells, list(paths), list(captions)))
    return pl.DataFrame(rows, schema=schema, orient="row")
