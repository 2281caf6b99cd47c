"""Photos from outside: found in cells, checked before use, decoded within limits or refused."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmrec.console import track
from mmrec.data.files import parse_list
from mmrec.errors import PhotoError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats that are decoded, by Pillow's names; decided by content, never by suffix."""
_LARGE = 10_000_000  # pixels, from which on photos are decoded one at a time
_ONE_LARGE = Lock()
# Memory that threads give back stays with them for later, so that there is one of them.
_THUMBNAILS = ThreadPoolExecutor(1, "thumbnails")


def cell_entries(value: Any) -> list[Any]:
    """Return the entries of a cell: a list, also one in text, or parts of a text with `|` between."""
    if isinstance(value, str):
        listed = parse_list(value)
        return [*map(str.strip, value.split("|"))] if listed is None else listed
    if isinstance(value, list):
        return value
    return [value] if value else []


def is_url(text: str) -> bool:
    """Tell whether a text starts like a URL, of any scheme."""
    return re.match(r"\s*[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def object_urls(fields: Mapping[str, Any]) -> list[str]:
    """Return the URLs in the first field that has any; fields of large photos go first."""
    for name in sorted(fields, key=lambda name: "large" not in name):
        texts = fields[name] if isinstance(fields[name], list) else [fields[name]]
        urls = [text.strip() for text in texts if isinstance(text, str) and is_url(text)]
        if urls:
            return urls
    return []


def photo_names(cell: Any) -> tuple[str, ...]:
    """Return the photos that a cell names or describes by objects, each once; or their URLs."""
    names: dict[str, None] = {}
    for entry in cell_entries(cell):
        if isinstance(entry, Mapping):
            names_of_entry = map(entry.get, ("id", "path", "photo_id"))
            # pandas writes NaN, which equals nothing, for a missing value.
            name = next((name for name in names_of_entry if name and name == name), None)
            entry = name or next(iter(object_urls(entry)), entry)
        if isinstance(entry, str | int | float):
            names[str(entry)] = None
        elif entry is not None:
            names[f"({type(entry).__name__})"] = None
    names.pop("", None)
    return tuple(names)


def check_photo(path: str, root: Path, max_pixels: int) -> Path:
    """Return the resolved path of a photo inside of `root`, after decoding it once; or a PhotoError."""
    try:
        path.encode()
        folder = root.resolve()
        photo = (folder / path).resolve()
        if not photo.is_relative_to(folder):  # by `..`, an absolute path or a link
            raise PhotoError("outside the folder")
        if not photo.is_file():
            raise PhotoError("not a regular file" if photo.exists() else "no such file")
    # The name is too long, holds NUL, cannot be encoded, or is a loop of links.
    except (OSError, ValueError, RuntimeError) as error:
        raise PhotoError(f"not a usable path ({type(error).__name__})") from error
    verify_photo(photo, max_pixels)
    return photo


def load_photo(path: Path | IO[bytes], max_pixels: int, side: int | None = None) -> Image.Image:
    """Return a photo as people see it, in RGB: upright, on white, of an animation the first frame.

    With a `side` it is made smaller, to at most so many pixels a side. Raises a PhotoError for what
    cannot be decoded, and for more than `max_pixels`.
    """
    with _opened(path, max_pixels) as image:
        return _as_seen(image, side)


def verify_photo(path: Path | IO[bytes], max_pixels: int) -> None:
    """Raise a PhotoError for a photo that `load_photo` would refuse, at less cost than that."""
    with _opened(path, max_pixels) as image:
        image.draft(None, (1, 1))  # of a JPEG all bytes are read, but few pixels made
        image.load()
        image.close()  # gives its memory back before another is decoded


def encode_thumbnail(photo: Path | IO[bytes], max_pixels: int, side: int = 640) -> bytes:
    """Return a photo as a JPEG of at most `side` pixels a side, without metadata; or a PhotoError."""

    def encode() -> bytes:
        with _opened(photo, max_pixels) as image:
            image.draft(None, (2 * side, 2 * side))  # a JPEG is decoded at a fraction of its size
            return encode_jpeg(_as_seen(image, side), side, quality=80)

    return _THUMBNAILS.submit(encode).result()


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


@contextmanager
def _opened(path: Path | IO[bytes], max_pixels: int) -> Iterator[Image.Image]:
    """A photo whose pixels are still to be decoded; what then goes wrong is a PhotoError, too."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise PhotoError(f"{width}x{height} pixels, more than {max_pixels} in all")
            # A small file may hold so many pixels that a few of them fill the memory.
            with _ONE_LARGE if width * height > _LARGE else nullcontext():
                yield image
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError("not a JPEG, PNG, WebP or GIF") from error
    except Image.DecompressionBombError as error:
        raise PhotoError("more pixels than can be decoded safely") from error
    except Exception as error:  # on hostile bytes decoders raise anything
        raise PhotoError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def _as_seen(image: Image.Image, side: int | None = None) -> Image.Image:
    """An image in RGB, upright, on white; of at most `side` pixels a side, early, to save memory."""
    image.load()  # first, because in a PNG the orientation may follow the pixels
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would cut off at 8
        values = np.asarray(image).clip(0, 65_535)
        if "transparency" in image.info:  # one value of grey
            values = np.where(values == image.info["transparency"], 65_535, values)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        grey.info, image = image.info, grey
    elif image.mode != "RGBA" and (image.has_transparency_data or image.mode in ("P", "PA")):
        image = image.convert("RGBA")
    if side is not None:
        image.thumbnail((side, side))
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode != "RGBA":
        return image if image.mode == "RGB" else image.convert("RGB")
    seen = Image.new("RGB", image.size, "white")
    seen.paste(image, mask=image)
    return seen


def check_photos(
    photos: Iterable[tuple[str, Path]], max_pixels: int
) -> dict[tuple[str, Path], Path | PhotoError]:
    """Check many photos at once, each (path, root) as `check_photo` does; refusals are values."""

    def check(photo: tuple[str, Path]) -> Path | PhotoError:
        try:
            return check_photo(*photo, max_pixels)
        except PhotoError as error:
            return error

    unique = list(dict.fromkeys(photos))
    checked = dict[tuple[str, Path], Path | PhotoError]()
    if not unique:
        return checked
    # Threads help, because Pillow's decoders release the interpreter lock.
    with ThreadPoolExecutor(4) as pool, track("Checking photos", len(unique)) as advance:
        for photo, outcome in zip(unique, pool.map(check, unique), strict=True):
            checked[photo] = outcome
            advance(1, isinstance(outcome, PhotoError))
    return checked
