"""One model trained by several workers (Ray Train), each on its shard of every batch.

Gradients are summed in every step, and random numbers drawn for entire batches: all workers have
the weights of one process, up to rounding. When a worker dies, training starts again.
"""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor, distributed

from mmrec.config import EngineConfig
from mmrec.console import console
from mmrec.distributed.workers import connect, core_count, worker_pool
from mmrec.errors import MmrecError, ModelError
from mmrec.ranker.inputs import Shard

T = TypeVar("T")


class _WorkerShard(Shard):
    """A worker's shard: neighbouring rows of every batch, as many as the others have."""

    def __init__(self, rank: int, workers: int) -> None:
        self._rank, self._workers = rank, workers

    def local_rows(self, rows: Tensor) -> Tensor:
        self._batch_size = len(rows)
        self._start = len(rows) * self._rank // self._workers
        stop = len(rows) * (self._rank + 1) // self._workers
        return rows[self._start : stop]

    def position(self, count: int) -> tuple[int, int]:
        return self._start, self._batch_size

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        # In one message, since workers wait for each other at every one.
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, summed in zip(tensors, sums, strict=True):
            tensor.copy_(summed.view_as(tensor))


def train_on_workers(config: EngineConfig, batch_size: int, train: Callable[[Shard], T]) -> T:
    """Train on workers; an error of mmrec is raised, others or repeated deaths are a ModelError."""
    limit = batch_size // 128  # with fewer rows, workers wait more than they compute
    if min(limit, config.workers or limit) < 2:
        return train(Shard())
    ray = connect(config)
    worker_pool(config).stop_workers()  # they would hold the cores
    workers = min(limit, config.workers or core_count(ray))
    if workers < 2:
        return train(Shard())
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig, TorchTrainer

    class NoGroup(TorchConfig):  # type: ignore[misc]
        """For workers of this machine, which meet at a file: the TCP store of torch listens everywhere."""

        backend_cls = Backend

    is_local = config.address is None
    console.print(f"- training on {workers} workers", markup=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = TorchTrainer(
            _train_on_this_worker,
            # A reference, so that features are sent to a machine once.
            train_loop_config={"train": ray.put(train), "folder": folder if is_local else None},
            torch_config=(NoGroup if is_local else TorchConfig)(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=3)),
        )
        try:
            result = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise ModelError(f"training on {workers} workers failed: {error}") from error
    if isinstance(result, MmrecError):
        raise result
    return result


def _train_on_this_worker(config: dict[str, Any]) -> Any:
    import ray
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    context = get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if config["folder"] is not None:
        # A file of its own, since that of workers which died holds what they wrote.
        file = broadcast_from_rank_zero(f"{config['folder']}/{uuid4().hex}")
        distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=workers)
    shard = _WorkerShard(rank, workers)
    try:
        return ray.get(config["train"])(shard)
    except MmrecError as error:  # raised here, it would be tried again
        return error
