"""The rows of a batch that one process trains on: all of them, unless several train one model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["Shard"]


class Shard:
    """The shard of a process that trains alone; `mmrec.distributed.training` has the other one.

    Random numbers are drawn for whole batches, so that they do not depend on who computes a row.
    """

    def local_rows(self, rows: Tensor) -> Tensor:
        """(b,) neighbouring rows of a (B,) batch that this process computes."""
        return rows

    def position(self, count: int) -> tuple[int, int]:
        """Where `count` local rows begin in the last batch of `local_rows`, and the size of that batch."""
        return 0, count

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place."""
