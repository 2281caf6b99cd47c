"""A process that computes results through a store, as the job says that it reads as JSON.

Every input whose computing begins is a line of the journal, and so is every one that the store has
written. A line is one write, so that a killed process leaves whole lines.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmrec.cache.store import Failure, Store, result_keys

WORD = {"kind": "word", "model": "worker"}
VECTOR = {"kind": "vector", "model": "worker"}


@dataclass(frozen=True)
class Job:
    """What a process computes.

    Attributes:
        store, journal: files.
        names: inputs; the result of a name is the name in capitals.
        chunk: names in a block.
        delay: seconds that a name takes.
        failures: names that fail -> whether that is final.
        stuck: computing this name never ends.
        raise_at: computing this name raises.
        nested: words are made of vectors of their first letters, by the same store.
        max_bytes: files cannot become larger than this, as on a full disk.
        retry: final failures of earlier runs are tried again.
        kills: not to compute once, but to be killed so many times.
    """

    store: str
    journal: str
    names: list[str]
    chunk: int = 1
    delay: float = 0.002
    failures: dict[str, bool] = field(default_factory=dict)
    stuck: str = ""
    raise_at: str = ""
    nested: bool = False
    max_bytes: int = 0
    retry: bool = False
    kills: int = 0


class Worker:
    """Does a job."""

    def __init__(self, job):
        self.job = job
        self.store = Store(Path(job.store), retry=job.retry)
        self._journal = os.open(job.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def work(self):
        """Results of all names; a failure is a dictionary."""
        results = self._get_or_compute(WORD, self.job.names, self._word)
        return [asdict(x) if isinstance(x, Failure) else x.decode() for x in results]

    def _get_or_compute(self, provenance, names, answer):
        def compute(blocks):
            unwritten = []
            for position in (position for block in blocks for position in block):
                self._note("began", names[position])
                unwritten.append(names[position])
                yield position, answer(names[position])
                if len(unwritten) == self.job.chunk:  # the store has asked for more
                    self._note("written", *unwritten)
                    unwritten.clear()

        return self.store.get_or_compute(provenance, names, compute, title="test", chunk=self.job.chunk)

    def _word(self, name):
        if name == self.job.stuck:
            time.sleep(1000)
        if name == self.job.raise_at:
            raise RuntimeError("the model went away")
        time.sleep(self.job.delay)
        if self.job.nested:
            letters = [letter + name[-1] for letter in "abc"]
            self._get_or_compute(VECTOR, letters, lambda letter: b"\0\xff" + letter.encode())
        if name in self.job.failures:
            return Failure("it cannot be read", self.job.failures[name])
        return name.upper().encode()

    def _note(self, event, *names):
        lines = "".join(f"{os.getpid()} {event} {name}\n" for name in names)
        os.write(self._journal, lines.encode())


def read_journal(path):
    """Lines of a journal: process, event, name."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(pid), event, name) for pid, event, name in (line.split(" ", 2) for line in lines)]


def stored_names(path, names):
    """Names that have a value in the store."""
    keys = result_keys(WORD, names)
    store = Store(path)
    values = store.get(keys)
    store.close()
    return [name for name, key in zip(names, keys, strict=True) if key in values]


def kill_repeatedly(job):
    """Start a process on a job and kill it, over and over; what each began, wrote and left behind.

    Every other one is killed at a random moment after its start, the others after they began to compute.
    """
    path, journal, lines_before = Path(job.store), Path(job.journal), 0
    after = stored_names(path, job.names)
    journal.touch()
    for number in range(job.kills):
        before, size = after, journal.stat().st_size
        child = os.fork()
        if not child:
            try:
                Worker(job).work()
            finally:
                os._exit(0)
        while number % 2 and journal.stat().st_size == size:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 4 * job.delay))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        lines = read_journal(journal)[lines_before:]
        lines_before += len(lines)
        after = stored_names(path, job.names)
        run = {"before": before, "after": after}
        for event in ("began", "written"):
            run[event] = [name for _, noted, name in lines if noted == event]
        yield run


def main():
    """Read a job, open the store, wait for a line, do the job, print its results."""
    job = Job(**json.loads(sys.stdin.readline()))
    if job.kills:
        print(json.dumps([*kill_repeatedly(job)]))
        return
    if job.max_bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (job.max_bytes, job.max_bytes))
    worker = Worker(job)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(worker.work()))
    worker.store.close()


if __name__ == "__main__":
    main()
