"""Jobs, and a thread that kills workers, for the tests of distributed models."""

import os
import signal
import threading
import time
from collections import defaultdict
from contextlib import suppress
from itertools import chain
from pathlib import Path

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


_LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def open_addresses(pids):
    """Addresses other than loopback at which processes listen, as Linux writes them."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                found.add(address)
    return sorted(address for address in found if not address.startswith(_LOOPBACK)), len(found)


def descendants(root):
    """A process with its children, theirs, and so on."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(path.read_text().rpartition(")")[2].split()[1])].append(int(path.parent.name))
    family = [root]
    for pid in family:
        family += children[pid]
    return family


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
