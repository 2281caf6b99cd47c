"""Photos that data name by URL: each fetched once and checked, and copies of the data that name the files."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from PIL import Image

from mmrec.console import track
from mmrec.data.columns import LAYOUTS, cell_entries
from mmrec.data.files import read_records
from mmrec.data.http_download import DownloadLimits, TransientError, connection_pool, download
from mmrec.data.images import IMAGE_FORMATS, load_photo
from mmrec.errors import ConfigError, DataError, PhotoError
from mmrec.text import escape_text

__all__ = ["DownloadReport", "download_photos", "photo_urls"]

_COLUMNS = tuple(dict.fromkeys(name for layout in LAYOUTS.values() for name in layout["photos"]))
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z0-9_-]+")  # needs no quoting in a URL, and is hardly the name of a file
_SUFFIXES = {
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
}  # else .jpg; of JPEGs Pillow knows two kinds


@dataclass(frozen=True)
class DownloadReport:
    """What became of the photos, by this run or an earlier one; rows that the copies lack; the copies."""

    downloaded: int
    already_present: int
    refused: dict[str, int]
    unreadable_rows: int
    copies: list[Path]


async def download_photos(
    data: Path,
    folder: Path,
    limits: DownloadLimits,
    *,
    items: Path | None = None,
    column: str | None = None,
    template: str | None = None,
    retry: bool = False,
) -> DownloadReport:
    """Fetch the photos of reviews and items, and write copies of both that name the files.

    The folder gets `photos/`, each named by the hash of its URL; `index.jsonl`, a line for every URL as
    soon as its fate is known, so that a killed run goes on where it stopped; and the copies
    `reviews.jsonl.gz` and `items.jsonl.gz`. A folder takes one run at a time.

    Args:
        column: of the reviews, names photos; otherwise every column that does in any layout.
        template: see `photo_urls`.
        retry: fetch again what was refused for good, as after a change of limits.

    Raises:
        ConfigError: the template has no `{id}`, or a copy would overwrite the data.
        DataError: a file cannot be read, they name no URL at all, or the folder cannot be written.
    """
    if template is not None and "{id}" not in template:
        raise ConfigError("--url-template: every photo would have the same URL; put {id} in it")
    sources = {folder / "reviews.jsonl.gz": (data, (column,) if column else _COLUMNS)}
    if items is not None:
        sources[folder / "items.jsonl.gz"] = (items, _COLUMNS)
    if {copy.resolve() for copy in sources} & {path.resolve() for path, _ in sources.values()}:
        raise ConfigError(f"{folder}: the copies would overwrite the data; name another --out")
    urls = list(
        dict.fromkeys(url for source in sources.values() for url in _urls(*source, template))
    )
    if not urls:
        raise DataError(
            f"{data}: no URL of a photo; name another --column, or --url-template for bare ids"
        )
    try:
        (folder / "photos").mkdir(parents=True, exist_ok=True)
        known = _settled(folder, retry)
        todo = [url for url in urls if url not in known]
        await _fetch(todo, folder, limits, known)
        files = {url: known[url]["file"] for url in urls if "file" in known[url]}
        unreadable = sum(_copy(copy, *source, files, template) for copy, source in sources.items())
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error}); free space or name another --out"
        ) from error
    now = sum(url in files for url in todo)
    refused = Counter(known[url]["refused"].partition(":")[0] for url in urls if url not in files)
    return DownloadReport(
        now, len(files) - now, dict(refused.most_common()), unreadable, list(sources)
    )


def photo_urls(entry: Any, template: str | None) -> list[str]:
    """Return where an entry of a cell is to be fetched, with any scheme; nowhere for a local photo's name.

    An object has an `id` or URLs, of which the large ones count; only the template makes URLs of ids.
    """
    parts = entry if isinstance(entry, Mapping) else {"id": entry}
    name = parts.get("id") or parts.get("photo_id")
    if template and isinstance(name, str) and _ID.fullmatch(name):
        return [template.replace("{id}", name)]
    for part in sorted(parts, key=lambda part: "large" not in part):
        texts = parts[part] if isinstance(parts[part], list) else [parts[part]]
        if found := [
            text.strip() for text in texts if isinstance(text, str) and _URL.match(text.strip())
        ]:
            return found
    return []


def _urls(path: Path, columns: Iterable[str], template: str | None) -> Iterator[str]:
    rows = (record.content for record in read_records(path) if isinstance(record.content, dict))
    cells = (row.get(column) for row in rows for column in columns)
    return (
        url for cell in cells for entry in cell_entries(cell) for url in photo_urls(entry, template)
    )


def _settled(folder: Path, retry: bool) -> dict[str, dict[str, Any]]:
    """Return the index's row of each URL that needs no request: its file is there, or refused for good."""
    index = folder / "index.jsonl"
    rows = [record.content for record in read_records(index)] if index.exists() else []
    last = {
        row["url"]: row for row in rows if isinstance(row, dict) and "url" in row
    }  # no half a line
    sizes = {
        f"photos/{photo.name}": photo.stat().st_size for photo in (folder / "photos").iterdir()
    }
    there = {
        url: row
        for url, row in last.items()
        if sizes.get(row.get("file", ""), -1) == row.get("bytes")
    }
    refused = {url: row for url, row in last.items() if row.get("passing") is False}
    return there if retry else there | refused


