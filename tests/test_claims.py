"""Processes that share a store, of which some fail or are killed: nothing is paid twice, nothing lost."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mmrec.cache.locks import Claims
from mmrec.cache.store import Failure, Store, result_keys
from store_worker import MAKER, journal

WORKER = Path(__file__).with_name("store_worker.py")
NAMES = [f"name{at}" for at in range(60)]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


class Crew:
    """Processes that start on a store at the same moment."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store.sqlite"
        self.journal = folder / "journal"
        self._all: list[subprocess.Popen[str]] = []

    def start(self, *jobs: dict[str, Any]) -> list[subprocess.Popen[str]]:
        common = {"store": str(self.store), "journal": str(self.journal)}
        new = [self._open({**common, **job}) for job in jobs]
        for one in new:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in new:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        return new

    def answers(self, *jobs: dict[str, Any]) -> list[list[Any]]:
        return [self.result(one) for one in self.start(*jobs)]

    def result(self, one: subprocess.Popen[str]) -> list[Any]:
        said, errors = one.communicate(timeout=60)
        assert one.returncode == 0, errors
        return json.loads(said)

    def wait_for(self, name: str) -> None:
        """Until some process has begun to compute a name."""
        until = time.monotonic() + 30
        while not any(one[2] == name for one in journal(self.journal)):
            assert time.monotonic() < until
            time.sleep(0.01)

    @property
    def began(self) -> Counter[str]:
        return Counter(name for _, what, name in journal(self.journal) if what == "began")

    def left(self) -> tuple[int, list[Path]]:
        """Claims and owner files that are still there."""
        with closing(sqlite3.connect(self.store)) as db:
            (claims,) = db.execute("SELECT count(*) FROM claims").fetchone()
        return claims, [*self.store.parent.glob("*.owners/*")]

    def end(self) -> None:
        for one in self._all:
            one.kill()
            one.communicate()

    def _open(self, job: dict[str, Any]) -> subprocess.Popen[str]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        one = subprocess.Popen([sys.executable, str(WORKER)], text=True, **pipes)
        self._all.append(one)
        assert one.stdin is not None
        one.stdin.write(json.dumps(job) + "\n")
        one.stdin.flush()
        return one


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    one = Crew(tmp_path)
    yield one
    one.end()


@pytest.mark.parametrize("chunk", [1, 8])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_with_the_same_inputs_share_the_work(crew: Crew, count: int, chunk: int) -> None:
    answers = crew.answers(*[{"names": NAMES, "chunk": chunk, "delay": 0.02} for _ in range(count)])
    assert answers == [[name.upper() for name in NAMES]] * count
    assert crew.began == Counter(NAMES)
    assert crew.left() == (0, [])
    workers = Counter(pid for pid, what, _ in journal(crew.journal) if what == "began")
    assert len(workers) > 1


@pytest.mark.parametrize("threads", [0, 4])
def test_processes_with_overlapping_inputs_in_any_order_compute_each_once(crew: Crew, threads: int) -> None:
    parts = [NAMES[:40], NAMES[20:][::-1], NAMES[::2] + NAMES[1::2]]
    jobs = [
        {"names": part, "chunk": chunk, "threads": threads}
        for part, chunk in zip(parts, (1, 8, 3), strict=True)
    ]
    assert crew.answers(*jobs) == [[name.upper() for name in part] for part in parts]
    assert crew.began == Counter(NAMES)
    assert crew.left() == (0, [])


@pytest.mark.parametrize("chunk", [1, 8])
def test_when_a_process_fails_midway_the_others_do_its_share(crew: Crew, chunk: int) -> None:
    common = {"names": NAMES, "chunk": chunk}
    failing, *others = crew.start({**common, "raise_at": NAMES[0]}, common, common)
    for other in others:
        assert crew.result(other) == [name.upper() for name in NAMES]
    _, errors = failing.communicate(timeout=60)
    lines = [one for one in journal(crew.journal) if one[0] == failing.pid]
    if any(name == NAMES[0] for _, _, name in lines):
        assert "the model went away" in errors
    own = {name for _, what, name in lines if what == "began"}
    assert {name for name, times in crew.began.items() if times > 1} <= own
    assert sum(crew.began.values()) <= len(NAMES) + 4 + chunk
    assert crew.left()[0] == 0


