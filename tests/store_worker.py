"""A process that works for a store, on the job that it reads as JSON; tests start several, and kill some.

Every input that it begins to compute is a line of the journal, and so is every one that the store has
acknowledged; a line is one write, so that a killed process leaves whole lines.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mmrec.cache.store import Failure, Result, Store, result_keys

MAKER: dict[str, object] = {"kind": "word", "model": "worker"}
INNER: dict[str, object] = {"kind": "vector", "model": "worker"}


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        store, journal: files.
        names: inputs; the answer to a name is the name in capitals.
        chunk, threads: block size; inputs that are computed at the same time (0: block by block).
        delay: seconds that one input takes, on average.
        failures: names that fail, with whether that is final.
        stuck: a name whose computing takes for ever.
        raise_at: the computing of this name raises.
        nested: words are made of vectors of their first letters, by the same store.
        most_bytes: files cannot become larger than this, as on a full disk.
        retry: what failed before is tried again.
    """

    store: str
    journal: str
    names: list[str]
    chunk: int = 1
    threads: int = 4
    delay: float = 0.002
    failures: dict[str, bool] | None = None
    stuck: str = ""
    raise_at: str = ""
    nested: bool = False
    most_bytes: int = 0
    retry: bool = False


class Worker:
    """Does a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.store = Store(Path(job.store), retry=job.retry)
        self._journal = os.open(job.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def work(self) -> list[str | dict[str, Any]]:
        """Answers to all names; a failure is a dictionary."""
        results = self._remember(MAKER, self.job.names, self._answer)
        return [asdict(one) if isinstance(one, Failure) else one.decode() for one in results]

    def _remember(
        self, maker: dict[str, object], names: list[str], answer: Callable[[str], Result]
    ) -> list[Result]:
        def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            waiting: list[str] = []
            made = self._pooled if self.job.threads and maker is MAKER else self._one_by_one
            for at, result in made(blocks, names, answer):
                waiting.append(names[at])
                yield at, result
                if len(waiting) == self.job.chunk:
                    self._note("kept", *waiting)
                    waiting.clear()

        return self.store.get_or_compute(maker, names, compute, title="test", chunk=self.job.chunk)

    def _one_by_one(
        self, blocks: Iterator[list[int]], names: list[str], answer: Callable[[str], Result]
    ) -> Iterator[tuple[int, Result]]:
        for block in blocks:
            yield from [(at, answer(names[at])) for at in block]

    def _pooled(
        self, blocks: Iterator[list[int]], names: list[str], answer: Callable[[str], Result]
    ) -> Iterator[tuple[int, Result]]:
        flat = chain.from_iterable(blocks)
        under_way: dict[Future[Result], int] = {}
        with ThreadPoolExecutor(self.job.threads) as pool:
            while True:
                while len(under_way) < self.job.threads and (at := next(flat, None)) is not None:
                    under_way[pool.submit(answer, names[at])] = at
                if not under_way:
                    return
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), future.result()

    def _answer(self, name: str) -> Result:
        self._note("began", name)
        if name == self.job.stuck:
            time.sleep(1000)
        if name == self.job.raise_at:
            raise RuntimeError("the model went away")
        time.sleep(self.job.delay * random.uniform(0.5, 1.5))
        if self.job.nested:
            letters = sorted({letter + name[-1] for letter in "abc"})
            self._remember(INNER, letters, self._letter)
        if self.job.failures and name in self.job.failures:
            return Failure("it cannot be read", self.job.failures[name])
        return name.upper().encode()

    def _letter(self, name: str) -> Result:
        self._note("began", f"vector {name}")
        time.sleep(self.job.delay)
        return b"\0\xff" + name.encode()

    def _note(self, what: str, *names: str) -> None:
        os.write(self._journal, "".join(f"{os.getpid()} {what} {name}\n" for name in names).encode())


def journal(path: Path) -> list[tuple[int, str, str]]:
    """Lines of a journal: process, what, name."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(pid), what, name) for pid, what, name in (line.split(" ", 2) for line in lines)]


def kill_again_and_again(job: Job, kills: int, longest: float) -> Iterator[dict[str, Any]]:
    """Start a process on a job and kill it, over and over; what each began, kept and left behind.

    Every other one is killed at a random moment after its start, the others after their first computing.
    """
    path, log, seen = Path(job.store), Path(job.journal), 0
    after = stored(path, job.names)
    log.touch()
    for number in range(kills):
        before, size = after, log.stat().st_size
        child = os.fork()
        if not child:
            try:
                Worker(job).work()
            finally:
                os._exit(0)
        while number % 2 and log.stat().st_size == size:
            time.sleep(0.001)
        time.sleep(random.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        lines = journal(log)
        after = stored(path, job.names)
        yield {
            "killed": killed,
            "before": before,
            "after": after,
            "began": [name for _, what, name in lines[seen:] if what == "began"],
            "kept": [name for _, what, name in lines[seen:] if what == "kept"],
            "owners": len([*path.parent.glob(f"{path.name}.owners/*")]),
        }
        seen = len(lines)


def stored(path: Path, names: list[str]) -> list[str]:
    """Which names have an answer in the store."""
    store = Store(path)
    found = store.get(keys := result_keys(MAKER, names))
    store.close()
    return [name for name, key in zip(names, keys, strict=True) if key in found]


def main() -> None:
    """Read a job, open the store, wait for a line, do the job, print its answers; or do it to be killed."""
    words = json.loads(sys.stdin.readline())
    kills, longest = words.pop("kills", 0), words.pop("longest", 0.0)
    job = Job(**words)
    if kills:
        print(json.dumps([*kill_again_and_again(job, kills, longest)]))
        return
    if job.most_bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (job.most_bytes, job.most_bytes))
    worker = Worker(job)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(worker.work()))
    worker.store.close()


if __name__ == "__main__":
    main()
