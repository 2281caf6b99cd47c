"""Workers of a Ray cluster that hold models and compute blocks of rows, in any order.

Every worker has one block at a time; that of a dead worker goes to any other. (Ray's ActorPool
loses which block failed, and an actor that Ray restarts may wait for room for ever.)
"""

import json
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from mmrec.cache.store import Failure, Provenance
from mmrec.config import EngineConfig
from mmrec.encoder.weights import Placement
from mmrec.errors import ConfigError, MmrecError, ModelError

Rows = list[tuple[int, Any]]
"""A block of numbered rows, or of their results."""
RowFunction = Callable[[Iterator[Rows]], Iterable[tuple[int, Any]]]
"""Takes blocks of numbered rows, gives numbered results or failures in any order."""
Loaded = tuple[Provenance, RowFunction]
"""What determines results, as a worker has it, and the function of rows."""
# Rows, and how many workers may die over them until they are computed one by one.
_Block = tuple[Rows, int]


@dataclass(frozen=True)
class Job:
    """What determines results, as the driver has it, and what each worker loads once."""

    provenance: Provenance
    load: Callable[[], Loaded]


class WorkerPool:
    """The workers of a cluster; each keeps the models of all its jobs."""

    max_failures = 20  # rows in succession; after that the rows are not to blame
    max_failed_starts = 5  # workers in succession that die before they are up

    def __init__(self, config: EngineConfig) -> None:
        self._config, self._lock = config, threading.Lock()
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}  # reference to a sign of life -> worker
        self._failures = self._failed_starts = 0  # in succession

    @cached_property
    def placement(self) -> Placement:
        """Where models run on workers, and how exactly; one of the machines decides."""
        if self._config.address is None:
            return Placement.choose()
        choose = self._ray.remote(num_gpus=min(1, self._gpus))(lambda: Placement.choose())
        return self._ray.get(choose.remote())

    def map_rows(self, job: Job, blocks: Iterator[Rows]) -> Generator[tuple[int, Any]]:
        """Numbered results of rows, in any order; takes a block when a worker is idle.

        A row that raises, or over which two workers die, becomes a failure. A ModelError says that
        workers cannot start, have another model, or fail on row after row.
        """
        retries: deque[_Block] = deque()
        source: Iterator[_Block] = ((rows, 2) for rows in blocks)
        pending: dict[Any, tuple[Any, _Block]] = {}  # by reference to results
        results: Rows = []
        with self._lock:
            self._failures = self._failed_starts = 0
            if not self._idle and not self._starting:
                for _ in range(self._config.workers or self._gpus or core_count(self._ray)):
                    self._start_worker()
            try:
                while True:
                    while self._idle:
                        block = retries.popleft() if retries else next(source, None)
                        if block is None:
                            break
                        worker = self._idle.pop()
                        pending[worker.compute.remote(job, block[0])] = worker, block
                    yield from results  # while the worker computes its next block
                    if self._idle and not pending:
                        return
                    (ready,), _ = self._ray.wait([*pending, *self._starting])
                    results = []
                    if ready in pending:
                        results = self._collect(ready, *pending.pop(ready), retries)
                    else:
                        self._finish_start(ready)
            finally:
                # A worker that is still busy signs after its block.
                for worker, _ in pending.values():
                    self._starting[worker.sign_of_life.remote()] = worker

    def stop_workers(self) -> None:
        """Stop all workers; new ones start when there are rows again."""
        for worker in (*self._idle, *self._starting.values()):
            self._ray.kill(worker)
        self._idle, self._starting = [], {}

    @cached_property
    def _ray(self) -> Any:
        return connect(self._config)

    @cached_property
    def _gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def _start_worker(self) -> None:
        # Ray holds a worker back until there is a free core, or GPU where there are GPUs.
        worker = self._ray.remote(num_cpus=1, num_gpus=min(1, self._gpus))(_Worker).remote()
        self._starting[worker.sign_of_life.remote()] = worker

    def _finish_start(self, ready: Any) -> None:
        worker = self._starting.pop(ready)
        try:
            self._ray.get(ready)
            self._failed_starts = 0
            self._idle.append(worker)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts == self.max_failed_starts:
                self.stop_workers()
                mend = "every machine needs the same mmrec and extras"
                raise ModelError(f"workers cannot start: {_summary(error)}; {mend}") from error
            self._start_worker()

    def _collect(self, ready: Any, worker: Any, block: _Block, retries: deque[_Block]) -> Rows:
        """Results of a block; a failed one is retried, whole or by row, or given up."""
        error: BaseException
        rows, attempts = block
        try:
            results: Rows = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as raised:
            self._idle.append(worker)
            error, attempts = raised.cause or raised, 0  # it would raise again
            if isinstance(error, MmrecError):
                raise error from None
        except self._ray.exceptions.RayError as death:
            self._ray.kill(worker)  # where only the connection was lost
            self._start_worker()
            error, attempts = death, attempts - 1
        else:
            self._idle.append(worker)
            self._failures = 0
            return results
        if attempts:
            retries.append((rows, attempts))
        elif len(rows) > 1:
            retries.extend(([row], 2) for row in rows)
        else:
            self._failures += 1
            if self._failures == self.max_failures:
                raise ModelError(
                    f"workers failed on {self._failures} rows in succession, the last "
                    f"time with {_summary(error)}; results are kept, so run it again to go on"
                ) from error
            ((number, _),) = rows
            return [(number, Failure(f"a worker failed: {_summary(error)}", final=False))]
        return []