def test_what_a_killed_process_had_begun_is_taken_over_at_once(crew: Crew) -> None:
    common = {"names": NAMES, "threads": 2}
    (stuck,) = crew.start({**common, "stuck": NAMES[10]})
    crew.wait_for(NAMES[10])
    others = crew.start(common, common)
    crew.wait_for(NAMES[-1])
    time.sleep(0.5)
    assert all(other.poll() is None for other in others), "nobody waits for the stuck process"
    assert crew.began[NAMES[10]] == 1
    stuck.kill()
    stuck.wait()
    killed = time.monotonic()
    for other in others:
        assert crew.result(other) == [name.upper() for name in NAMES]
    assert time.monotonic() - killed < 5
    assert crew.began == Counter([*NAMES, NAMES[10]])
    assert crew.left() == (0, [])


def test_a_process_that_waited_is_told_of_a_failure_for_good_and_tries_another_one_itself(crew: Crew) -> None:
    job = {"names": ["bad", "late"], "failures": {"bad": True, "late": False}, "delay": 0.4, "chunk": 2}
    bad = {"reason": "it cannot be read", "final": True}
    late = {"reason": "it cannot be read", "final": False}
    assert crew.answers(job, job) == [[bad, late], [bad, late]]
    assert crew.began == {"bad": 1, "late": 2}
    assert crew.answers(job) == [[bad, late]]
    assert crew.began == {"bad": 1, "late": 3}
    assert crew.answers({**job, "retry": True, "failures": None}) == [["BAD", "LATE"]]
    assert crew.began == {"bad": 2, "late": 4}


def test_two_processes_that_retry_ask_once_more_in_all(crew: Crew) -> None:
    job = {"names": ["bad"], "failures": {"bad": True}, "delay": 0.3}
    crew.answers(job)
    crew.answers({**job, "retry": True}, {**job, "retry": True})
    assert crew.began == {"bad": 2}


@pytest.mark.parametrize("chunk", [1, 8])
def test_results_that_are_made_of_other_results_do_not_lock_each_other_out(crew: Crew, chunk: int) -> None:
    job = {"names": NAMES, "nested": True, "threads": 0, "chunk": chunk, "delay": 0.001}
    answers = crew.answers(job, {**job, "names": NAMES[::-1]}, {**job, "names": NAMES[::3]})
    assert answers[0] == [name.upper() for name in NAMES]
    assert answers[1] == answers[0][::-1]
    assert crew.began == Counter([*NAMES, *(f"vector {one}{digit}" for one in "abc" for digit in range(10))])
    assert crew.left() == (0, [])


