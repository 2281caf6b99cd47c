"""The store: each result once, and none lost, whatever happens to the process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmrec.errors import ModelError
from mmrec.store import Store, default_store, digest

WRITER = """
import sys
from pathlib import Path
from mmrec.store import Store, digest

store = Store(Path(sys.argv[1]))
at = 0
while True:
    names = [f"{at}-{i}" for i in range(20)]
    store.put("kind", zip(digest({}, names), [name.encode() for name in names]))
    print(at, flush=True)
    at += 1
"""


class Counting:
    """Computes the value of a key, and notes which positions it was asked for in which calls."""

    def __init__(self, names: Sequence[str], fail_at: int | None = None) -> None:
        self.names = names
        self.calls: list[list[str]] = []
        self.fail_at = fail_at

    def __call__(self, part: list[int]) -> list[bytes]:
        if len(self.calls) == self.fail_at:
            raise RuntimeError("the model went away")
        self.calls.append([self.names[at] for at in part])
        return [self.names[at].upper().encode() for at in part]


def recall(store: Store, names: Sequence[str], compute: Counting, chunk: int = 2) -> list[bytes]:
    return store.remember("word", digest({"kind": "word"}, names), compute, what="test", chunk=chunk)


def test_every_key_is_computed_once_and_in_chunks(store: Store) -> None:
    names = ["a", "b", "a", "c", "b", "d", "e"]
    compute = Counting(names)
    assert recall(store, names, compute) == [b"A", b"B", b"A", b"C", b"B", b"D", b"E"]
    assert compute.calls == [["a", "b"], ["c", "d"], ["e"]]
    again = Counting(["e", "f", "a"])
    assert recall(store, again.names, again) == [b"E", b"F", b"A"]
    assert again.calls == [["f"]]
    assert store.counts() == {"word": 6}


def test_computing_keeps_to_the_order_asked_for(store: Store) -> None:
    names = ["ccc", "a", "bb"]
    compute = Counting(names)
    keys = digest({}, names)
    order = lambda at: (len(names[at]), names[at])  # noqa: E731
    answers = store.remember("word", keys, compute, what="test", chunk=2, order=order)
    assert compute.calls == [["a", "bb"], ["ccc"]]
    assert answers == [b"CCC", b"A", b"BB"]


def test_finished_chunks_survive_an_error(store: Store) -> None:
    names = list("abcdef")
    with pytest.raises(RuntimeError, match="went away"):
        recall(store, names, Counting(names, fail_at=2))
    reopened = Store(store.path)
    assert reopened.counts() == {"word": 4}
    compute = Counting(names)
    assert recall(reopened, names, compute) == [name.upper().encode() for name in names]
    assert compute.calls == [["e", "f"]]


def test_a_result_too_few_is_an_error_and_nothing_is_stored(store: Store) -> None:
    with pytest.raises(ValueError, match="zip"):
        store.remember("word", digest({}, ["a", "b"]), lambda part: [b"A"], what="test", chunk=2)
    assert store.counts() == {}


def test_the_first_value_of_a_key_stays(store: Store) -> None:
    store.put("word", [(b"k", b"first")])
    store.put("word", [(b"k", b"second")])
    assert store.get([b"k", b"other"]) == {b"k": b"first"}


def test_many_keys_are_found_at_once(store: Store) -> None:
    names = [str(at) for at in range(1234)]
    keys = digest({}, names)
    store.put("word", zip(keys, [name.encode() for name in names], strict=True))
    assert store.get(keys) == {key: name.encode() for key, name in zip(keys, names, strict=True)}


def test_keys_tell_makers_and_texts_apart_but_not_the_order_of_a_maker() -> None:
    keys = [
        *digest({"model": "a", "revision": "b"}, ["x", "y", "", "\ud800"]),
        *digest({"model": "a", "revision": "c"}, ["x"]),
        *digest({"model": "a"}, ["x"]),
    ]
    assert len(set(keys)) == len(keys)
    assert digest({"revision": "b", "model": "a"}, ["x"]) == keys[:1]


def test_a_store_without_a_path_keeps_everything_in_memory() -> None:
    store = Store(None)
    assert recall(store, ["a"], Counting(["a"])) == [b"A"]
    assert store.counts() == {"word": 1}


def test_the_cache_folder_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("MMREC_CACHE", raising=False)
    assert default_store() == Path("/x/mmrec/store.sqlite")
    monkeypatch.setenv("MMREC_CACHE", "/y")
    assert default_store() == Path("/y/store.sqlite")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"these are not the bytes of a database " * 100)
    with pytest.raises(ModelError, match=r"cannot open the store .*store\.sqlite"):
        Store(path)


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE results (name TEXT)")
    other.close()
    with pytest.raises(ModelError):
        Store(path).get([b"key"])


def test_damage_inside_the_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    keys = digest({}, [str(at) for at in range(3000)])
    store = Store(path)
    store.put("word", [(key, b"x" * 100) for key in keys])
    store.close()
    content = bytearray(path.read_bytes())
    content[8192:200_000] = b"\xff" * (200_000 - 8192)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"store\.sqlite"):
        Store(path).get(keys)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot open the store"):
        Store(tmp_path)


def _write_many(path: Path, name: str, ready: multiprocessing.Barrier) -> None:  # type: ignore[valid-type]
    store = Store(path)
    ready.wait(60)
    for at in range(60):
        names = [f"{name}-{at}-{i}" for i in range(5)] + [f"both-{at}"]
        recall(store, names, Counting(names), chunk=3)


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_write_many, args=(path, name, barrier)) for name in ("x", "y")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    names = [f"{name}-{at}-{i}" for name in ("x", "y") for at in range(60) for i in range(5)]
    names += [f"both-{at}" for at in range(60)]
    store = Store(path)
    assert store.counts() == {"word": len(names)}
    compute = Counting(names)
    assert recall(store, names, compute) == [name.upper().encode() for name in names]
    assert compute.calls == []


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_every_acknowledged_result_survives_the_killing_of_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    acknowledged = -1
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            acknowledged = int(line)
            if acknowledged == 25:
                os.kill(child.pid, signal.SIGKILL)
                break
        # What was printed between the reading and the end is acknowledged too.
        acknowledged += len(child.stdout.read().split("\n")) - 1
    assert child.returncode == -signal.SIGKILL
    assert acknowledged >= 25
    names = [f"{at}-{i}" for at in range(acknowledged + 1) for i in range(20)]
    keys = digest({}, names)
    found = Store(path).get(keys)
    assert [found.get(key) for key in keys] == [name.encode() for name in names]
