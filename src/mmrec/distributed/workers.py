"""Workers of a Ray cluster, which hold models; blocks of rows are dealt to them, in any order.

A worker that dies is replaced, and what it had under way is dealt to others. Ray could restart it by itself,
but then its blocks wait until there is room for it, which after the loss of a machine may be never.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Final

from mmrec.cache.store import Failure
from mmrec.config import EngineConfig
from mmrec.distributed.ray_cluster import connect, core_count
from mmrec.encoder.weights import Placement
from mmrec.errors import MmrecError, ModelError

__all__ = ["Job", "WorkerPool", "worker_pool"]

_AHEAD: Final = 2  # blocks that a worker has, so that it need not wait for the next one
_DEATHS: Final = (
    2  # of workers over one block, after which it is dealt row by row, or a row is given up
)
_HOPELESS: Final = 20  # rows that fail in a row: then it is not the rows
_STILLBORN: Final = 5  # workers in a row that die before they are up

Rows = list[tuple[int, Any]]
Work = Callable[[Iterator[Rows]], Iterable[tuple[int, Any]]]
"""Takes blocks of numbered rows, gives numbered results or failures in any order."""


@dataclass(frozen=True)
class Job:
    """What workers are to do with rows.

    Attributes:
        provenance: all that determines a result besides the row, as this process has it.
        open: run on a worker: the same as the worker has it, and what does the work.
    """

    provenance: dict[str, object]
    open: Callable[[], tuple[dict[str, object], Work]]


@dataclass(frozen=True)
class _Given:
    """A block in a worker's hands, and how many have died over it."""

    rows: Rows
    worker: Any = None
    deaths: int = 0

    def split(self) -> Iterator[_Given]:
        """Row by row."""
        return (_Given([row]) for row in self.rows)


