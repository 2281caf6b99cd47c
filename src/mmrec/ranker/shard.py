"""Which rows of a batch a process learns from: all of them, unless several processes train one model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["Shard"]


class Shard:
    """The share of a process that trains alone; `mmrec.distributed.training` has that of one among several.

    What is drawn by chance is drawn for a whole batch, so that it does not depend on who computes which row.
    """

    def local_rows(self, rows: Tensor) -> Tensor:
        """The own rows of a batch: (b,) neighbours of (B,)."""
        return rows

    def position(self, count: int) -> tuple[int, int]:
        """Where b own rows begin in the batch that was dealt last, and how many it has."""
        return 0, count

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors up over all processes, in place."""
