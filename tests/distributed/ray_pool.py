"""Jobs, and a thread that kills workers, for the tests of distributed models."""

import os
import signal
import threading
import time
from itertools import chain

from mmrec.cache.store import Store
from mmrec.config import EngineConfig
from mmrec.distributed.workers import Job

ENGINE = EngineConfig(engine="ray", workers=2)


def run(pool, job, names, size):
    """Results by row number; every row has exactly one."""
    rows = list(enumerate(names))
    blocks = (rows[start : start + size] for start in range(0, len(rows), size))
    results = list(pool.map_rows(job, blocks))
    assert sorted(number for number, _ in results) == list(range(len(names)))
    return dict(results)


def _pids(blocks):
    for number, _ in chain.from_iterable(blocks):
        time.sleep(0.02)  # so that one worker cannot take all blocks
        yield number, os.getpid()


def worker_pids(pool):
    """Processes of the workers."""
    job = Job({"kind": "pid"}, lambda: ({"kind": "pid"}, _pids))
    return {*run(pool, job, [""] * 16, 1).values()}


class Killer(threading.Thread):
    """Kills a worker with -9 as soon as a store holds so many notes."""

    def __init__(self, pool, path, count):
        super().__init__(daemon=True)
        self.victim, self._path, self.count = min(worker_pids(pool)), path, count
        self.start()

    def run(self):
        store = Store(self._path)
        while (count := store.counts().get("note", 0)) < self.count:
            time.sleep(0.01)
        os.kill(self.victim, signal.SIGKILL)
        self.count = count
        store.close()
