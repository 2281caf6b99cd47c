"""`mmrec photos fetch`: photos that the data name by URL, as files and data that `mmrec fit` takes."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import asdict
from pathlib import Path

from cyclopts import Parameter
from rich.markup import escape

from mmrec.cli.options import AsJson, print_json
from mmrec.cli.options import stdout as console
from mmrec.data.http_download import DownloadLimits
from mmrec.data.image_download import download_photos

__all__ = ["fetch"]

_LIMITS = Parameter(name="*")(DownloadLimits)()


def fetch(
    data: Path,
    /,
    *,
    out: Path,
    items: Path | None = None,
    column: str | None = None,
    url_template: str | None = None,
    limits: DownloadLimits = _LIMITS,
    retry: bool = False,
    json: AsJson = False,
) -> None:
    """Fetch the photos that reviews and items name by URL, and write copies of both that name the files.

    Args:
        data: reviews, in any format that `mmrec fit` reads.
        out: folder for photos/, the copies reviews.jsonl.gz and items.jsonl.gz, and index.jsonl, which says
            what became of every URL; a run that was stopped goes on where it was.
        items: file of items, whose photos are fetched too.
        column: column of the reviews that names photos; otherwise photos, pics, images and image.
        url_template: turns bare ids into URLs, as in 'https://lh5.googleusercontent.com/p/{id}=w640'.
        retry: fetch again what was refused for good, as after a change of limits. What failed for a reason
            that may pass (time, connection, a busy server) is tried again on every run.
        json: print one JSON object instead of text.
    """
    done = asyncio.run(
        download_photos(
            data, out, limits, items=items, column=column, template=url_template, retry=retry
        )
    )
    if json:
        print_json(asdict(done))
        return
    console.print(f"{done.downloaded:,} photos fetched, {done.already_present:,} already there")
    for kind, count in done.refused.items():
        console.print(f"{count:,} refused, see index.jsonl: {escape(kind)}")
    if done.refused:
        console.print(
            "--retry tries these again; --allow-private lets addresses of your own network through"
        )
    if done.unreadable_rows:
        console.print(f"{done.unreadable_rows:,} rows cannot be read and were left out")
    files = " --items ".join(shlex.quote(str(file)) for file in done.copies)
    console.print(f"next: mmrec fit {escape(files)}", soft_wrap=True)
