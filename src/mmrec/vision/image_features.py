"""Captions and vectors of photo files, through the store: no model sees the same file twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmrec.cache.store import Failure, Result, Store
from mmrec.console import track
from mmrec.data.images import load_photo
from mmrec.errors import PhotoError
from mmrec.llm.types import Answer
from mmrec.vision.captioner import Captioner, PhotoBlocks
from mmrec.vision.resnet import ImageEncoder

__all__ = ["Captions", "PhotoAnnotator"]


@dataclass(frozen=True)
class Captions:
    """Captions of photos by path, "" where there is none, and how many have none for which reason."""

    texts: dict[str, str]
    failures: Counter[str]

    def __str__(self) -> str:
        """How many photos have no caption, and why; empty when all have one."""
        if not self.failures:
            return ""
        top = self.failures.most_common(3)
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in top)
        total = self.failures.total()
        return f"{total:,} of {len(self.texts):,} photos have no caption: {reasons}"


class PhotoAnnotator:
    """Captions and encodes photos on disk; only those that the store lacks are decoded.

    Args:
        store: where results are kept, under the hash of the file's bytes.
        max_pixels: photos with more pixels are not decoded.
    """

    # Bounds the memory of a block of photos; models look at less than half of it.
    max_side = 1024
    threads = 4  # Pillow's decoders and sha256 release the interpreter lock

    def __init__(self, store: Store, max_pixels: int) -> None:
        self._store = store
        self._max_pixels = max_pixels
        self._hashes: dict[str, str | Failure] = {}

    def caption_photos(self, paths: Iterable[str], captioner: Captioner) -> Captions:
        """Caption photos; raises a ModelError where the captioner cannot be used."""
        texts, failures = {}, Counter[str]()
        compute, title = captioner.caption, "captioning photos"
        results = self._get_or_compute(paths, captioner, compute, _dump_answer, title)
        for path, result in results.items():
            if isinstance(result, Failure):
                failures[result.reason.partition(":")[0]] += 1
                texts[path] = ""
            else:
                texts[path] = Answer.model_validate_json(result).text
        return Captions(texts, failures)

    def caption_photo(self, path: Path, captioner: Captioner) -> str:
        """Caption one photo; raises a PhotoError where it cannot be read, or gets no caption."""
        # First, since the reason why a photo cannot be read is lost among the failures.
        load_photo(path, self._max_pixels)
        captions = self.caption_photos([str(path)], captioner)
        if captions.failures:
            raise PhotoError(f"no caption ({next(iter(captions.failures))})")
        return captions.texts[str(path)]

    def count_uncaptioned(self, paths: Iterable[str], captioner: Captioner) -> int:
        """How many photos the captioner would have to look at."""
        hashes = self._hash_files([*dict.fromkeys(paths)]).values()
        readable = [file_hash for file_hash in hashes if isinstance(file_hash, str)]
        return len(self._store.missing(self._provenance(captioner), readable))

    def encode_photos(self, paths: Iterable[str], encoder: ImageEncoder) -> dict[str, np.ndarray]:
        """Encode photos as (d,) float16 vectors by path; unreadable ones are left out."""
        compute, title = encoder.encode, "encoding photos"
        results = self._get_or_compute(paths, encoder, compute, np.ndarray.tobytes, title)
        vectors = {}
        for path, result in results.items():
            if isinstance(result, bytes):
                vectors[path] = np.frombuffer(result, np.float16)
        return vectors

    def _provenance(self, model: Captioner | ImageEncoder) -> dict[str, object]:
        return {**model.provenance, "side": self.max_side}

    def _get_or_compute(
        self,
        paths: Iterable[str],
        model: Captioner | ImageEncoder,
        compute: Callable[[PhotoBlocks], Iterator[tuple[int, Any]]],
        dump: Callable[[Any], bytes],
        title: str,
    ) -> dict[str, Result]:
        """Results by path, from the store or computed; files that cannot be read are failures."""
        unique = list(dict.fromkeys(paths))
        if not unique:
            return {}
        results: dict[str, Result] = {}
        hashes: dict[str, str] = {}
        for path, file_hash in self._hash_files(unique).items():
            if isinstance(file_hash, Failure):
                results[path] = file_hash
            else:
                hashes[path] = file_hash

        def compute_missing(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            broken: list[tuple[int, Failure]] = []
            with closing(self._decode([*hashes], blocks, broken)) as photos:
                for number, result in compute(photos):
                    yield number, result if isinstance(result, Failure) else dump(result)
            # Every number must come back, also that of a photo which no model has seen.
            yield from broken

        provenance, inputs = self._provenance(model), hashes.values()
        options: Any = {"title": title, "chunk": model.chunk_size, "status": model.status}
        computed = self._store.get_or_compute(provenance, inputs, compute_missing, **options)
        return results | dict(zip(hashes, computed, strict=True))

    def _hash_files(self, paths: Sequence[str]) -> dict[str, str | Failure]:
        """SHA-256 of each file by path, computed once."""
        new = [path for path in paths if path not in self._hashes]
        # A bar for less than a second of work only flickers.
        bar = track("hashing photos", len(new)) if len(new) >= 2000 else nullcontext(id)
        with ThreadPoolExecutor(self.threads) as pool, bar as advance:
            for path, file_hash in zip(new, pool.map(_sha256, new), strict=True):
                self._hashes[path] = file_hash
                advance(1)
        return {path: self._hashes[path] for path in paths}

    def _decode(
        self, paths: Sequence[str], blocks: Iterator[list[int]], broken: list[tuple[int, Failure]]
    ) -> Generator[list[tuple[int, Image.Image]]]:
        """Decode blocks of photos, the next one while the model works on this one; fills `broken`."""
        with ThreadPoolExecutor(self.threads) as pool:
            submitted = (
                zip(block, pool.map(self._load, [paths[number] for number in block]), strict=True)
                for block in blocks
            )
            # `pairwise` submits the next block before it hands out this one.
            for loaded, _ in pairwise(chain(submitted, [()])):
                photos = []
                for number, photo in loaded:
                    if isinstance(photo, Failure):
                        broken.append((number, photo))
                    else:
                        photos.append((number, photo))
                if photos:
                    yield photos

    def _load(self, path: str) -> Image.Image | Failure:
        try:
            photo = load_photo(Path(path), self._max_pixels)
        except PhotoError as error:
            return Failure(f"photo cannot be read: {error}", final=False)
        photo.thumbnail((self.max_side, self.max_side))
        return photo


def _dump_answer(answer: Answer) -> bytes:
    return answer.model_dump_json().encode()


def _sha256(path: str) -> str | Failure:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Failure(f"photo cannot be read: {error.strerror}", final=False)
