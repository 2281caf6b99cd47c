"""`mmrec photos fetch`: download photos that the data name by URL."""

import asyncio
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mmrec.cli.options import AsJson, print_json, stdout
from mmrec.data.http_download import DownloadLimits
from mmrec.data.image_download import download_photos


def fetch(
    data: Path,
    /,
    *,
    out: Path,
    items: Path | None = None,
    column: str | None = None,
    url_template: str | None = None,
    limits: Annotated[DownloadLimits, Parameter(name="*")] = DownloadLimits(),
    retry: bool = False,
    json: AsJson = False,
) -> None:
    """Download the photos that reviews and items name by URL; write copies that name the files.

    Args:
        data: reviews, in any format that `mmrec fit` reads.
        out: folder for photos/, copies of reviews and items, and index.jsonl with the outcome for
            every URL; the same command continues a stopped run.
        items: file of items, whose photos are downloaded too.
        column: column of the reviews that names photos; otherwise photos, pics, images or image.
        url_template: turns ids into URLs, as in 'https://lh5.googleusercontent.com/p/{id}=w640'.
        retry: retry what was refused for good, as after a change of limits. Failures that may pass
            (timeouts, connections, busy servers) are retried on every run.
    """
    download = download_photos(
        data, out, limits, items=items, column=column, template=url_template, retry=retry
    )
    result = asyncio.run(download)
    if json:
        print_json(asdict(result))
        return
    lines = [f"{result.downloaded:,} photos downloaded, {result.already_present:,} present before"]
    for reason, count in result.refused.items():
        lines.append(f"{count:,} refused, see index.jsonl: {reason}")
    if result.refused:
        lines.append("--retry tries these again; --allow-private permits addresses of your network")
    if result.unreadable_rows:
        lines.append(f"{result.unreadable_rows:,} unreadable rows were left out")
    # Quoted and on one line, to be copied into a shell.
    files = " --items ".join(shlex.quote(str(file)) for file in result.copies)
    lines.append(f"next: mmrec fit {files}")
    stdout.print("\n".join(lines), markup=False, soft_wrap=True)
