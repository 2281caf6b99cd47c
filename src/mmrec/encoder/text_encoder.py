"""The sentence encoder: texts to unit vectors in one space, each text encoded once."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.cache.store import Failure, Provenance, Result, Store, default_store_path
from mmrec.config import EncoderConfig
from mmrec.console import console
from mmrec.encoder.weights import Placement, Weights, bundled_minilm, file_digest, locate_encoder
from mmrec.errors import ModelError, StoreError


class Encoder:
    """Encodes texts through a store, each once; a ModelError if bundled weights are not the original."""

    chunk = 2048  # texts whose vectors are stored at a time

    def __init__(
        self, config: EncoderConfig, store: Store, placement: Placement | None = None
    ) -> None:
        self.config, self._store = config, store
        placement = placement or Placement.choose()
        self.source, revision = locate_encoder(config.encoder_model)
        # The two fast backends are for MiniLM on a processor.
        self.backend_name: str = config.encoder_backend
        if placement.device == "cuda" or Path(self.source) != bundled_minilm():
            self.backend_name = "sentence-transformers"
        elif config.encoder_backend == "auto":
            self.backend_name = "openvino" if find_spec("openvino") else "torch"
        precision: str = config.precision
        if precision == "auto":
            precision = "bf16" if placement.precision == "bf16" else "fp32"
        self._bf16 = precision == "bf16"
        self.provenance: Provenance = {"kind": "vector", "model": config.encoder_model}
        self.provenance |= {"revision": revision, "precision": precision}
        if self.backend_name == "openvino":  # rounds differently in bf16
            self.provenance["backend"] = self.backend_name
        self.description = f"{config.encoder_model} ({precision}, {self.backend_name})"

    @cached_property
    def backend(self) -> _SentenceTransformersBackend | MeanPoolingBackend:
        """The loaded model; it is loaded when a text is not in the store."""
        return _load_backend(self.backend_name, self.source, self._bf16, torch.get_num_threads())

    def encode(self, texts: Sequence[str], title: str = "encoding") -> np.ndarray:
        """Encode texts to (n, d) float16 unit vectors; zeros where no worker could encode a text.

        Raises a ModelError if the model cannot be loaded or encodes no text, a StoreError for a
        damaged store.
        """
        # A tokenizer refuses lone surrogates.
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        if not texts:
            return np.zeros((0, self.backend.dimension), dtype=np.float16)

        def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            rows = ([(row, texts[row]) for row in block] for block in blocks)
            for position, vector in self.encode_blocks(rows):
                yield position, vector if isinstance(vector, Failure) else vector.tobytes()

        options: Any = {"title": title, "chunk": self.chunk}
        # By length, to waste little padding.
        options["order"] = lambda position: (len(texts[position]), texts[position])
        results = self._store.get_or_compute(self.provenance, texts, compute, **options)
        vectors = [result for result in results if isinstance(result, bytes)]
        if failures := [result for result in results if isinstance(result, Failure)]:
            reason = failures[0].reason
            if not vectors:
                raise ModelError(f"no text could be encoded: {reason}")
            console.print(f"- {len(failures):,} texts have no vector: {reason}", markup=False)
        if len(set(map(len, vectors))) != 1:
            mend = "delete them by `mmrec store prune --kind vector`"
            raise StoreError(f"vectors in the store are damaged; {mend}")
        zeros = bytes(len(vectors[0]))
        rows = (zeros if isinstance(result, Failure) else result for result in results)
        return np.frombuffer(b"".join(rows), np.float16).reshape(len(results), -1)

    def encode_blocks(
        self, blocks: Iterator[list[tuple[int, str]]]
    ) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 unit vectors of numbered texts, a block at a time, without the store."""
        for block in blocks:
            numbers, texts = zip(*block, strict=True)
            yield from zip(numbers, self.backend.encode(texts).astype(np.float16), strict=True)


