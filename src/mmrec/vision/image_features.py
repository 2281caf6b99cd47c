"""Captions and vectors of photo files, kept in the store: no model sees a file twice."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from mmrec.cache.store import Failure, Provenance, Result, Store
from mmrec.config import VisionConfig
from mmrec.console import track
from mmrec.data.images import load_photo, verify_photo
from mmrec.encoder.weights import Placement, Weights, file_digest
from mmrec.errors import ModelError, PhotoError
from mmrec.llm.types import HOW_TO_GO_ON, Answer
from mmrec.vision.captioner import Captioner, PhotoBlocks

UNREADABLE = "photo cannot be read"


@dataclass(frozen=True)
class Captions:
    """Captions by path, "" where there is none, and how many fail for which reason; one in full."""

    texts: dict[str, str]
    failures: Counter[str]
    example: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not (total := self.failures.total()):
            return ""
        top = self.failures.most_common(3)
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in top)
        return f"{total:,} of {len(self.texts):,} photos have no caption: {reasons}"

    def insist(self) -> None:
        """Raise a ModelError where most photos that can be read got no caption."""
        unreadable = self.failures[UNREADABLE]
        asked, failed = len(self.texts) - unreadable, self.failures.total() - unreadable
        if 2 * failed > asked:
            raise ModelError(f"{self}; the first: {self.example[0]}. {HOW_TO_GO_ON}")


class LocalPhotoModel:
    """A model of transformers by name or folder; a ModelError if it cannot be loaded."""

    kind: ClassVar[str]  # of its results in the store
    auto_class: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    chunk_sizes: ClassVar[tuple[int, int]]  # photos in a block, on CPU and GPU
    status: Callable[[], str] = str  # nothing is used up

    def __init__(
        self, name: str, revision: str | None = None, placement: Placement | None = None
    ) -> None:
        self.name, self._revision = name, revision
        self.placement = placement or Placement.choose()
        self.chunk_size = self.chunk_sizes[self.placement.device == "cuda"]

    @property
    def provenance(self) -> Provenance:
        """What determines a result besides the photo."""
        model = {"model": self._weights.title, "revision": self._weights.revision}
        precision = self.placement.precision
        return {"kind": self.kind, **model, "precision": precision, "version": 1}

    @cached_property
    def _weights(self) -> Weights:
        return Weights.find_or_download(self.name, self._revision)

    @cached_property
    def _model(self) -> Any:
        self._weights.require_type(self.model_types, " or ".join(self.model_types))
        return self._weights.load(self.auto_class, self.placement)

    @cached_property
    def _processor(self) -> Any:
        # With Pillow as its backend, the processor works without torchvision.
        return self._weights.load_part("AutoImageProcessor", backend="pil")

    def _pixels(self, photos: Sequence[Image.Image]) -> torch.Tensor:
        """Photos as the model takes them, (n, 3, h, w)."""
        pixels = self._processor(images=[*photos], return_tensors="pt")["pixel_values"]
        return pixels.to(self.placement.device, self.placement.dtype)


class ImageEncoder(LocalPhotoModel):
    """Pooled features of ResNet, (2048,) for ResNet-50 (paper, section 4)."""

    kind, auto_class, model_types = "image vector", "AutoModel", ("resnet",)
    chunk_sizes = (16, 128)

    def available(self) -> bool:
        """Whether the weights are here; those that the user names must be."""
        is_default = self.name == VisionConfig().image_model
        return not is_default or Weights.find(self.name, self._revision) is not None

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self._weights.settings["hidden_sizes"][-1])

    def compute(self, photos: PhotoBlocks) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 vectors of photos, by block."""
        for block in photos:
            vectors = self._forward([photo for _, photo in block]).astype(np.float16)
            for (number, _), vector in zip(block, vectors, strict=True):
                is_valid = np.isfinite(vector).all()
                yield number, vector if is_valid else Failure("vector is not finite")

    @torch.inference_mode()
    def _forward(self, photos: list[Image.Image]) -> np.ndarray:
        """(n, d) float32."""
        model = self._model.to(memory_format=torch.channels_last)
        pixels = self._pixels(photos).to(memory_format=torch.channels_last)
        pooled: torch.Tensor = model(pixel_values=pixels).pooler_output  # (n, d, 1, 1)
        return pooled.flatten(1).float().cpu().numpy()


