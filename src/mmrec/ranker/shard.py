"""Which rows of a batch a process learns from: all of them, unless several processes train one model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["Share"]


class Share:
    """The share of a process that trains alone; `mmrec.distributed.training` has that of one among several.

    What is drawn by chance is drawn for a whole batch, so that it does not depend on who computes which row.
    """

    def deal(self, rows: Tensor) -> Tensor:
        """The own rows of a batch: (b,) neighbours of (B,)."""
        return rows

    def place(self, own: int) -> tuple[int, int]:
        """Where b own rows begin in the batch that was dealt last, and how many it has."""
        return 0, own

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors up over all processes, in place."""
