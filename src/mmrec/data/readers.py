"""Reading reviews and items: from a file in any layout to checked `Reviews`."""

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import chain, islice
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from mmrec.config import ReadConfig
from mmrec.console import escape_text
from mmrec.data import schema
from mmrec.data.files import Record, read_records
from mmrec.data.images import check_photos, is_url
from mmrec.data.schema import ItemRow, ReviewRow, Reviews
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

    The file is JSON lines, JSON, CSV (each also with `.gz`) or Parquet. Rows and photos that cannot be
    used are in `rejects` and nowhere else. Raises a ConfigError if `config.map` names a column that
    mmrec does not have; a DataError if a file, or more than `max_reject_share` of it, cannot be used.
    """
    path, captions = Path(path), config.captions_column
    if config.photos is not None and not config.photos.is_dir():
        raise DataError(f"{config.photos}: no such folder of photos; check --photos")
    files = [_FileRows(path, config, ReviewRow)]
    if config.items is not None:
        files.append(_FileRows(config.items, config, ItemRow))
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
    table, rejects = files[0].to_tables(checked)
    if config.items is None:
        return Reviews(table, rejects=rejects, source=str(path))
    items, rejected_items = files[1].to_tables(checked)
    return Reviews(table, items, pl.concat([rejects, rejected_items]), str(path))


def choose_columns(columns: Sequence[str], config: ReadConfig, file: str) -> _Columns:
    """Return the names that each canonical column may have; an error names one that is absent."""
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
            mend = f"map one of {', '.join(_PLAIN)}"
            raise ConfigError(f"--map {name}=...: no such column of mmrec; {mend}")
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


class _FileRows:
    """The rows of a file that pass a model's checks, each once, and its refusals."""

    def __init__(self, path: Path, config: ReadConfig, model: type[ReviewRow | ItemRow]) -> None:
        self._config, self._model = config, model
        self.path, self.photo_root = path, config.photos or path.parent
        # With the record only if a photo of the row can still be refused. Tuples of plain values,
        # photos and captions last, because the garbage collector would scan millions of lists.
        self.accepted: list[tuple[Record | None, tuple[Any, ...]]] = []
        self._rejects: list[tuple[str, int, str, str]] = []
        stream = read_records(path)
        # Many rows tell the columns, so that an odd first row decides nothing.
        head = list(islice(stream, 1000))
        if not head:
            raise DataError(f"{path}: the file holds no rows; check that it was written to its end")
        rows = [record.content for record in head if isinstance(record.content, dict)]
        self.columns = [*dict.fromkeys(chain.from_iterable(rows))]
        names: dict[str, tuple[str, ...]] = {}
        if rows:
            choose = choose_columns if model is ReviewRow else _choose_item_columns
            names |= choose(self.columns, config, str(path))
        names["captions"] = (config.captions_column,) if config.captions_column else ()
        self._read(chain(head, stream if rows else ()), names)
        refused, total = len(self._rejects), len(self._rejects) + len(self.accepted)
        if not self.accepted or refused / total > config.max_reject_share:
            kinds: dict[str, list[str]] = {}
            for _, line, reason, _ in self._rejects:
                kinds.setdefault(reason.partition(":")[0], []).append(f"{reason} (line {line})")
            common = sorted(kinds.values(), key=len, reverse=True)[:3]
            examples = "".join(f"\n  {len(reasons)} rows: {reasons[0]}" for reasons in common)
            raise DataError(
                f"{path}: {refused} of {total} rows were refused:{examples}\n"
                "Mend the file, name its columns with --map, or allow more with --max-reject-share"
            )

    def _read(self, records: Iterable[Record], columns: _Columns) -> None:
        first_lines: dict[str, int] = {}  # of each review or item
        ids: set[str] = set()
        for record in records:
            if isinstance(record.content, str):
                self._refuse(record, record.content)
                continue
            try:
                values = _pick_values(record.content, columns)
                row = self._model.model_validate(values, context=self._config)
            except ValidationError as error:
                self._refuse(record, explain_refusal(error))
                continue
            key, reason = row.item, "item was described before"
            if isinstance(row, ReviewRow):
                review = (row.user, row.item, row.rating, row.text, row.time)
                key = hashlib.sha256(json.dumps(review, default=str).encode()).hexdigest()
                reason = "exact duplicate of an earlier row"
            if (first := first_lines.setdefault(key, record.line)) != record.line:
                self._refuse(record, f"{reason}: line {first}")
                continue
            if isinstance(row, ReviewRow):
                # A loop, because a file may hold an id that equals a derived one.
                while row.review_id is None or row.review_id in ids:
                    row.review_id = key[:16]
                    key = hashlib.sha256(key.encode()).hexdigest()
                ids.add(row.review_id)
            self.accepted.append((record if row.photos else None, tuple(vars(row).values())))

    def _refuse(self, record: Record, reason: str) -> None:
        """Note a refusal; the reason is `kind: detail`."""
        raw = record.raw.rstrip("\r\n")
        if not record.raw and not isinstance(record.content, str):
            try:
                raw = json.dumps(record.content, ensure_ascii=False, default=str)
            except (RecursionError, ValueError, TypeError):
                raw = "(cannot be shown)"
        self._rejects.append((str(self.path), record.line, escape_text(reason), escape_text(raw)))

    def to_tables(
        self, checked: Mapping[tuple[str, Path], Path | PhotoError]
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the rows with the paths of usable photos, and the refusals, also of photos."""
        columns = schema.REVIEW_SCHEMA if self._model is ReviewRow else schema.ITEM_SCHEMA
        rows = []
        for record, (*cells, names, captions) in self.accepted:
            paths: dict[str, None] = {}
            for name in names:
                photo = checked.get((name, self.photo_root))
                if isinstance(photo, PhotoError) and record is not None:
                    self._refuse(record, f"photo {escape_text(name, 80)}: {photo}")
                elif photo is not None:
                    paths[str(photo)] = None
            rows.append((*cells, list(paths), list(captions)))
        rejects = pl.DataFrame(self._rejects, schema=schema.REJECT_SCHEMA, orient="row")
        table = pl.DataFrame(rows, schema=columns, orient="row")
        return table, rejects.sort("line", maintain_order=True)


def explain_refusal(error: ValidationError) -> str:
    """Return why a row is refused, as `kind: value`."""
    problem = error.errors(include_url=False)[0]
    name, value, message = problem["loc"][0], problem["input"], problem["msg"]
    is_blank = value is None or (isinstance(value, str) and not value.strip())
    if is_blank or problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "string_pattern_mismatch":
        message = "holds control characters"
    message = message.removeprefix("Input ").removeprefix("String ")
    # Only scalars are spelt out: the repr of a hostile nesting could exhaust the stack.
    scalar = isinstance(value, str | int | float | date)
    return f"{name} {message}: {escape_text(str(value), 40) if scalar else type(value).__name__}"


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
