"""Photos from outside: checked before use, decoded within limits, refused with a reason."""

from __future__ import annotations

import io
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from mmrec.console import track
from mmrec.errors import PhotoError

__all__ = ["IMAGE_FORMATS", "check_photo", "check_photos"]
__all__ += ["encode_jpeg", "encode_thumbnail", "load_photo"]

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats that are decoded, by Pillow's names; decided by content, never by suffix."""

_ONE_PHOTO = Lock()


def check_photo(path: str, root: Path, max_pixels: int) -> Path:
    """Return the resolved absolute path of a photo that lies inside `root` and was decoded once.

    Args:
        path: as the data names it, relative to `root`.
        root: folder that no photo may leave, by `..`, an absolute path or a link.

    Raises:
        PhotoError: outside the folder, missing, not a regular file, or refused by `load_photo`.
    """
    try:
        path.encode()
        folder = root.resolve()
        photo = (folder / path).resolve()
        if not photo.is_relative_to(folder):
            raise PhotoError("outside the folder")
        if not photo.exists():
            raise PhotoError("no such file")
        if not photo.is_file():
            raise PhotoError("not a regular file")
    # the name is too long, holds NUL, cannot be encoded, or is a loop of links
    except (OSError, ValueError, RuntimeError) as error:
        raise PhotoError(f"not a usable path ({type(error).__name__})") from error
    load_photo(photo, max_pixels)
    return photo


def load_photo(path: Path | IO[bytes], max_pixels: int) -> Image.Image:
    """Return a photo as RGB, upright as its EXIF orientation says; of an animation the first frame.

    Raises:
        PhotoError: not one of `IMAGE_FORMATS`, more pixels than allowed, or not decodable to its end.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise PhotoError(f"{width}x{height} pixels, more than {max_pixels} in all")
            image.load()  # first, because in a PNG the orientation may follow the pixels
            return ImageOps.exif_transpose(image).convert("RGB")
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError("not a JPEG, PNG, WebP or GIF") from error
    except Image.DecompressionBombError as error:
        raise PhotoError("more pixels than can be decoded safely") from error
    except Exception as error:  # on hostile bytes decoders raise anything
        raise PhotoError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def encode_thumbnail(photo: Path | IO[bytes], max_pixels: int, side: int = 640) -> bytes:
    """Return a photo as a JPEG of at most `side` pixels a side, without any metadata.

    Raises:
        PhotoError: it cannot be read.
    """
    # One at a time: a small file may hold so many pixels that a few of them fill the memory.
    with _ONE_PHOTO:
        image = load_photo(photo, max_pixels)
    return encode_jpeg(image, side, quality=80)


def encode_jpeg(image: Image.Image, side: int, quality: int) -> bytes:
    """Return the pixels of an image as a JPEG of at most `side` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    # Pillow saves comments of the original with an image, but not with one that was pasted.
    bare = Image.new("RGB", small.size)
    bare.paste(small)
    file = io.BytesIO()
    bare.save(file, "JPEG", quality=quality)
    return file.getvalue()


def check_photos(
    photos: Collection[tuple[str, Path]], max_pixels: int
) -> dict[tuple[str, Path], Path | PhotoError]:
    """Check many photos at once, each (path, root) as `check_photo` does; refusals are values."""

    def check(photo: tuple[str, Path]) -> Path | PhotoError:
        try:
            return check_photo(*photo, max_pixels)
        except PhotoError as error:
            return error

    unique = list(dict.fromkeys(photos))
    if not unique:
        return {}
    checked = {}
    # threads help, because Pillow's decoders release the interpreter lock
    with ThreadPoolExecutor(4) as pool, track("Checking photos", len(unique)) as advance:
        for photo, outcome in zip(unique, pool.map(check, unique), strict=True):
            checked[photo] = outcome
            advance(1, isinstance(outcome, PhotoError))
    return checked
