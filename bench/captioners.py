"""Photos a second of every captioner that is on this machine, and of the image baseline.

Usage: python bench/captioners.py FOLDER [--limit N] [--captioner NAME]... [--image-model FOLDER]

FOLDER is searched for photos. The builtin captioner, those in the hub's cache and those that are named are
timed on the same photos, decoded beforehand, after a warm-up of one block. Run it on an otherwise idle
machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.config import Config, VisionConfig
from mmrec.data.images import load_photo
from mmrec.encoder.weights import Weights
from mmrec.errors import PhotoError
from mmrec.vision.captioner import LOCAL_CAPTIONERS, PhotoBlocks, open_captioner
from mmrec.vision.image_features import ImageEncoder

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
SIDE = 1024


def load(folder: Path, limit: int) -> list[Image.Image]:
    """The first photos of a folder, by path."""
    photos: list[Image.Image] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            photos.append(load_photo(path, 40_000_000))
        except PhotoError:
            continue
        photos[-1].thumbnail((SIDE, SIDE))
        if len(photos) == limit:
            break
    return photos


def rate(
    work: Callable[[PhotoBlocks], Iterator[tuple[int, Any]]],
    chunk: int,
    photos: Sequence[Image.Image],
):
    """Photos a second, and how many of them came to nothing."""
    numbered = list(enumerate(photos))
    list(work(iter([numbered[:chunk]])))
    start = time.perf_counter()
    results = list(work(numbered[at : at + chunk] for at in range(0, len(numbered), chunk)))
    seconds = time.perf_counter() - start
    return len(photos) / seconds, sum(isinstance(result, Failure) for _, result in results)


def main() -> None:
    """Time everything, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--captioner", action="append", default=[])
    parser.add_argument("--image-model", default=VisionConfig().image_model)
    arguments = parser.parse_args()
    start = time.perf_counter()
    photos = load(arguments.folder, arguments.limit)
    if not photos:
        parser.error(f"no photo in {arguments.folder}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(
        f"{platform.machine()}, {cores}, {gpu}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    decoding = len(photos) / (time.perf_counter() - start)
    print(f"{len(photos)} photos, decoded and made small at {decoding:.0f}/s by one thread\n")
    cached = [kind for kind, (_, name) in LOCAL_CAPTIONERS.items() if Weights.find(name)]
    print(f"{'captioner':<50} precision  photos/s  to builtin  failed")
    builtin = 0.0
    for name in dict.fromkeys(["builtin", *cached, *arguments.captioner]):
        captioner = open_captioner(Config(vision=VisionConfig(captioner=name)))
        speed, failed = rate(captioner.compute, captioner.chunk_size, photos)
        builtin = builtin or speed
        precision = captioner.provenance.get("precision", "-")
        print(f"{name[-50:]:<50} {precision:<9} {speed:9.2f}  {speed / builtin:10.4f}  {failed:6d}")
    features = ImageEncoder(arguments.image_model)
    if features.available():
        speed, failed = rate(features.compute, features.chunk_size, photos)
        name, precision = f"features {arguments.image_model}", features.placement.precision
        print(f"{name[-50:]:<50} {precision:<9} {speed:9.2f}  {speed / builtin:10.4f}  {failed:6d}")


if __name__ == "__main__":
    main()
