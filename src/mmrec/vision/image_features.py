"""Photos put into words and into vectors, each different file once ever."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore
from typing import IO

import numpy as np
from PIL import Image

from mmrec.cache.store import Failure, Result, Store
from mmrec.console import track
from mmrec.data.images import load_photo
from mmrec.errors import PhotoError
from mmrec.llm.types import Answer
from mmrec.vision.resnet import ImageEncoder
from mmrec.vision.types import Captioner

__all__ = ["Captions", "PhotoAnnotator", "encode_thumbnail"]

_DECODING = Semaphore()  # a small file may hold so many pixels that a few at once fill the memory
_SHOWN = 640  # pixels of what people are shown
_SIDE = 1024  # so that blocks of photos have a limit in memory; models look at less than half of it
_THREADS = 4  # Pillow's decoders and sha256 release the interpreter lock
_SHOW_FROM = 2000
_Photos = Iterator[list[tuple[int, Image.Image]]]


@dataclass(frozen=True)
class Captions:
    """Captions of photos.

    Attributes:
        texts: path -> caption; "" where there is none.
        failures: why photos have none, and how many have none for that reason.
    """

    texts: dict[str, str]
    failures: Counter[str]

    def __str__(self) -> str:
        """How many photos have no caption, and why; empty when all have one."""
        why = ", ".join(f"{reason} ({count:,})" for reason, count in self.failures.most_common(3))
        return (
            f"{self.failures.total():,} of {len(self.texts):,} photos have no caption: {why}"
            if why
            else ""
        )


class PhotoAnnotator:
    """Photos on disk; each file is hashed once, and looked at only when the store lacks it.

    Args:
        store: where captions and vectors are kept, under the hash of the photo's bytes.
        max_pixels: photos with more pixels are not decoded.
    """

    def __init__(self, store: Store, max_pixels: int) -> None:
        self._store = store
        self._max_pixels = max_pixels
        self._hashes: dict[str, str | Failure] = {}

    def caption_photos(self, paths: Iterable[str], captioner: Captioner) -> Captions:
        """Caption photos by path.

        Raises:
            ModelError: the captioner cannot be used.
        """

        def work(photos: _Photos) -> Iterator[tuple[int, Result]]:
            for at, said in captioner.caption(photos):
                yield at, said if isinstance(said, Failure) else said.model_dump_json().encode()

        unique = list(dict.fromkeys(paths))
        if not unique:
            return Captions({}, Counter())
        what, status = "captioning photos", captioner.status
        results = self._remember(unique, captioner.provenance, captioner.chunk, work, what, status)
        text, failed = {}, Counter[str]()
        for path, result in zip(unique, results, strict=True):
            if isinstance(result, Failure):
                failed[result.reason.partition(":")[0]] += 1
            text[path] = (
                "" if isinstance(result, Failure) else Answer.model_validate_json(result).text
            )
        return Captions(text, failed)

    def caption_photo(self, path: Path, captioner: Captioner) -> str:
        """What one photo shows.

        Raises:
            PhotoError: it cannot be read, or the captioner found no words.
        """
        load_photo(path, self._max_pixels)
        said = self.caption_photos([str(path)], captioner)
        if said.failures:
            raise PhotoError(f"nothing could be read from it ({next(iter(said.failures))})")
        return said.texts[str(path)]

    def count_uncaptioned(self, paths: Iterable[str], captioner: Captioner) -> int:
        """How many photos the captioner would be asked about."""
        hashes = [one for one in self._hashed(list(dict.fromkeys(paths))) if isinstance(one, str)]
        return len(self._store.missing({**captioner.provenance, "side": _SIDE}, hashes))

    def encode_photos(self, paths: Iterable[str], features: ImageEncoder) -> dict[str, np.ndarray]:
        """(d,) float16 vectors of photos by path; those that cannot be read are left out.

        Raises:
            ModelError: the image model cannot be used.
        """

        def work(photos: _Photos) -> Iterator[tuple[int, Result]]:
            for at, vector in features.encode(photos):
                yield at, vector if isinstance(vector, Failure) else vector.tobytes()

        unique = list(dict.fromkeys(paths))
        if not unique:
            return {}
        results = self._remember(
            unique, features.provenance, features.chunk, work, "looking at photos", str
        )
        pairs = zip(unique, results, strict=True)
        return {
            path: np.frombuffer(raw, np.float16) for path, raw in pairs if isinstance(raw, bytes)
        }

    def _remember(
        self,
        paths: Sequence[str],
        maker: dict[str, object],
        chunk: int,
        work: Callable[[_Photos], Iterator[tuple[int, Result]]],
        what: str,
        status: Callable[[], str],
    ) -> list[Result]:
        hashes = self._hashed(paths)
        files = [at for at, known in enumerate(hashes) if isinstance(known, str)]

        def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            broken: deque[tuple[int, Result]] = deque()
            with closing(self._opened([paths[at] for at in files], blocks, broken)) as photos:
                for done in work(photos):
                    yield done
                    while broken:
                        yield broken.popleft()
            yield from broken

        found = self._store.get_or_compute(
            {**maker, "side": _SIDE},
            [str(hashes[at]) for at in files],
            compute,
            title=what,
            chunk=chunk,
            status=status,
        )
        results: dict[int, Result] = dict(zip(files, found, strict=True))
        return [why if isinstance(why, Failure) else results[at] for at, why in enumerate(hashes)]

    def _hashed(self, paths: Sequence[str]) -> list[str | Failure]:
        new = [path for path in paths if path not in self._hashes]
        if new:
            bar = (
                track("hashing photos", len(new))
                if len(new) >= _SHOW_FROM
                else nullcontext(_unseen)
            )
            with ThreadPoolExecutor(_THREADS) as pool, bar as advance:
                for path, digest in zip(new, pool.map(_sha256, new), strict=True):
                    self._hashes[path] = digest
                    advance(1)
        return [self._hashes[path] for path in paths]

    def _opened(
        self, paths: Sequence[str], blocks: Iterator[list[int]], broken: deque[tuple[int, Result]]
    ) -> Generator[list[tuple[int, Image.Image]]]:
        """Decoded photos, the next block while the model looks at this one; put broken ones aside."""
        with ThreadPoolExecutor(_THREADS) as pool:
            ahead: deque[list[tuple[int, Future[Image.Image]]]] = deque()
            for block in blocks:
                ahead.append(
                    [(at, pool.submit(_small, paths[at], self._max_pixels)) for at in block]
                )
                if len(ahead) > 1:
                    yield from _ready(ahead.popleft(), broken)
            while ahead:
                yield from _ready(ahead.popleft(), broken)


def _ready(
    block: list[tuple[int, Future[Image.Image]]], broken: deque[tuple[int, Result]]
) -> Iterator[list[tuple[int, Image.Image]]]:
    photos = []
    for at, future in block:
        try:
            photos.append((at, future.result()))
        except PhotoError as error:
            broken.append((at, Failure(f"photo cannot be read: {error}", final=False)))
    if photos:
        yield photos


def _small(path: str, max_pixels: int) -> Image.Image:
    photo = load_photo(Path(path), max_pixels)
    photo.thumbnail((_SIDE, _SIDE))
    return photo


def encode_thumbnail(photo: Path | IO[bytes], max_pixels: int) -> bytes:
    """A photo as a small JPEG, made anew, so that nothing but the picture is in it.

    Raises:
        PhotoError: it cannot be read.
    """
    with _DECODING:
        image = load_photo(photo, max_pixels)
        image.thumbnail((_SHOWN, _SHOWN))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def _unseen(done: int) -> None:
    """No bar."""


def _sha256(path: str) -> str | Failure:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Failure(f"photo cannot be read: {error.strerror}", final=False)
