"""Photos per second of every captioner on this machine, and of the image model of the baseline.

Usage: python bench/captioners.py FOLDER [--limit N] [--captioner NAME]... [--image-model FOLDER]

The photos in FOLDER are decoded first. The builtin captioner, those in the hub's cache and those
that are named are timed after a warm-up of one block. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import torch
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.config import Config, VisionConfig
from mmrec.data.images import load_photo
from mmrec.encoder.weights import Weights
from mmrec.errors import PhotoError
from mmrec.vision.captioner import CAPTIONERS, open_captioner
from mmrec.vision.image_features import ImageEncoder


def load_photos(folder: Path, limit: int, max_side: int = 1024) -> list[Image.Image]:
    """The first photos of a folder, by path, at most `max_side` pixels wide and high."""
    photos: list[Image.Image] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp", ".gif"):
            continue
        try:
            photo = load_photo(path, 40_000_000)
        except PhotoError:
            continue
        photo.thumbnail((max_side, max_side))
        photos.append(photo)
        if len(photos) == limit:
            break
    return photos


def photos_per_second(model, photos: list[Image.Image]) -> tuple[float, int]:
    """Speed, and the number of photos that failed."""
    numbered, chunk = list(enumerate(photos)), model.chunk_size
    list(model.compute(iter([numbered[:chunk]])))
    start = time.perf_counter()
    blocks = (numbered[first : first + chunk] for first in range(0, len(numbered), chunk))
    results = list(model.compute(blocks))
    seconds = time.perf_counter() - start
    return len(photos) / seconds, sum(isinstance(result, Failure) for _, result in results)


def main() -> None:
    """Time everything, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--captioner", action="append", default=[])
    parser.add_argument("--image-model", default=VisionConfig().image_model)
    options = parser.parse_args()
    start = time.perf_counter()
    photos = load_photos(options.folder, options.limit)
    decoding = len(photos) / (time.perf_counter() - start)
    if not photos:
        parser.error(f"no photo in {options.folder}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {gpu}")
    print(f"{len(photos)} photos, decoded and scaled at {decoding:.0f}/s by one thread\n")
    print(f"{'captioner':<50} precision  photos/s  to builtin  failed")
    cached = [kind for kind, (_, name) in CAPTIONERS.items() if name and Weights.find(name)]
    builtin = 0.0
    for name in dict.fromkeys(["builtin", *cached, *options.captioner]):
        captioner = open_captioner(Config(vision=VisionConfig(captioner=name)))
        speed, failed = photos_per_second(captioner, photos)
        builtin = builtin or speed
        precision = captioner.provenance.get("precision", "-")
        print(f"{name[-50:]:<50} {precision:<9} {speed:9.2f}  {speed / builtin:10.4f}  {failed:6d}")
    encoder = ImageEncoder(options.image_model)
    if encoder.available():
        speed, failed = photos_per_second(encoder, photos)
        name, precision = f"features {options.image_model}"[-50:], encoder.placement.precision
        print(f"{name:<50} {precision:<9} {speed:9.2f}  {speed / builtin:10.4f}  {failed:6d}")


if __name__ == "__main__":
    main()