class WorkerPool:
    """The workers of a cluster; each opens a job when it first gets rows of it, and keeps its model.

    Args:
        config: which cluster, how many workers. Nothing is started before there is work, but a cluster at an
            address is joined when someone asks where its models are placed.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._ready: list[Any] = []
        self._coming: dict[Any, Any] = {}
        self._lost_in_a_row = self._stillborn = 0

    @cached_property
    def placement(self) -> Placement:
        """Where models run on workers, and how exact: this process decides, and workers obey.

        Of a cluster elsewhere it asks one of its machines.
        """
        if self._config.address is None:
            return Placement.choose()
        chosen = self._ray.remote(_chosen).options(num_gpus=1 if self._gpus else 0)
        return self._ray.get(chosen.remote())

    def map_rows(self, job: Job, blocks: Iterator[Rows]) -> Generator[tuple[int, Any]]:
        """Results of rows, each with its number, in any order; blocks are taken as there are hands for them.

        When work on a block raises, it is done row by row, and the row that raises becomes a failure.

        Raises:
            MmrecError: the same as a worker has raised, as when weights are missing.
            ModelError: many rows in a row failed, or workers' models are not those of this process.
        """
        again: deque[_Given] = deque()
        source = (_Given(rows) for rows in blocks)
        under_way: dict[Any, _Given] = {}
        while True:
            while (worker := self._free(under_way)) is not None:
                given = again.popleft() if again else next(source, None)
                if given is None:
                    break
                under_way[worker.work.remote(job, given.rows)] = replace(given, worker=worker)
            if worker is not None and not under_way:
                return
            done, _ = self._ray.wait([*under_way, *self._coming], num_returns=1)
            for ref in done:
                if ref in self._coming:
                    self._arrived(ref)
                elif ref in under_way:  # else another thread has seen the worker arrive
                    yield from self._results(ref, under_way, again)

    def stop_workers(self) -> None:
        """Let all workers go, with their models; new ones come when there is work again."""
        for worker in (*self._ready, *self._coming.values()):
            self._ray.kill(worker)
        self._ready, self._coming = [], {}

    @cached_property
    def _ray(self) -> Any:
        return connect(self._config)

    @property
    def _gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def _free(self, under_way: dict[Any, _Given]) -> Any | None:
        """The worker who has least to do, if that is little; hires where there are too few."""
        if not self._ready and not self._coming:
            for _ in range(self._config.workers or self._gpus or core_count(self._ray)):
                self._hire()
        load = dict.fromkeys(self._ready, 0)
        for given in under_way.values():
            if given.worker in load:
                load[given.worker] += 1
        least = min(load, key=lambda worker: load[worker], default=None)
        return least if least is not None and load[least] < _AHEAD else None

    def _hire(self) -> None:
        room = {"num_cpus": 1, "num_gpus": 1 if self._gpus else 0}
        worker = self._ray.remote(_Worker).options(**room).remote()
        self._coming[worker.ready.remote()] = worker

    def _arrived(self, ref: Any) -> None:
        if (worker := self._coming.pop(ref, None)) is None:
            return
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._stillborn += 1
            if self._stillborn == _STILLBORN:
                self._stillborn = 0
                self.stop_workers()
                raise ModelError(
                    f"workers cannot start: {_said(error)}; every machine needs the same mmrec and extras"
                ) from error
            self._hire()
        else:
            self._stillborn = 0
            self._ready.append(worker)

    def _results(
        self, ref: Any, under_way: dict[Any, _Given], again: deque[_Given]
    ) -> Iterator[tuple[int, Any]]:
        """What came of a block: results, or a turn for the better."""
        given = under_way[ref]
        try:
            results = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MmrecError):
                raise error.cause from None
            del under_way[ref]
            yield from self._failed(replace(given, deaths=_DEATHS), error.cause or error, again)
        except self._ray.exceptions.RayError as error:
            if given.worker in self._ready:
                # Of the blocks that a worker had, the one that it was given first is that over which it died.
                first = next(one for one, its in under_way.items() if its.worker is given.worker)
                under_way[first] = replace(under_way[first], deaths=under_way[first].deaths + 1)
                self._ready.remove(given.worker)
                self._ray.kill(given.worker)
                self._hire()
            yield from self._failed(under_way.pop(ref), error, again)
        else:
            del under_way[ref]
            self._lost_in_a_row = 0
            yield from results

    def _failed(
        self, given: _Given, error: Exception, again: deque[_Given]
    ) -> Iterator[tuple[int, Failure]]:
        """Deal a block again, whole or row by row; give up a row that had its turns."""
        if given.deaths < _DEATHS:
            again.append(given)
        elif len(given.rows) > 1:
            again.extend(given.split())
        else:
            self._lost_in_a_row += 1
            if self._lost_in_a_row == _HOPELESS:
                self._lost_in_a_row = 0
                raise ModelError(
                    f"workers failed on {_HOPELESS} rows in a row, at last with {_said(error)}; results until"
                    " then are kept, so mend it and run the same again"
                ) from error
            ((number, _),) = given.rows
            yield number, Failure(f"a worker failed: {_said(error)}", final=False)


@cache
def worker_pool(config: EngineConfig) -> WorkerPool:
    """The crew of a cluster; there is one a process, as Ray itself has it."""
    return WorkerPool(config)


class _Worker:
    """Runs on the cluster: holds models, and works on one block at a time."""

    def __init__(self) -> None:
        self._open: dict[str, Work] = {}

    def ready(self) -> None:
        """Answers when the worker is up."""

    def work(self, job: Job, rows: Rows) -> list[tuple[int, Any]]:
        name = json.dumps(job.provenance, sort_keys=True)
        if name not in self._open:
            maker, work = job.open()
            if maker != job.provenance:
                differing = [key for key in job.provenance if maker.get(key) != job.provenance[key]]
                raise ModelError(
                    f"a worker has another {job.provenance['kind']}: its {', '.join(differing)}"
                    " differs from this "
                    "process's; every machine needs the same weights and the same mmrec"
                )
            self._open[name] = work
        return list(self._open[name](iter([rows])))


def _chosen() -> Placement:
    return Placement.choose()


def _said(error: BaseException) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
