"""Download of photos that data name by URL, and copies of the data that name the files."""

import asyncio
import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
from PIL import Image

from mmrec.console import escape_text, track
from mmrec.data.files import read_records
from mmrec.data.http_download import DownloadLimits, TransientError, connection_pool, download
from mmrec.data.images import IMAGE_FORMATS, cell_entries, object_urls, verify_photo
from mmrec.data.readers import LAYOUTS
from mmrec.errors import ConfigError, DataError, PhotoError


@dataclass(frozen=True)
class DownloadReport:
    """What became of the photos, and the copies of the data that name them."""

    downloaded: int
    already_present: int  # fetched by an earlier run
    refused: dict[str, int]  # URLs by the kind of refusal, also of earlier runs
    unreadable_rows: int  # rows that the copies lack
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
    """Download the photos of reviews and items, and write copies of both that name the files.

    A killed run goes on where it stopped, since `index.jsonl` gets a line for every URL as soon as its
    fate is certain. The `column` of the reviews names photos, or else every column that does in any
    layout. Raises a ConfigError for options that cannot work; a DataError if a file cannot be read,
    names no URL at all, or the folder cannot be written.
    """
    if template is not None and "{id}" not in template:
        raise ConfigError("--url-template: every photo would have the same URL; put {id} in it")
    usual = set(chain.from_iterable(layout["photos"] for layout in LAYOUTS.values()))
    sources = [(data, {column} if column else usual)] + ([(items, usual)] if items else [])
    copies = [folder / "reviews.jsonl.gz", folder / "items.jsonl.gz"][: len(sources)]
    originals = {path.resolve() for path, _ in sources}
    if any(copy.resolve() in originals for copy in copies):
        raise ConfigError(f"{folder}: the copies would overwrite the data; name another --out")
    urls: dict[str, None] = {}
    for source in sources:
        urls |= _find_urls(*source, template)
    if not urls:
        mend = "name another --column, or --url-template for bare ids"
        raise DataError(f"{data}: no URL of a photo; {mend}")
    unreadable = 0
    try:
        (folder / "photos").mkdir(parents=True, exist_ok=True)
        index = _read_index(folder, retry)
        todo = [url for url in urls if url not in index]
        index |= await _download_all(todo, folder, limits)
        files = {url: index[url]["file"] for url in urls if "file" in index[url]}
        for (path, columns), copy in zip(sources, copies, strict=True):
            unreadable += _write_copy(path, copy, columns, template, files)
    except OSError as error:
        mend = "free space or name another --out"
        raise DataError(f"{folder}: cannot be written ({error}); {mend}") from error
    downloaded = len(files.keys() & set(todo))
    refusals = Counter(index[url]["refused"].partition(":")[0] for url in urls if url not in files)
    refused = dict(refusals.most_common())
    return DownloadReport(downloaded, len(files) - downloaded, refused, unreadable, copies)


def _find_urls(path: Path, columns: set[str], template: str | None) -> dict[str, None]:
    urls: dict[str, None] = {}
    for record in read_records(path):
        if not isinstance(record.content, str):
            for column in columns & record.content.keys():
                for entry in cell_entries(record.content[column]):
                    urls |= dict.fromkeys(photo_urls(entry, template))
    return urls


def photo_urls(entry: Any, template: str | None) -> list[str]:
    """Return the URLs of one entry of a cell, made from its id with a template; none of a local file."""
    fields = entry if isinstance(entry, Mapping) else {"id": entry}
    name = fields.get("id") or fields.get("photo_id")
    if template and isinstance(name, str) and re.fullmatch("[A-Za-z0-9_-]+", name):
        return [template.replace("{id}", name)]
    return object_urls(fields)


def _write_copy(
    path: Path, copy: Path, columns: set[str], template: str | None, files: Mapping[str, str]
) -> int:
    """Copy rows with files in place of URLs; return how many rows the copy cannot hold."""
    unfinished, lost = copy.with_name(f".{copy.name}.part"), 0
    with gzip.GzipFile(unfinished, "wb", mtime=0) as handle:  # reproducible bytes
        for record in read_records(path):
            row = record.content
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                for column in columns & row.keys():
                    entries, names = cell_entries(row[column]), list[Any]()
                    for entry in entries:
                        urls = photo_urls(entry, template)
                        names += [files[url] for url in urls if url in files] or [entry]
                    if names != entries:
                        row[column] = names
                handle.write(json.dumps(row, default=str).encode() + b"\n")
            except (RecursionError, ValueError):  # nested too deeply
                lost += 1
    os.replace(unfinished, copy)
    return lost


def _read_index(folder: Path, retry: bool) -> dict[str, dict[str, Any]]:
    """Return the index rows of URLs that need no request: fetched, or refused for good."""
    path = folder / "index.jsonl"
    photos = (folder / "photos").iterdir()
    sizes = {f"photos/{photo.name}": photo.stat().st_size for photo in photos}
    settled: dict[str, dict[str, Any]] = {}
    for record in read_records(path) if path.exists() else ():
        row = record.content
        if isinstance(row, str) or "url" not in row:  # unfinished by a killed run
            continue
        settled.pop(row["url"], None)
        present = "file" in row and sizes.get(row["file"]) == row["bytes"]
        if present or (row.get("passing") is False and not retry):
            settled[row["url"]] = row
    return settled


async def _download_all(
    urls: list[str], folder: Path, limits: DownloadLimits
) -> dict[str, dict[str, Any]]:
    path, rows = folder / "index.jsonl", dict[str, dict[str, Any]]()
    waiting = iter(urls)  # shared: each worker takes the next one
    # A decoded photo may take 30 times the memory of its file.
    decoders = anyio.CapacityLimiter(4)

    async def work() -> None:
        for url in waiting:
            try:
                body = await download(url, pool, limits)
                save = partial(_save_photo, url, body, folder, limits.max_pixels)
                row = await anyio.to_thread.run_sync(save, limiter=decoders)
            except PhotoError as error:
                passing = isinstance(error, TransientError)
                row = {"url": url, "refused": escape_text(str(error)), "passing": passing}
            rows[url] = row
            index.write(json.dumps(row) + "\n")
            advance(1, "refused" in row)

    with path.open("a", buffering=1) as index, track("Fetching photos", len(urls)) as advance:
        if index.tell() and not path.read_bytes().endswith(b"\n"):
            index.write("\n")
        async with connection_pool(limits) as pool:
            await asyncio.gather(*(work() for _ in range(min(limits.in_flight, len(urls)))))
    return rows


def _save_photo(url: str, body: bytes, folder: Path, max_pixels: int) -> dict[str, Any]:
    """Check a photo and move it into the folder, where it is visible only when checked and complete."""
    name = hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()[:32]
    unfinished = folder / "photos" / f".{name}.part"
    try:
        unfinished.write_bytes(body)
        verify_photo(unfinished, max_pixels)
        with Image.open(unfinished, formats=IMAGE_FORMATS) as image:
            suffix = {"PNG": ".png", "WEBP": ".webp", "GIF": ".gif"}.get(image.format or "", ".jpg")
        os.replace(unfinished, folder / "photos" / f"{name}{suffix}")
    except PhotoError as error:
        raise PhotoError(f"not a usable photo: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return {"url": url, "file": f"photos/{name}{suffix}", "bytes": len(body)}
