"""The store: each result once, and none lost; how processes share it is in test_claims."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.cache.store import Failure, Result, Store, default_store_path, result_keys
from mmrec.errors import ModelError

MAKER: dict[str, object] = {"kind": "word", "model": "upper"}


class Counting:
    """Answers names in capitals, and notes which it was asked for in which blocks."""

    def __init__(
        self, names: Sequence[str], fail_at: int | None = None, failures: dict[str, Failure] | None = None
    ) -> None:
        self.names = names
        self.blocks: list[list[str]] = []
        self._fail_at = fail_at
        self._failures = failures or {}

    def __call__(self, blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
        for block in blocks:
            if len(self.blocks) == self._fail_at:
                raise RuntimeError("the model went away")
            self.blocks.append([self.names[at] for at in block])
            for at in reversed(block):
                name = self.names[at]
                yield at, self._failures.get(name, name.upper().encode())


def recall(store: Store, compute: Counting, chunk: int = 2) -> list[Result]:
    return store.get_or_compute(MAKER, compute.names, compute, title="test", chunk=chunk)


def test_every_input_is_computed_once_and_in_blocks(store: Store) -> None:
    compute = Counting(["a", "b", "a", "c", "b", "d", "e"])
    assert sorted(store.missing(MAKER, compute.names).values()) == [0, 1, 3, 5, 6]
    assert recall(store, compute) == [b"A", b"B", b"A", b"C", b"B", b"D", b"E"]
    assert compute.blocks == [["a", "b"], ["c", "d"], ["e"]]
    again = Counting(["e", "f", "a"])
    assert sorted(store.missing(MAKER, again.names).values()) == [1]
    assert recall(store, again) == [b"E", b"F", b"A"]
    assert again.blocks == [["f"]]
    assert store.counts() == {"word": 6}
    assert store.claims.living() == 0


def test_computing_keeps_to_the_order_asked_for(store: Store) -> None:
    names = ["ccc", "a", "bb"]
    compute = Counting(names)
    order = lambda at: (len(names[at]), names[at])  # noqa: E731
    answers = store.get_or_compute(MAKER, names, compute, title="test", chunk=2, order=order)
    assert compute.blocks == [["a", "bb"], ["ccc"]]
    assert answers == [b"CCC", b"A", b"BB"]


def test_results_that_came_before_an_error_are_kept_also_of_an_unfinished_block(store: Store) -> None:
    with pytest.raises(RuntimeError, match="went away"):
        recall(store, Counting([*"abcdef"], fail_at=2))
    assert store.claims.living() == 0

    def breaks_off(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
        yield next(blocks)[0], b"E"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_compute(MAKER, [*"abcdef"], breaks_off, title="test", chunk=9)
    assert store.claims.living() == 0
    with closing(Store(store.path)) as reopened:
        assert reopened.counts() == {"word": 5}
        compute = Counting([*"abcdef"])
        assert recall(reopened, compute) == [name.upper().encode() for name in compute.names]
        assert compute.blocks == [["f"]]


def test_each_result_is_there_as_soon_as_its_block_is_full(store: Store) -> None:
    names = [*"abcde"]
    counts = []

    def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
        for at in [at for block in blocks for at in block]:
            counts.append(store.counts().get("word", 0))
            yield at, b"x"

    store.get_or_compute(MAKER, names, compute, title="test", chunk=2)
    assert counts == [0, 0, 2, 2, 4]


def test_an_input_that_is_never_answered_is_an_error_and_no_endless_wait(store: Store) -> None:
    def forgetful(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
        for block in blocks:
            yield block[0], b"x"

    with pytest.raises(RuntimeError, match="2 inputs were neither answered nor refused"):
        store.get_or_compute(MAKER, [*"abcd"], forgetful, title="test", chunk=2)
    assert store.counts() == {"word": 2}
    assert store.claims.living() == 0


def test_failures_for_good_are_not_tried_again_and_others_are(store: Store) -> None:
    no, later = Failure("unreadable"), Failure("busy", final=False)
    names = ["good", "bad", "late"]
    assert recall(store, Counting(names, failures={"bad": no, "late": later})) == [b"GOOD", no, later]
    assert store.failures(result_keys(MAKER, names)) == dict(
        zip(result_keys(MAKER, names)[1:], [no, later], strict=True)
    )
    assert sorted(store.missing(MAKER, names).values()) == [2]
    again = Counting(names)
    assert recall(store, again) == [b"GOOD", no, b"LATE"]
    assert again.blocks == [["late"]]
    with closing(Store(store.path, retry=True)) as retrying:
        assert sorted(retrying.missing(MAKER, names).values()) == [1]
        worse = Failure("still unreadable")
        assert recall(retrying, Counting(names, failures={"bad": worse})) == [b"GOOD", worse, b"LATE"]
        assert sorted(retrying.missing(MAKER, names).values()) == [], "a run retries a failure once"
    with closing(Store(store.path, retry=True)) as retrying:
        assert recall(retrying, Counting(names)) == [b"GOOD", b"BAD", b"LATE"]
    assert store.failures(result_keys(MAKER, names)) == {}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_interleaving_keeps_first_values_and_failures_for_good(data: st.DataObject) -> None:
    names = st.sampled_from("abcd")
    results = st.one_of(st.binary(max_size=3), st.builds(Failure, st.sampled_from("xy"), st.booleans()))
    there: dict[str, Result] = {}
    with TemporaryDirectory() as folder:
        for _ in range(data.draw(st.integers(1, 12))):
            retry = data.draw(st.booleans())
            with closing(Store(Path(folder) / "store.sqlite", retry=retry)) as store:
                given_now = data.draw(st.dictionaries(names, results, min_size=1))
                keys = dict(zip(given_now, result_keys(MAKER, given_now), strict=True))
                if data.draw(st.booleans()):
                    store.put(MAKER, [(keys[name], result) for name, result in given_now.items()])
                    there = _after(there, given_now)
                else:
                    done = {
                        name
                        for name, one in there.items()
                        if isinstance(one, bytes) or (one.final and not retry)
                    }
                    asked: list[str] = []
                    found = store.get_or_compute(
                        MAKER, given_now, _answering(given_now, asked), title="test", chunk=2
                    )
                    assert sorted(asked) == sorted(given_now.keys() - done)
                    there = _after(there, {name: given_now[name] for name in asked})
                    assert dict(zip(given_now, found, strict=True)) == {
                        name: there[name] for name in given_now
                    }
                assert store.get(result_keys(MAKER, "abcd")) | store.failures(
                    result_keys(MAKER, "abcd")
                ) == dict(zip(result_keys(MAKER, there), there.values(), strict=True))


def _after(there: dict[str, Result], new: dict[str, Result]) -> dict[str, Result]:
    first = {name: one for name, one in there.items() if isinstance(one, bytes)}
    return {**there, **new, **first}


def _answering(
    answers: dict[str, Result], asked: list[str]
) -> Callable[[Iterator[list[int]]], Generator[tuple[int, Result]]]:
    names = [*answers]

    def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
        for at in [at for block in blocks for at in block]:
            asked.append(names[at])
            yield at, answers[names[at]]

    return compute


def test_the_first_value_of_a_key_stays(store: Store) -> None:
    store.put(MAKER, [(b"k", b"first")])
    store.put(MAKER, [(b"k", b"second")])
    store.put(MAKER, [(b"k", Failure("too late"))])
    assert store.get([b"k", b"other"]) == {b"k": b"first"}
    assert store.failures([b"k"]) == {}


def test_many_keys_are_found_at_once(store: Store) -> None:
    names = [str(at) for at in range(1234)]
    keys = result_keys({}, names)
    store.put(MAKER, zip(keys, [name.encode() for name in names], strict=True))
    assert store.get(keys) == {key: name.encode() for key, name in zip(keys, names, strict=True)}


def test_keys_tell_makers_and_texts_apart_but_not_the_order_of_a_maker() -> None:
    keys = [
        *result_keys({"model": "a", "revision": "b"}, ["x", "y", "", "\ud800"]),
        *result_keys({"model": "a", "revision": "c"}, ["x"]),
        *result_keys({"model": "a"}, ["x"]),
    ]
    assert len(set(keys)) == len(keys)
    assert result_keys({"revision": "b", "model": "a"}, ["x"]) == keys[:1]


def test_a_store_without_a_path_keeps_everything_in_memory() -> None:
    store = Store(None)
    assert recall(store, Counting(["a"])) == [b"A"]
    assert recall(store, Counting(["a", "b"], fail_at=1)) == [b"A", b"B"]
    assert store.counts() == {"word": 2}


def test_the_cache_folder_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("MMREC_CACHE", raising=False)
    assert default_store_path() == Path("/x/mmrec/store.sqlite")
    monkeypatch.setenv("MMREC_CACHE", "/y")
    assert default_store_path() == Path("/y/store.sqlite")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"these are not the bytes of a database " * 100)
    with pytest.raises(ModelError, match=r"store\.sqlite cannot be used: .*; move it away, or name another"):
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
    keys = result_keys({}, [str(at) for at in range(3000)])
    store = Store(path)
    store.put(MAKER, [(key, b"x" * 100) for key in keys])
    store.close()
    content = bytearray(path.read_bytes())
    content[8192:200_000] = b"\xff" * (200_000 - 8192)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"store\.sqlite"):
        Store(path).get(keys)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be used: unable to open"):
        Store(tmp_path)


def version_1(path: Path, rows: dict[bytes, tuple[str, bytes]]) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode=WAL")
        columns = "key BLOB PRIMARY KEY, kind TEXT NOT NULL, value BLOB NOT NULL"
        db.execute(f"CREATE TABLE results ({columns}) WITHOUT ROWID")
        db.executemany("INSERT INTO results VALUES (?, ?, ?)", [(key, *row) for key, row in rows.items()])


def test_a_store_of_the_first_version_keeps_its_results(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    vector = bytes(range(256)) * 3
    note, word = result_keys({"kind": "note"}, ["x"])[0], result_keys(MAKER, ["a"])[0]
    version_1(path, {note: ("note", b"text"), word: ("word", b"A"), bytes(32): ("vector", vector)})
    for _ in range(2):
        with closing(Store(path)) as store:
            assert store.counts() == {"note": 1, "vector": 1, "word": 1}
            assert store.get([note, bytes(32)]) == {note: b"text", bytes(32): vector}
            compute = Counting(["a"])
            assert recall(store, compute) == [b"A"]
            assert compute.blocks == []
    with closing(sqlite3.connect(path)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"makers", "results", "failures", "claims"}
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 3")
    with pytest.raises(ModelError, match=r"store\.sqlite was written by a newer mmrec: update mmrec"):
        Store(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def _open_many(folder: Path, start: float, kinds: int) -> None:
    for number, path in enumerate(sorted(folder.glob("*.sqlite"))):
        time.sleep(max(0.0, start + number * 0.02 - time.time()))
        with closing(Store(path)) as store:
            assert len(store.counts()) == (kinds if path.stem.startswith("old") else 0)


def test_processes_that_open_or_migrate_a_store_at_once_all_get_it(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"new{number}.sqlite").touch()
        version_1(tmp_path / f"old{number}.sqlite", {bytes([at] * 32): (str(at), b"") for at in range(9)})
    context = multiprocessing.get_context("spawn")
    start = time.time() + 1.5
    workers = [context.Process(target=_open_many, args=(tmp_path, start, 9)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of folders")
def test_a_folder_that_may_not_be_written_is_told() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        Store(folder / "store.sqlite").close()
        folder.chmod(0o555)
        child = os.fork()
        if not child:
            try:
                # In a process of its own, since to the superuser every folder may be written.
                if os.getuid() == 0:
                    os.setuid(65534)
                told = [_told(folder / file) for file in ("store.sqlite", "new.sqlite", "new/store.sqlite")]
                os._exit(0 if all("you may write there" in one for one in told) else 1)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        folder.chmod(0o755)


def _told(path: Path) -> str:
    try:
        Store(path).put(MAKER, [(b"k", b"v")])
    except ModelError as error:
        return str(error)
    return "nothing"


def test_a_store_that_cannot_be_written_while_working_is_told_and_frees_its_claims(store: Store) -> None:
    def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
        for block in blocks:
            yield from [(at, b"x") for at in block]
            store.db.execute("PRAGMA query_only=ON")

    with pytest.raises(ModelError, match=r"store\.sqlite cannot be used: .*you may write there"):
        store.get_or_compute(MAKER, [*"abcd"], compute, title="test", chunk=2)
    with closing(Store(store.path)) as other:
        assert other.counts() == {"word": 2}
        compute_rest = Counting([*"abcd"])
        assert recall(other, compute_rest) == [b"x", b"x", b"C", b"D"]
