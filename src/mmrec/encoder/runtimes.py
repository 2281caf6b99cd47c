"""What multiplies the matrices of a BERT on a processor: PyTorch, or OpenVINO where it is installed."""

from __future__ import annotations

import logging
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.cache.store import default_store_path
from mmrec.encoder.weights import Placement, Weights, file_digest
from mmrec.errors import ModelError

__all__ = ["Means", "OpenVINOMeans", "TorchMeans"]


class Means(Protocol):
    """A loaded BERT, which several threads may ask at once."""

    dimension: int
    tokens_at_once: int
    """Tokens of a batch that is fastest."""
    length_step: int
    """Lengths of batches are multiples of this."""

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(B, d) float32 mean vectors over the tokens of (B, length) texts that the int64 mask leaves."""


class _Pooled(nn.Module):
    """A BERT and the mean over its tokens."""

    def __init__(self, bert: Any) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


class TorchMeans:
    """On PyTorch.

    Args:
        folder: of the weights.
        bf16: multiply in bfloat16, else in float32.
    """

    tokens_at_once = 1024
    length_step = 8  # kernels are compiled for every shape

    def __init__(self, folder: Path, bf16: bool) -> None:
        bert = Weights(str(folder), folder).load(
            "AutoModel", Placement("cpu", "bf16" if bf16 else "fp32")
        )
        self.dimension = int(bert.config.hidden_size)
        self._pooled = _Pooled(bert)

    @torch.inference_mode()
    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(B, d) float32 mean vectors."""
        means: np.ndarray = self._pooled(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return means


class OpenVINOMeans:
    """On OpenVINO (the extra `openvino`), which fuses what PyTorch does step by step.

    In bfloat16 only products are rounded, sums and norms are not, so that vectors are nearer to float32's.

    Args:
        folder: of the weights.
        bf16: multiply in bfloat16, else in float32.

    Raises:
        ModelError: OpenVINO is not installed.
    """

    tokens_at_once = 512
    length_step = 1

    def __init__(self, folder: Path, bf16: bool) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ModelError(
                f"OpenVINO cannot be loaded ({error}); bring it by `pip install 'mmrec[openvino]'`, or take "
                "--encoder-backend torch"
            ) from error
        core = openvino.Core()
        weights = file_digest(folder / "model.safetensors")
        kept = (
            default_store_path().parent / f"openvino-{openvino.__version__[:12]}-{weights[:16]}.xml"
        )
        try:
            model = core.read_model(kept)
        except RuntimeError:  # it is not there, or no model
            model = _converted(folder)
            if _keep(model, kept):
                model = core.read_model(kept)  # so that the first run rounds as later ones do
        self.dimension = int(model.output(0).partial_shape[1].get_length())
        threads = torch.get_num_threads()
        how = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
        }
        self._compiled = core.compile_model(model, "CPU", how)
        self._own = threading.local()

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(B, d) float32 mean vectors."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        means: np.ndarray = self._own.request.infer([ids, mask])[0].copy()
        return means


def _converted(folder: Path) -> Any:
    """The model as OpenVINO has it; takes a second or two."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    bert = Weights(str(folder), folder).load("AutoModel", Placement("cpu", "fp32"))
    example = torch.ones(2, 8, dtype=torch.int64)
    with _quiet(), torch.inference_mode():
        # Not `openvino.convert_model`, which may report home.
        traced = torch.jit.trace(_Pooled(bert), (example, example))  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced)
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))


def _keep(model: Any, path: Path) -> bool:
    """Save a converted model whole or not at all; where it cannot be, it is converted every time."""
    import openvino

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            openvino.save_model(model, Path(folder) / path.name, compress_to_fp16=False)
            for suffix in (".bin", ".xml"):  # the second one names the first
                (Path(folder) / path.name).with_suffix(suffix).replace(path.with_suffix(suffix))
    except (OSError, RuntimeError):
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of tracing, which are about branches that a BERT for sentences never takes."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