async def _fetch(
    todo: list[str], folder: Path, limits: DownloadLimits, known: dict[str, dict[str, Any]]
) -> None:
    waiting = iter(todo)  # shared: each worker takes the next one
    decoders = CapacityLimiter(4)  # a decoded photo may take 30 times the memory of its file

    async def work() -> None:
        for url in waiting:
            try:
                body = await download(url, pool, limits)
                row = await to_thread.run_sync(
                    _save, url, body, folder, limits.max_pixels, limiter=decoders
                )
            except PhotoError as error:
                row = {
                    "url": url,
                    "refused": escape_text(str(error)),
                    "passing": isinstance(error, TransientError),
                }
            known[url] = row
            index.write(json.dumps(row) + "\n")
            advance(1, "refused" in row)

    path = folder / "index.jsonl"
    with path.open("a", buffering=1) as index, track("Fetching photos", len(todo)) as advance:
        if index.tell() and not path.read_bytes().endswith(b"\n"):
            index.write("\n")
        async with connection_pool(limits) as pool:
            await asyncio.gather(*(work() for _ in range(min(limits.in_flight, len(todo)))))


def _save(url: str, body: bytes, folder: Path, max_pixels: int) -> dict[str, Any]:
    """Check a photo and put it into the folder, where nobody sees it before it is checked and whole."""
    name = hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()[:32]
    part = folder / "photos" / f".{name}.part"
    try:
        part.write_bytes(body)
        load_photo(part, max_pixels)
        with Image.open(part, formats=IMAGE_FORMATS) as image:
            file = f"photos/{name}{_SUFFIXES.get(image.format or '', '.jpg')}"
        os.replace(part, folder / file)
    except PhotoError as error:
        raise PhotoError(f"not a usable photo: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return {"url": url, "file": file, "bytes": len(body)}


def _copy(
    copy: Path, path: Path, columns: Iterable[str], files: dict[str, str], template: str | None
) -> int:
    """Write a copy with files in place of the URLs that have one; return how many rows it cannot hold."""
    part = copy.with_name(f".{copy.name}.part")
    lost = 0
    with gzip.GzipFile(part, "wb", mtime=0) as handle:
        for record in read_records(path):
            row = record.content
            if isinstance(row, str):
                lost += 1
                continue
            cells = {name: _replaced(row[name], files, template) for name in columns if name in row}
            try:
                handle.write(json.dumps(row | cells, default=str).encode() + b"\n")
            except RecursionError:
                lost += 1
    os.replace(part, copy)
    return lost


def _replaced(cell: Any, files: dict[str, str], template: str | None) -> Any:
    old, new = cell_entries(cell), []
    for entry in old:
        new += [files[url] for url in photo_urls(entry, template) if url in files] or [entry]
    return new if new != old else cell
