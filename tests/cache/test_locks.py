"""Processes and threads that share a store, some of which fail or are killed: nothing is computed twice."""

import multiprocessing
import random
import sqlite3
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain

import pytest

from mmrec.cache.store import Failure, Store, result_keys

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork and no SIGKILL")
WORD, VECTOR = {"kind": "word", "model": "worker"}, {"kind": "vector", "model": "worker"}
NAMES = [f"name{number}" for number in range(60)]
CAPITALS = [name.upper().encode() for name in NAMES]
FORK = multiprocessing.get_context("fork")


class Workers:
    """Processes that write names in capitals through one store, and note in a journal what they do."""

    def __init__(self, folder):
        self.store, self.journal = folder / "store.sqlite", folder / "journal"
        self.journal.touch()
        self.started = []

    def start(self, *jobs):
        """Start processes, which begin at the same moment; for their jobs see `_work`."""
        begin = FORK.Barrier(len(jobs))
        for job in jobs:
            answer, send = FORK.Pipe(duplex=False)
            process = FORK.Process(target=self._work, args=(send, begin), kwargs=job)
            process.start()
            send.close()
            process.answer, process.begin = answer, begin  # whose memory must not be used again
            self.started.append(process)
        return self.started[-len(jobs) :]

    def results(self, *jobs):
        return [process.answer.recv() for process in self.start(*jobs)]

    def events(self, kind, first=0):
        """Names in the journal that began, or were written."""
        lines = self.journal.read_text().splitlines()[first:]
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(kind)]

    def start_until(self, name, job):
        """Start a process; return it when it begins to compute a name."""
        (process,), deadline = self.start(job), time.monotonic() + 30
        while name not in self.events("began"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    def stored(self, names):
        """Names that have a value."""
        with closing(Store(self.store)) as store:
            return {*names} - {names[position] for position in store.missing(WORD, names).values()}

    def _work(self, send, begin, max_bytes=0, retry=False, **job):
        """Send the results of a job, or its error; on a full disk files cannot grow beyond `max_bytes`."""
        if max_bytes:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
        try:
            with closing(Store(self.store, retry=retry)) as store:
                begin.wait(30)
                send.send(self._compute(store, WORD, **job))
        except Exception as error:
            send.send(f"{type(error).__name__}: {error}")

    def _compute(self, store, provenance, names=NAMES, chunk=1, delay=0.002, **job):
        """Compute names, of which some fail or one is stuck; nested words are made of vectors."""
        failures = job.get("failures", {})

        def note(event, noted):
            with self.journal.open("ab", buffering=0) as file:  # in one write: a kill leaves whole lines
                file.write("".join(f"{event} {name}\n" for name in noted).encode())

        def compute(blocks):
            unwritten = []
            for position in chain.from_iterable(blocks):
                name = names[position]
                note("began", [name])
                unwritten.append(name)
                if name == job.get("error"):
                    raise RuntimeError("the model went away")
                time.sleep(1000 if name == job.get("stuck") else delay)
                if job.get("nested"):
                    letters = [letter + name[-1] for letter in "abc"]
                    self._compute(store, VECTOR, letters, chunk, 0)
                failure = Failure("it cannot be read", failures.get(name))
                yield position, failure if name in failures else name.upper().encode()
                if len(unwritten) == chunk:  # the store has asked for more
                    note("written", unwritten)
                    unwritten.clear()

        return store.get_or_compute(provenance, names, compute, title="test", chunk=chunk)


@pytest.fixture
def workers(tmp_path):
    started = Workers(tmp_path)
    yield started
    for process in started.started:
        process.kill()
        process.join()


@pytest.mark.parametrize("chunk", [1, 8])
def test_processes_with_overlapping_inputs_in_any_order_compute_each_once(workers, chunk):
    inputs = [NAMES, NAMES[:40], NAMES[20:][::-1], NAMES[::2] + NAMES[1::2]]
    results = workers.results(*[{"names": names, "chunk": chunk} for names in inputs])
    assert results == [[name.upper().encode() for name in names] for names in inputs]
    assert sorted(workers.events("began")) == sorted(NAMES)


def test_when_a_process_fails_midway_the_next_computes_only_what_is_missing(workers):
    failing = workers.start_until(NAMES[0], {"chunk": 8, "error": NAMES[30]})
    assert workers.results({"chunk": 8}, {"chunk": 1}) == [CAPITALS, CAPITALS]
    assert failing.answer.recv() == "RuntimeError: the model went away"
    assert sorted(workers.events("began")) == sorted([*NAMES, NAMES[30]])


def test_a_lock_is_free_after_kill_9_and_stored_results_never_wait_for_it(workers):
    stuck = workers.start_until(NAMES[10], {"stuck": NAMES[10]})
    waiting = list(workers.start({}, {}))
    assert workers.results({"names": NAMES[:10]}) == [CAPITALS[:10]]
    assert not any(process.answer.poll() for process in waiting)
    assert workers.events("began") == NAMES[:11]
    stuck.kill()
    assert [process.answer.recv() for process in waiting] == [CAPITALS, CAPITALS]
    assert sorted(workers.events("began")) == sorted([*NAMES, NAMES[10]])


def test_whoever_waited_takes_a_final_failure_and_tries_a_passing_one_again(workers):
    job = {"names": ["bad", "late"], "failures": {"bad": True, "late": False}, "delay": 0.2, "chunk": 2}
    failures = [Failure("it cannot be read"), Failure("it cannot be read", final=False)]
    assert workers.results(job, job) == [failures, failures]
    assert Counter(workers.events("began")) == {"bad": 1, "late": 2}
    # Two processes that retry a failure compute it once more in all.
    again = job | {"retry": True, "failures": {"bad": True}}
    assert workers.results(again, again) == [[failures[0], b"LATE"]] * 2
    assert Counter(workers.events("began")) == {"bad": 2, "late": 3}
    assert workers.results(job | {"retry": True, "failures": {}}) == [[b"BAD", b"LATE"]]


@pytest.mark.parametrize("chunk", [1, 8])
def test_results_that_are_made_of_results_of_another_kind_do_not_deadlock(workers, chunk):
    job = {"nested": True, "chunk": chunk, "delay": 0.001}
    results = workers.results(job, job | {"names": NAMES[::-1]}, job | {"names": NAMES[::3]})
    assert results[:2] == [CAPITALS, CAPITALS[::-1]]
    vectors = [f"{letter}{digit}" for letter in "abc" for digit in range(10)]
    assert sorted(workers.events("began")) == sorted([*NAMES, *vectors])


@pytest.mark.parametrize("chunk", [1, 8])
def test_kills_lose_no_result_and_repeat_only_what_was_being_computed(workers, chunk):
    names = [f"name{number}" for number in range(1000)]
    job, after, at_work = {"names": names, "chunk": chunk, "delay": 0.005}, workers.stored(names), 0
    for number in range(40):
        before, size = after, workers.journal.stat().st_size
        lines = len(workers.journal.read_text().splitlines())
        (process,) = workers.start(job)
        # Every other one is killed after it began to compute, the others at any moment.
        while number % 2 and workers.journal.stat().st_size == size:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.02))
        process.kill()
        process.join()
        after = workers.stored(names)
        began, written = (set(workers.events(event, lines)) for event in ("began", "written"))
        assert before | written <= after, "a result was lost"
        assert not before & began, "a stored result was computed again"
        assert len(began - after) <= chunk
        at_work += bool(began - after)
    assert at_work > 8, "few were killed at work"
    assert len(after) < len(names)
    assert workers.results(job | {"delay": 0}) == [[name.upper().encode() for name in names]]
    with closing(sqlite3.connect(workers.store)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM results").fetchone() == (len(names),)


def test_a_full_disk_is_an_error_that_costs_no_written_result(workers):
    names = [f"{number}-" + "x" * 500 for number in range(300)]
    (error,) = workers.results({"names": names, "delay": 0, "max_bytes": 300_000})
    assert error.startswith("StoreError: ")
    assert "see that the disk has room" in error
    written = workers.events("written")
    assert len(written) > 10
    assert workers.stored(written) == {*written}
    assert workers.results({"names": names, "delay": 0}) == [[name.upper().encode() for name in names]]
    assert not {name for name, count in Counter(workers.events("began")).items() if count > 1} & {*written}


def fill(store, provenance, began):
    """Results of all names by a store, computed one by one."""

    def compute(blocks):
        for position in chain.from_iterable(blocks):
            began.append(NAMES[position])
            time.sleep(0.001)
            yield position, CAPITALS[position]

    return store.get_or_compute(provenance, NAMES, compute, title="test", chunk=4)


@pytest.mark.parametrize("shared", [True, False])
def test_threads_of_a_process_compute_each_result_once(tmp_path, shared):
    path, began = tmp_path / "store.sqlite", []
    stores = [Store(path)] * 4 if shared else [Store(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda store: fill(store, WORD, began), stores))
    assert results == [CAPITALS] * 4
    assert sorted(began) == sorted(NAMES)


def test_a_kind_neither_waits_for_another_nor_within_its_own_thread(store):
    began = []
    with ThreadPoolExecutor(1) as pool, store.lock("word"):
        assert pool.submit(fill, store, VECTOR, began).result(timeout=30) == CAPITALS
        assert fill(Store(store.path), WORD, began) == CAPITALS
    assert Counter(began) == Counter(2 * NAMES)


@pytest.mark.parametrize("provider", [None, "openai", "ollama", "server"])
def test_a_store_with_a_limit_of_waiting_still_waits_for_paid_results(tmp_path, provider):
    store, writer = (Store(tmp_path / "store.sqlite") for _ in range(2))
    store.max_wait = 0.05
    began, is_held, done = [], threading.Event(), threading.Event()
    provenance = WORD | ({"provider": provider} if provider else {})

    def call_slowly():
        with writer.lock("word"):
            is_held.set()
            done.wait(0.5 if provider else 30)
            writer.put(provenance, zip(result_keys(provenance, NAMES), CAPITALS, strict=True))

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(call_slowly)
        assert is_held.wait(30)
        assert fill(store, provenance, began) == CAPITALS
        assert calls.done() == bool(provider)
        done.set()
    assert began == ([] if provider else NAMES)