class PhotoAnnotator:
    """Captions and encodes photo files; results are stored under a file's hash."""

    max_side = 1024  # bounds the memory of a block; models look at less than half of it
    threads = 4  # Pillow's decoders and sha256 release the interpreter lock

    def __init__(self, store: Store, max_pixels: int) -> None:
        self._store, self._max_pixels = store, max_pixels
        self._hashes: dict[str, str | Failure] = {}

    def caption_photos(self, paths: Iterable[str], captioner: Captioner) -> Captions:
        """Caption photos; raises a ModelError where the captioner cannot be used."""
        captions = Captions({}, Counter())
        results = self._get_or_compute(paths, captioner, "captioning photos")
        for path, result in results.items():
            if isinstance(result, Failure):
                reason = result.reason.partition(":")[0]
                captions.failures[reason] += 1
                if reason != UNREADABLE and not captions.example:
                    captions.example.append(result.reason)
                captions.texts[path] = ""
            else:
                captions.texts[path] = Answer.model_validate_json(result).text
        return captions

    def caption_photo(self, path: Path, captioner: Captioner) -> str:
        """Caption one photo; a PhotoError if it cannot be read, or gets no caption."""
        # First, since the reason why a photo cannot be read is lost among the failures.
        verify_photo(path, self._max_pixels)
        captions = self.caption_photos([str(path)], captioner)
        if captions.failures:
            raise PhotoError(f"no caption ({next(iter(captions.failures))})")
        return captions.texts[str(path)]

    def count_uncaptioned(self, paths: Iterable[str], captioner: Captioner) -> int:
        """How many photos the captioner would have to look at."""
        hashes = self._hash_files(paths).values()
        readable = [file_hash for file_hash in hashes if isinstance(file_hash, str)]
        provenance = {**captioner.provenance, "side": self.max_side}
        return len(self._store.missing(provenance, readable))

    def encode_photos(self, paths: Iterable[str], encoder: ImageEncoder) -> dict[str, np.ndarray]:
        """Encode photos as (d,) float16 vectors by path; unreadable ones are left out."""
        vectors = {}
        for path, result in self._get_or_compute(paths, encoder, "encoding photos").items():
            if isinstance(result, bytes):
                vectors[path] = np.frombuffer(result, np.float16)
        return vectors

    def _get_or_compute(
        self, paths: Iterable[str], model: Captioner | ImageEncoder, title: str
    ) -> dict[str, Result]:
        """Results by path, from the store or computed; unreadable files are failures."""
        results: dict[str, Result] = {}
        hashes: dict[str, str] = {}
        for path, file_hash in self._hash_files(paths).items():
            if isinstance(file_hash, Failure):
                results[path] = file_hash
            else:
                hashes[path] = file_hash
        if not hashes:  # the model may not even be here
            return results
        compute = partial(self._compute, model, [*hashes])
        options: Any = {"title": title, "chunk": model.chunk_size, "status": model.status}
        provenance, inputs = {**model.provenance, "side": self.max_side}, hashes.values()
        computed = self._store.get_or_compute(provenance, inputs, compute, **options)
        return results | dict(zip(hashes, computed, strict=True))

    def _compute(
        self, model: Captioner | ImageEncoder, paths: Sequence[str], blocks: Iterator[list[int]]
    ) -> Generator[tuple[int, Result]]:
        """Results as they are stored; photos are decoded one block ahead of the model."""
        broken: list[tuple[int, Failure]] = []

        def load(number: int) -> tuple[int, Image.Image] | None:
            try:
                photo = load_photo(Path(paths[number]), self._max_pixels, self.max_side)
            except PhotoError as error:
                broken.append((number, Failure(f"{UNREADABLE}: {error}", final=False)))
                return None
            return number, photo

        def decode(pool: ThreadPoolExecutor) -> PhotoBlocks:
            submitted = (pool.map(load, block) for block in blocks)
            # `pairwise` submits the next block before it hands out this one.
            for loaded, _ in pairwise(chain(submitted, [iter(())])):
                if photos := list(filter(None, loaded)):
                    yield photos

        with ThreadPoolExecutor(self.threads) as pool:
            for number, result in model.compute(decode(pool)):
                if isinstance(result, Answer):
                    yield number, result.model_dump_json().encode()
                else:
                    yield number, result if isinstance(result, Failure) else result.tobytes()
        # Every number must come back, also that of a photo which no model has seen.
        yield from broken

    def _hash_files(self, paths: Iterable[str]) -> dict[str, str | Failure]:
        """SHA-256 of each file by path, computed once."""

        def digest(path: str) -> str | Failure:
            try:
                return file_digest(Path(path))
            except OSError as error:
                return Failure(f"{UNREADABLE}: {error.strerror}", final=False)

        unique = list(dict.fromkeys(paths))
        new = [path for path in unique if path not in self._hashes]
        # A bar for less than a second of work only flickers.
        bar = track("hashing photos", len(new)) if len(new) >= 2000 else nullcontext(id)
        with ThreadPoolExecutor(self.threads) as pool, bar as advance:
            for path, file_hash in zip(new, pool.map(digest, new), strict=True):
                self._hashes[path] = file_hash
                advance(1)
        return {path: self._hashes[path] for path in unique}
