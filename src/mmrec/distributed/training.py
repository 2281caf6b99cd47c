"""One model trained by several workers (Ray Train): each learns from its share of every batch.

Gradients are added up in every step, so that all workers have the same weights: those of one process, up to
rounding. Chance is drawn for whole batches. When a worker dies, training begins again: it takes minutes, and
checkpoints would need a folder that all machines share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, distributed

from mmrec.config import EngineConfig
from mmrec.console import console
from mmrec.distributed.ray_cluster import connect, core_count
from mmrec.distributed.workers import worker_pool
from mmrec.errors import MmrecError, ModelError
from mmrec.ranker.shard import Shard

__all__ = ["train_on_workers"]

T = TypeVar("T")
_LEAST_ROWS: Final = (
    128  # of a batch, below which workers wait for each other more than they compute
)
_FAILURES: Final = 3


class _Dealt(Shard):
    """A worker's share: as many neighbouring rows of every batch as the others have."""

    def __init__(self, rank: int, workers: int) -> None:
        self._rank, self._workers = rank, workers

    def local_rows(self, rows: Tensor) -> Tensor:
        self._whole = len(rows)
        self._start, stop = (
            len(rows) * rank // self._workers for rank in (self._rank, self._rank + 1)
        )
        return rows[self._start : stop]

    def position(self, count: int) -> tuple[int, int]:
        return self._start, self._whole

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        # In one message, since every message is a wait.
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, added in zip(
            tensors, torch.split(flat, [one.numel() for one in tensors]), strict=True
        ):
            tensor.copy_(added.view_as(tensor))


def train_on_workers(config: EngineConfig, batch_size: int, work: Callable[[Shard], T]) -> T:
    """What training by several workers gives; all of them do the same work, each with its share of rows.

    A batch is dealt to no more workers than have 128 rows each; where that is one, nothing is started.

    Args:
        config: the cluster.
        batch_size: rows a step.
        work: trains with a share; what the first worker returns must be fit to be sent.

    Raises:
        MmrecError: the same as a worker has raised.
        ModelError: training failed, also when it was begun again.
    """
    most = batch_size // _LEAST_ROWS
    if min(most, config.workers or most) < 2:
        return work(Shard())
    ray = connect(config)
    worker_pool(config).stop_workers()  # its workers would hold the cores
    workers = min(most, config.workers or core_count(ray))
    if workers < 2:
        return work(Shard())
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    console.print(f"- training on {workers} workers", markup=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            _worker,
            # A reference, so that features are sent to a machine once.
            train_loop_config={"work": ray.put(work)},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                storage_path=folder, failure_config=FailureConfig(max_failures=_FAILURES)
            ),
        )
        try:
            result: Any = trainer.fit()  # its class is declared without the value that it has
        except ray.train.TrainingFailedError as error:
            raise ModelError(f"training on {workers} workers failed: {error}") from error
    if isinstance(result.return_value, MmrecError):
        raise result.return_value
    return result.return_value


def _worker(given: dict[str, Any]) -> Any:
    import ray
    from ray.train import get_context

    context = get_context()
    try:
        return ray.get(given["work"])(_Dealt(context.get_world_rank(), context.get_world_size()))
    except MmrecError as error:  # all workers have the same; raised here, it would be tried again
        return error
