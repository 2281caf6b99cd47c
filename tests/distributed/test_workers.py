"""Workers of a local Ray: rows that raise, workers that die, and who is to blame."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import pytest
from ray_pool import ENGINE, descendants, open_addresses, run, worker_pids

from mmrec.cache.store import Failure
from mmrec.distributed.workers import Job, WorkerPool, connect
from mmrec.errors import ConfigError, ModelError


def _capitals(blocks):
    """Capitals of names; `raise` raises, `die` kills the worker, `die@FILE` until there is the file."""
    for number, name in chain.from_iterable(blocks):
        word, _, once = name.partition("@")
        if word == "raise":
            raise ValueError("cannot be computed")
        if word == "die" and not (once and Path(once).exists()):
            Path(once or os.devnull).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield number, word.upper()


CAPITALS = Job({"kind": "capitals"}, lambda: ({"kind": "capitals"}, _capitals))


def test_only_the_rows_that_raise_or_always_kill_become_failures(pool, tmp_path):
    names = ["a", "b", f"die@{tmp_path / 'once'}", "c", "d", "e", "f", "raise", "g", "die", "h", "i"]
    results = run(pool, CAPITALS, names, 4)
    assert (tmp_path / "once").exists()
    for row, reason in {7: "ValueError: cannot be computed", 9: "Died"}.items():
        failure = results.pop(row)
        assert failure == Failure(failure.reason, final=False)
        assert reason in failure.reason
    assert [results[row] for row in sorted(results)] == [*"AB", "DIE", *"CDEFGHI"]


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are listed in /proc")
def test_ray_listens_on_loopback_alone(pool):
    run(pool, CAPITALS, ["a"] * 8, 1)
    family = descendants(os.getpid())
    assert family.index(next(iter(worker_pids(pool)))) > 3
    exposed, sockets = open_addresses(family)
    assert exposed == []
    assert sockets >= 6  # of workers, of Ray's own processes, and of this one


def test_rows_that_all_raise_end_the_run_every_time(pool):
    for _ in range(2):
        with pytest.raises(ModelError, match="failed on 20 rows in succession"):
            run(pool, CAPITALS, ["raise"] * 30, 10)


def test_threads_share_the_workers(pool):
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda name: run(pool, CAPITALS, [name] * 8, 2), "abc"))
    assert results == [dict.fromkeys(range(8), name) for name in "ABC"]


def test_a_run_that_is_abandoned_leaves_its_workers_to_the_next(pool):
    blocks = iter([[(number, "a")] for number in range(8)])
    abandoned = pool.map_rows(CAPITALS, blocks)
    assert len(list(islice(abandoned, 2))) == 2
    abandoned.close()
    assert run(pool, CAPITALS, ["b"] * 4, 1) == dict.fromkeys(range(4), "B")


def test_blocks_are_taken_only_as_workers_are_idle(pool):
    taken = []

    def blocks():
        for number in range(20):
            taken.append(number)
            yield [(number, "a")]

    results = pool.map_rows(CAPITALS, blocks())
    for finished in range(20):
        next(results)
        assert len(taken) <= finished + 1 + 2, "no more than a block for each worker is ahead"
    assert len(taken) == 20
    results.close()


def test_a_worker_with_another_model_or_none_is_an_error(pool):
    def load_nothing():
        raise ModelError("bring the weights with `hf download`")

    another = {"kind": "vector", "revision": "another"}
    loads = {"its revision differs": lambda: (another, _capitals), "^bring the weights": load_nothing}
    for message, load in loads.items():
        with pytest.raises(ModelError, match=message):
            run(pool, Job({"kind": "vector", "revision": "mine"}, load), ["a"], 1)


def test_workers_that_cannot_start_are_an_error(pool, monkeypatch):
    class Stillborn:
        def __init__(self):
            raise ImportError("no module named mmrec")

        def sign_of_life(self): ...

    with monkeypatch.context() as patched:
        patched.setattr("mmrec.distributed.workers._Worker", Stillborn)
        patched.setattr(WorkerPool, "max_failed_starts", 2)
        pool.stop_workers()
        with pytest.raises(ModelError, match=r"workers cannot start: .*every machine needs the same mmrec"):
            run(pool, CAPITALS, ["a"], 1)
    assert run(pool, CAPITALS, ["a"], 1) == {0: "A"}


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmrec\[ray\]'"):
        connect(ENGINE)
