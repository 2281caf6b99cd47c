"""Float16, in which vectors are kept, from and to wider types: PyTorch is ten times as fast as NumPy."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["halved", "widened"]


def widened(values: np.ndarray) -> np.ndarray:
    """Float32 of float16; of any other type the array itself."""
    return torch.from_numpy(values).float().numpy() if values.dtype == np.float16 else values


def halved(values: np.ndarray) -> np.ndarray:
    """Float16 of any floats."""
    return torch.from_numpy(values).half().numpy()