class _SentenceTransformersBackend:
    """Any sentence-transformers model, by its name or folder, on CUDA where there is one."""

    def __init__(self, source: str, bf16: bool) -> None:
        from sentence_transformers import SentenceTransformer

        dtype = torch.bfloat16 if bf16 else torch.float32
        options = {"dtype": dtype, "use_safetensors": True}  # never pickles
        try:
            # No code of the model's folder runs; before 5.7 some did nevertheless.
            self._model = SentenceTransformer(source, model_kwargs=options, trust_remote_code=False)
        except (OSError, ValueError) as error:
            mend = "without a hub, `pip install mmrec[offline]` brings all-MiniLM-L6-v2"
            raise ModelError(f"cannot load the encoder {source!r}: {error}; {mend}") from error
        self.dimension = len(self._model.encode("x"))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (n, dimension) float32 unit vectors, in the order given."""
        vectors = self._model.encode(list(texts), show_progress_bar=False)
        return _unit(np.asarray(vectors, dtype=np.float32))


class MeanPoolingBackend:
    """A BERT whose sentence vector is the mean over its tokens, on a CPU by `torch` or `openvino`.

    Batches hold a fixed number of tokens, so that activations stay in the processor's cache. Each
    core works on a batch of its own, since such small batches do not keep two cores busy together.
    """

    def __init__(self, folder: Path, engine: str, bf16: bool) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "sentence_bert_config.json").read_text())
        self._tokenizer.enable_truncation(settings["max_seq_length"])
        self._tokenizer.no_padding()
        self.dimension: int = json.loads((folder / "config.json").read_text())["hidden_size"]
        # Tokens of the fastest batch, with padding; texts are padded to a multiple of the step.
        if engine == "openvino":
            self._mean_vectors = _open_openvino(folder, bf16)
            self._batch_tokens, self._length_step = 512, 1
        else:
            self._mean_vectors = _MeanPooledBert(folder, "bf16" if bf16 else "fp32").mean_vectors
            # Kernels are compiled for every shape, so there are few shapes.
            self._batch_tokens, self._length_step = 1024, 8

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (n, dimension) float32 unit vectors, in the order given."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)

        def encode_batch(rows: list[int], length: int) -> None:
            ids, mask = np.zeros((2, len(rows), length), dtype=np.int64)
            for place, row in enumerate(rows):
                ids[place, : len(tokens[row])] = tokens[row]
                mask[place, : len(tokens[row])] = 1
            vectors[rows] = self._mean_vectors(ids, mask)

        by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        batches, lengths = [], []
        while by_length:  # batches of similar lengths, the longest first
            longest = len(tokens[by_length[-1]])
            lengths.append(math.ceil(longest / self._length_step) * self._length_step)
            size = max(1, self._batch_tokens // lengths[-1])
            batches.append(by_length[-size:])
            del by_length[-size:]
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, "encoder", torch.set_num_threads, (1,)) as pool:
                list(pool.map(encode_batch, batches, lengths))
        finally:
            torch.set_num_threads(threads)
        return _unit(vectors)


@cache
def _load_backend(
    name: str, source: str, bf16: bool, threads: int
) -> _SentenceTransformersBackend | MeanPoolingBackend:
    # Cached for each number of threads.
    if name == "sentence-transformers":
        return _SentenceTransformersBackend(source, bf16)
    return MeanPoolingBackend(Path(source), name, bf16)


class _MeanPooledBert(nn.Module):
    def __init__(self, folder: Path, precision: str) -> None:
        super().__init__()
        self.bert = Weights(str(folder), folder).load("AutoModel", Placement("cpu", precision))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    @torch.inference_mode()
    def mean_vectors(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(B, d) float32 means over the (B, length) int64 tokens whose mask is 1."""
        means: Tensor = self(torch.from_numpy(ids), torch.from_numpy(mask))
        return means.numpy()


def _open_openvino(folder: Path, bf16: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The same by OpenVINO (the extra `openvino`); the converted model is kept beside the store."""
    try:
        import openvino
    except ImportError as error:
        mend = "`pip install 'mmrec[openvino]'`, or take --encoder-backend torch"
        raise ModelError(f"OpenVINO cannot be loaded ({error}); {mend}") from error
    core, digest = openvino.Core(), file_digest(folder / "model.safetensors")
    name = f"openvino-{openvino.__version__[:12]}-{digest[:16]}.xml"
    path = default_store_path().with_name(name)
    try:
        model = core.read_model(path)
    except RuntimeError:  # absent or damaged
        model = _convert(folder, path)
    threads, local = torch.get_num_threads(), threading.local()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}
    options |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    compiled = core.compile_model(model, "CPU", options)

    def mean_vectors(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if not hasattr(local, "request"):  # which serves one thread at a time
            local.request = compiled.create_infer_request()
        means: np.ndarray = local.request.infer([ids, mask])[0].copy()
        return means

    return mean_vectors


def _convert(folder: Path, path: Path) -> Any:
    """The model in OpenVINO's form; saved whole or not at all."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    module, example = _MeanPooledBert(folder, "fp32"), torch.ones(2, 8, dtype=torch.int64)
    with torch.inference_mode(), warnings.catch_warnings(), ExitStack() as restore:
        # Tracing warns of branches that a sentence encoder never takes.
        warnings.simplefilter("ignore")
        restore.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        # Not `openvino.convert_model`, which may report usage.
        traced = torch.jit.trace(module, (example, example))  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced)  # it must outlive `load`
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    with suppress(OSError, RuntimeError):  # where it cannot be saved, it is used as it is
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            temporary = Path(name) / path.name
            openvino.save_model(model, temporary, compress_to_fp16=False)
            # The .xml file refers to the .bin file, so it comes last.
            for suffix in (".bin", ".xml"):
                temporary.with_suffix(suffix).replace(path.with_suffix(suffix))
        model = openvino.Core().read_model(path)  # to round as later runs do
    return model


def _unit(vectors: np.ndarray) -> np.ndarray:
    # In float32: a length that is computed in bf16 is off by some tenths of a percent.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
