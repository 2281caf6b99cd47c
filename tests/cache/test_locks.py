"""Processes and threads that share a store, some of which fail or are killed: nothing is computed twice."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from store_worker import VECTOR, WORD, read_journal, stored_names

from mmrec.cache.store import Store, result_keys

WORKER = Path(__file__).with_name("store_worker.py")
NAMES = [f"name{number}" for number in range(60)]
CAPITALS = [name.upper() for name in NAMES]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


class Processes:
    """Processes that start on one store at the same moment."""

    def __init__(self, folder):
        self.store = folder / "store.sqlite"
        self.journal = folder / "journal"
        self._started = []

    def start(self, *jobs):
        processes = [self.open(job) for job in jobs]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            self._write(process, "go")
        return processes

    def open(self, job):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen([sys.executable, str(WORKER)], text=True, **pipes)
        self._started.append(process)
        files = {"store": str(self.store), "journal": str(self.journal)}
        self._write(process, json.dumps({"names": NAMES, **files, **job}))
        return process

    def result(self, process):
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return json.loads(output)

    def results(self, *jobs):
        return [self.result(process) for process in self.start(*jobs)]

    def wait_until_began(self, name):
        deadline = time.monotonic() + 30
        while name not in self.began:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def began(self):
        return Counter(name for _, event, name in read_journal(self.journal) if event == "began")

    def kill_all(self):
        for process in self._started:
            process.kill()
            process.communicate()

    def _write(self, process, line):
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


@pytest.fixture
def processes(tmp_path):
    started = Processes(tmp_path)
    yield started
    started.kill_all()


@pytest.mark.parametrize("chunk", [1, 8])
def test_processes_with_overlapping_inputs_in_any_order_compute_each_once(processes, chunk):
    inputs = [NAMES, NAMES[:40], NAMES[20:][::-1], NAMES[::2] + NAMES[1::2]]
    results = processes.results(*[{"names": names, "chunk": chunk} for names in inputs])
    assert results == [[name.upper() for name in names] for names in inputs]
    assert processes.began == Counter(NAMES)


@pytest.mark.parametrize("chunk", [1, 8])
def test_when_a_process_fails_midway_the_next_computes_only_what_is_missing(processes, chunk):
    (failing,) = processes.start({"chunk": chunk, "raise_at": NAMES[30]})
    processes.wait_until_began(NAMES[0])
    results = processes.results({"chunk": chunk}, {"chunk": chunk})
    assert "the model went away" in failing.communicate(timeout=60)[1]
    assert results == [CAPITALS, CAPITALS]
    assert processes.began == Counter([*NAMES, NAMES[30]])


def test_a_lock_is_free_after_kill_9_and_stored_results_never_wait_for_it(processes):
    (stuck,) = processes.start({"stuck": NAMES[10]})
    processes.wait_until_began(NAMES[10])
    waiting = processes.start({}, {})
    assert processes.results({"names": NAMES[:10]}) == [CAPITALS[:10]]
    assert [process.poll() for process in waiting] == [None, None]
    assert processes.began == Counter(NAMES[:11])
    stuck.kill()
    for process in waiting:
        assert processes.result(process) == CAPITALS
    assert processes.began == Counter([*NAMES, NAMES[10]])


def test_whoever_waited_takes_a_final_failure_and_tries_a_passing_one_again(processes):
    job = {"names": ["bad", "late"], "failures": {"bad": True, "late": False}, "delay": 0.4, "chunk": 2}
    bad = {"reason": "it cannot be read", "final": True}
    late = {"reason": "it cannot be read", "final": False}
    assert processes.results(job, job) == [[bad, late], [bad, late]]
    assert processes.began == {"bad": 1, "late": 2}
    assert processes.results({**job, "retry": True, "failures": {}}) == [["BAD", "LATE"]]
    assert processes.began == {"bad": 2, "late": 3}


def test_two_processes_that_retry_a_failure_compute_it_once_more_in_all(processes):
    job = {"names": ["bad"], "failures": {"bad": True}, "delay": 0.3}
    processes.results(job)
    processes.results({**job, "retry": True}, {**job, "retry": True})
    assert processes.began == {"bad": 2}


@pytest.mark.parametrize("chunk", [1, 8])
def test_results_that_are_made_of_results_of_another_kind_do_not_deadlock(processes, chunk):
    job = {"nested": True, "chunk": chunk, "delay": 0.001}
    results = processes.results(job, {**job, "names": NAMES[::-1]}, {**job, "names": NAMES[::3]})
    assert results[:2] == [CAPITALS, CAPITALS[::-1]]
    vectors = [f"{letter}{digit}" for letter in "abc" for digit in range(10)]
    assert processes.began == Counter([*NAMES, *vectors])


@pytest.mark.parametrize("chunk", [1, 8])
def test_kills_lose_no_result_and_repeat_only_what_was_being_computed(processes, chunk):
    names = [f"name{number}" for number in range(1000)]
    job = {"names": names, "chunk": chunk, "delay": 0.005}
    runs = processes.result(processes.open({**job, "kills": 40}))
    assert len(runs) == 40
    for run in runs:
        assert set(run["before"]) | set(run["written"]) <= set(run["after"]), "a result was lost"
        assert not set(run["before"]) & set(run["began"]), "a stored result was computed again"
        assert len(set(run["began"]) - set(run["after"])) <= chunk
    at_work = sum(bool(set(run["began"]) - set(run["after"])) for run in runs)
    assert at_work > 8, "few were killed at work"
    assert len(runs[-1]["after"]) < len(names)
    assert processes.results({**job, "delay": 0.0}) == [[name.upper() for name in names]]
    with closing(sqlite3.connect(processes.store)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM results").fetchone() == (len(names),)


def test_a_full_disk_is_an_error_that_costs_no_written_result(processes):
    job = {"names": [f"{number}-" + "x" * 500 for number in range(300)], "delay": 0.0}
    (full,) = processes.start({**job, "max_bytes": 300_000})
    errors = full.communicate(timeout=60)[1]
    assert full.returncode == 1
    assert "StoreError" in errors
    assert "see that the disk has room" in errors
    written = [name for _, event, name in read_journal(processes.journal) if event == "written"]
    assert len(written) > 10
    assert stored_names(processes.store, written) == written
    assert processes.results(job) == [[name.upper() for name in job["names"]]]
    assert max(processes.began[name] for name in written) == 1


def fill(store, provenance, began):
    """Results of all names by a store, computed one by one."""

    def compute(blocks):
        for block in blocks:
            for position in block:
                began.append(NAMES[position])
                time.sleep(0.001)
                yield position, CAPITALS[position].encode()

    return store.get_or_compute(provenance, NAMES, compute, title="test", chunk=4)


@pytest.mark.parametrize("shared", [True, False])
def test_threads_of_a_process_compute_each_result_once(tmp_path, shared):
    path, began = tmp_path / "store.sqlite", []
    stores = [Store(path)] * 4 if shared else [Store(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda store: fill(store, WORD, began), stores))
    assert results == [[name.encode() for name in CAPITALS]] * 4
    assert Counter(began) == Counter(NAMES)


def test_a_kind_neither_waits_for_another_nor_within_its_own_thread(tmp_path):
    path, began = tmp_path / "store.sqlite", []
    store = Store(path)
    with ThreadPoolExecutor(1) as pool, store.lock("word"):
        assert len(pool.submit(fill, store, VECTOR, began).result(timeout=30)) == len(NAMES)
        assert len(fill(Store(path), WORD, began)) == len(NAMES)
    assert Counter(began) == Counter(2 * NAMES)


def test_a_store_with_a_limit_of_waiting_computes_without_the_lock(tmp_path):
    path, began = tmp_path / "store.sqlite", []
    store, done = Store(path), threading.Event()
    store.max_wait = 0.05

    def hold():
        with store.lock("word"):
            done.wait(30)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        time.sleep(0.1)
        assert len(fill(store, WORD, began)) == len(NAMES)
        assert not holder.done()
        done.set()


@pytest.mark.parametrize("provider", ["openai", "ollama", "server"])
def test_a_store_with_a_limit_of_waiting_still_waits_for_paid_results(tmp_path, provider):
    path, began = tmp_path / "store.sqlite", []
    store, writer, held = Store(path), Store(path), threading.Event()
    store.max_wait = 0.05
    paid = WORD | {"provider": provider}

    def call_slowly():
        with writer.lock("word"):
            held.set()
            time.sleep(0.5)
            writer.put(paid, zip(result_keys(paid, NAMES), map(str.encode, CAPITALS), strict=True))

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(call_slowly)
        assert held.wait(30)
        assert fill(store, paid, began) == [name.encode() for name in CAPITALS]
        calls.result()
    assert began == []


def test_a_store_in_memory_needs_no_lock():
    with closing(Store()) as store, store.lock("word"):
        assert len(fill(store, WORD, [])) == len(NAMES)