@pytest.mark.parametrize("chunk", [1, 8])
def test_a_hundred_kills_lose_nothing_and_repeat_only_what_was_under_way(crew: Crew, chunk: int) -> None:
    threads, names = 8, [f"name{at}" for at in range(2000)]
    job = {"store": str(crew.store), "journal": str(crew.journal), "names": names, "threads": threads}
    job = {**job, "chunk": chunk, "delay": 0.01}
    killing = json.dumps({**job, "kills": 100, "longest": 0.04})
    said = subprocess.check_output([sys.executable, str(WORKER)], input=killing, text=True, timeout=120)
    runs = json.loads(said)
    for run in runs:
        assert set(run["before"]) | set(run["kept"]) <= set(run["after"]), "an acknowledged answer was lost"
        assert not set(run["before"]) & set(run["began"]), "what was there was computed again"
        assert len(set(run["began"]) - set(run["after"])) < threads + chunk
        assert len(run["began"]) == len(set(run["began"]))
        assert run["owners"] <= 1
    assert sum(run["killed"] for run in runs) == 100
    assert sum(bool(set(run["began"]) - set(run["after"])) for run in runs) > 20, "few were killed at work"
    assert len(runs[-1]["after"]) < len(names)
    assert crew.answers(job) == [[name.upper() for name in names]]
    assert crew.left() == (0, [])
    with closing(sqlite3.connect(crew.store)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM results").fetchone() == (len(names),)


def test_a_full_disk_is_told_and_costs_nothing_that_was_kept(crew: Crew) -> None:
    job = {"names": [f"{at}-" + "x" * 500 for at in range(300)], "delay": 0.0}
    (full,) = crew.start({**job, "most_bytes": 300_000})
    _, errors = full.communicate(timeout=60)
    assert full.returncode == 1
    assert "see that the disk has room" in errors
    kept = [name for _, what, name in journal(crew.journal) if what == "kept"]
    assert len(kept) > 10
    with closing(Store(crew.store)) as store:
        assert len(store.get(result_keys(MAKER, kept))) == len(kept)
    assert crew.answers(job) == [[name.upper() for name in job["names"]]]
    assert max(crew.began[name] for name in kept) == 1
    assert crew.left() == (0, [])


def test_claims_of_the_living_hold_and_those_of_the_dead_do_not(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    one, other = Store(path), Store(path)
    assert one.claims.take([b"a", b"b"]) == {b"a", b"b"}
    assert one.claims.take([b"a"]) == {b"a"}
    assert other.claims.take([b"b", b"d"]) == {b"d"}
    assert other.claims.held([b"a", b"b", b"d", b"e"]) == {b"a", b"b"}
    assert other.claims.living() == 3
    one.claims.release([b"a", b"d"])
    assert other.claims.held([b"a", b"b", b"d"]) == {b"b"}
    one.close()
    assert other.claims.living() == 1
    assert other.claims.held([b"b"]) == set()
    assert other.claims.take([b"b"]) == {b"b"}
    other.close()


def test_a_new_owner_clears_away_what_dead_ones_left(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    Store(path).close()
    owners = tmp_path / "store.sqlite.owners"
    owners.mkdir()
    for name in ("dead", "gone"):
        (owners / name).touch()
    store = Store(path)
    with store.db:
        store.db.execute("INSERT INTO claims VALUES (?, ?)", (b"a", "dead"))
        store.db.execute("INSERT INTO claims VALUES (?, ?)", (b"b", "without a file"))
    assert store.claims.take([b"x"]) == {b"x"}
    assert [file.name for file in owners.iterdir()] == [store.claims.owner]
    assert store.claims.living() == 1
    store.close()
    assert [*owners.iterdir()] == []


def test_an_owner_who_cannot_give_back_claims_gives_up_being_one(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    one, other = Store(path), Store(path)
    one.claims.take([b"a"])
    one.db.execute("PRAGMA query_only=ON")
    with pytest.raises(sqlite3.Error):
        one.claims.release([b"a"])
    assert other.claims.take([b"a"]) == {b"a"}


def test_claims_in_memory_need_no_files() -> None:
    with closing(Store()) as store:
        claims = Claims(store.db, None)
        assert claims.take([b"a"]) == {b"a"}
        assert claims.held([b"a"]) == set()


def test_two_stores_of_one_process_wait_for_each_other_too(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    one, other = Store(path), Store(path)
    one.claims.take(result_keys(MAKER, ["a"]))
    assert other.claims.held(result_keys(MAKER, ["a"])) == set(result_keys(MAKER, ["a"]))
    one.put(MAKER, [(result_keys(MAKER, ["a"])[0], Failure("no"))])
    assert other.claims.held(result_keys(MAKER, ["a"])) == set()
    assert os.listdir(tmp_path / "store.sqlite.owners") == [one.claims.owner]