# One pool for each process, as Ray itself has it.
worker_pool = cache(WorkerPool)
# Anybody who reaches a port of Ray can run code; without a cluster it listens on loopback, as it always
# does on Windows and macOS. Gloo, with which workers train, would ask for the name of the machine.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
if sys.platform == "linux":
    _LOOPBACK["GLOO_SOCKET_IFNAME"] = "lo"


def connect(config: EngineConfig) -> Any:
    """The module `ray`, connected; a ConfigError without Ray or a cluster."""
    if re.search("[@?#]", config.address or ""):  # addresses are shown
        raise ConfigError(
            "--address: no password and no `?` in it; a cluster's token goes into RAY_AUTH_TOKEN"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.address is None:
        os.environ.update(_LOOPBACK)
    try:
        import ray
        from ray._private import ray_constants
    except ImportError as error:
        message = "--engine ray needs the packages of: pip install 'mmrec[ray]'"
        raise ConfigError(message) from error
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.address is None:
        # Ray reads the variable when it is imported, which others may have done.
        ray_constants.ENABLE_RAY_CLUSTER = False
        paths = os.pathsep.join(filter(None, sys.path))  # what this process imports
        options |= {
            "num_cpus": config.workers or os.cpu_count(),
            "object_store_memory": 512 * 2**20,  # containers have little shared memory
            "runtime_env": {"env_vars": {"PYTHONPATH": paths, **_LOOPBACK}},
            "include_dashboard": False,
        }
    try:
        # "local" starts a cluster; without it Ray looks for an earlier one.
        ray.init(config.address or "local", **options)
    except (OSError, RuntimeError, ValueError) as error:
        mend = (
            "start one with `ray start --head`, and where it has a token, set "
            "RAY_AUTH_MODE=token and have the token here (docs/cluster.md)"
        )
        place = config.address or "this machine"
        raise ConfigError(f"--engine ray: no cluster at {place}: {error}; {mend}") from error
    return ray


def core_count(ray: Any) -> int:
    """Cores of the cluster; a ConfigError if it has none."""
    if count := int(ray.cluster_resources().get("CPU", 0)):
        return count
    message = "the cluster has no cores; let machines join by `ray start --address`"
    raise ConfigError(f"--engine ray: {message}")


class _Worker:
    """Runs on the cluster: holds models, and computes one block at a time."""

    def __init__(self) -> None:
        self._functions: dict[str, RowFunction] = {}

    def sign_of_life(self) -> None: ...

    def compute(self, job: Job, rows: Rows) -> Rows:
        name = json.dumps(job.provenance, sort_keys=True)
        if name not in self._functions:
            provenance, function = job.load()
            expected = job.provenance
            if provenance != expected:
                keys = [key for key in expected if provenance.get(key) != expected[key]]
                raise ModelError(
                    f"a worker has another {expected['kind']}: its {', '.join(keys)} "
                    "differs; every machine needs the same weights and the same mmrec"
                )
            self._functions[name] = function
        # A list, since what is raised half-way is then the error of the entire block.
        return list(self._functions[name](iter([rows])))


def _summary(error: BaseException) -> str:
    """Type and first line of an error."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line[:200]}".removesuffix(": ")
