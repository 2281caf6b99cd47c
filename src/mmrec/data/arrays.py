"""Arrays that may be larger than memory: float16 vectors, mapped to a temporary file if large."""

from __future__ import annotations

import math
import os
import tempfile

import numpy as np
import torch
from numpy.typing import DTypeLike

from mmrec.errors import DataError

__all__ = ["allocate", "to_float16", "to_float32"]

_LARGE = 100_000_000
"""Bytes from which an array is mapped; arrays of some 10^5 reviews stay in memory."""


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array to be filled; a large one is mapped to a file in the folder `TMPDIR`.

    The system can write a mapped array to the disk when memory is short. The file has no name, so it
    is gone when the array is, also after a crash.

    Raises:
        DataError: the disk has no room for it, or there is no such folder.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.empty(shape, dtype=dtype)
    try:
        with tempfile.TemporaryFile(prefix="mmrec") as file:
            # Without this, a full disk would be noticed on writing, where it kills the process.
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, size)
            return np.asarray(np.memmap(file, dtype, "w+", shape=shape))
    except OSError as error:
        raise DataError(
            f"{tempfile.gettempdir()} has no room for {size / 1e9:.1f} GB of features "
            f"({error.strerror}); set TMPDIR to a folder on a disk that has"
        ) from error


def to_float32(values: np.ndarray) -> np.ndarray:
    """Return float32 of float16, ten times as fast as NumPy; an array of another type as it is."""
    return torch.from_numpy(values).float().numpy() if values.dtype == np.float16 else values


def to_float16(values: np.ndarray) -> np.ndarray:
    """Return float16 of any floats."""
    return torch.from_numpy(values).half().numpy()
