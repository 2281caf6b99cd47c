"""The store: each result computed once, and none lost; test_locks.py shows how processes share it."""

import multiprocessing
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.cache.store import Failure, Store, default_store_path, result_keys
from mmrec.errors import StoreError

WORD = {"kind": "word", "model": "upper"}


class Capitals:
    """Gives names in capitals, or their failures; notes the blocks that were asked for."""

    def __init__(self, names, failures=None):
        self.names = names
        self.blocks = []
        self.raise_at = None
        self._results = failures or {}

    def __call__(self, blocks):
        for block in blocks:
            if len(self.blocks) == self.raise_at:
                raise RuntimeError("the model went away")
            self.blocks.append([self.names[position] for position in block])
            for position in reversed(block):
                name = self.names[position]
                yield position, self._results.get(name, name.upper().encode())


def compute(store, function, chunk=2):
    return store.get_or_compute(WORD, function.names, function, title="test", chunk=chunk)


def test_every_input_is_computed_once_and_in_blocks(store):
    capitals = Capitals(["a", "b", "a", "c", "b", "d", "e"])
    assert sorted(store.missing(WORD, capitals.names).values()) == [0, 1, 3, 5, 6]
    assert compute(store, capitals) == [b"A", b"B", b"A", b"C", b"B", b"D", b"E"]
    assert capitals.blocks == [["a", "b"], ["c", "d"], ["e"]]
    again = Capitals(["e", "f", "a"])
    assert list(store.missing(WORD, again.names).values()) == [1]
    assert compute(store, again) == [b"E", b"F", b"A"]
    assert again.blocks == [["f"]]
    assert store.counts() == {"word": 6}


def test_results_are_computed_in_the_requested_order(store):
    names = ["ccc", "a", "bb"]
    capitals = Capitals(names)
    order = lambda position: (len(names[position]), names[position])  # noqa: E731
    results = store.get_or_compute(WORD, names, capitals, title="test", chunk=2, order=order)
    assert capitals.blocks == [["a", "bb"], ["ccc"]]
    assert results == [b"CCC", b"A", b"BB"]


def test_results_before_an_error_are_kept_even_of_an_unfinished_block(store):
    capitals = Capitals([*"abcdef"])
    capitals.raise_at = 2
    with pytest.raises(RuntimeError, match="went away"):
        compute(store, capitals)

    def interrupted(blocks):
        yield next(blocks)[0], b"E"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_compute(WORD, [*"abcdef"], interrupted, title="test", chunk=9)
    with closing(Store(store.path)) as reopened:
        assert reopened.counts() == {"word": 5}
        capitals = Capitals([*"abcdef"])
        assert compute(reopened, capitals) == [name.upper().encode() for name in capitals.names]
        assert capitals.blocks == [["f"]]


def test_results_are_written_as_soon_as_a_block_is_full(store):
    counts = []

    def count(blocks):
        for position in [position for block in blocks for position in block]:
            counts.append(store.counts().get("word", 0))
            yield position, b"x"

    store.get_or_compute(WORD, [*"abcde"], count, title="test", chunk=2)
    assert counts == [0, 0, 2, 2, 4]


def test_an_input_without_a_result_is_an_error(store):
    def first_of_each_block(blocks):
        for block in blocks:
            yield block[0], b"x"

    with pytest.raises(RuntimeError, match="2 inputs were neither answered nor refused"):
        store.get_or_compute(WORD, [*"abcd"], first_of_each_block, title="test", chunk=2)
    assert store.counts() == {"word": 2}


def test_final_failures_are_not_tried_again_and_passing_ones_are(store):
    final, passing, worse = Failure("unreadable"), Failure("busy", final=False), Failure("worse")
    names = ["good", "bad", "late"]
    assert compute(store, Capitals(names, {"bad": final, "late": passing})) == [b"GOOD", final, passing]
    assert list(store.missing(WORD, names).values()) == [2]
    again = Capitals(names)
    assert compute(store, again) == [b"GOOD", final, b"LATE"]
    assert again.blocks == [["late"]]
    with closing(Store(store.path, retry=True)) as retrying:
        assert list(retrying.missing(WORD, names).values()) == [1]
        assert compute(retrying, Capitals(names, {"bad": worse})) == [b"GOOD", worse, b"LATE"]
        assert retrying.missing(WORD, names) == {}, "a run retries a failure once"
    with closing(Store(store.path, retry=True)) as retrying:
        assert compute(retrying, Capitals(names)) == [b"GOOD", b"BAD", b"LATE"]
    assert failures(store) == {}


def failures(store):
    rows = store.db.execute("SELECT key, reason, final FROM failures")
    return {key: Failure(reason, bool(final)) for key, reason, final in rows}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_interleaving_keeps_first_values_and_final_failures(data):
    names = st.sampled_from("abcd")
    results = st.one_of(st.binary(max_size=3), st.builds(Failure, st.sampled_from("xy"), st.booleans()))
    expected = {}
    with TemporaryDirectory() as folder:
        for _ in range(data.draw(st.integers(1, 12))):
            retry = data.draw(st.booleans())
            new = data.draw(st.dictionaries(names, results, min_size=1))
            with closing(Store(Path(folder) / "store.sqlite", retry=retry)) as store:
                if data.draw(st.booleans()):
                    store.put(WORD, zip(result_keys(WORD, new), new.values(), strict=True))
                    computed = list(new)
                else:
                    capitals = Capitals([*new], new)
                    computed = [name for name in new if _is_missing(expected.get(name), retry)]
                    returned = compute(store, capitals)
                    assert [name for block in capitals.blocks for name in block] == computed
                    after = expected | {name: new[name] for name in computed}
                    assert returned == [after[name] for name in new]
                for name in computed:
                    if not isinstance(expected.get(name), bytes):
                        expected[name] = new[name]
                stored = store.get(result_keys(WORD, "abcd")) | failures(store)
                assert stored == dict(zip(result_keys(WORD, expected), expected.values(), strict=True))


def _is_missing(result, retry):
    return result is None or (isinstance(result, Failure) and (retry or not result.final))


def test_the_first_value_of_a_key_stays(store):
    for result in (b"first", b"second", Failure("too late")):
        store.put(WORD, [(b"k", result)])
    assert store.get([b"k", b"absent"]) == {b"k": b"first"}
    assert failures(store) == {}


def test_more_keys_than_a_query_can_name_are_found(store):
    names = [str(number) for number in range(1234)]
    keys = result_keys({}, names)
    store.put(WORD, zip(keys, [name.encode() for name in names], strict=True))
    assert store.get(keys) == {key: name.encode() for key, name in zip(keys, names, strict=True)}


def test_keys_depend_on_provenance_and_text_but_not_on_the_order_of_a_provenance():
    keys = [
        *result_keys({"model": "a", "revision": "b"}, ["x", "y", "", "\ud800"]),
        *result_keys({"model": "a", "revision": "c"}, ["x"]),
        *result_keys({"model": "a"}, ["x"]),
    ]
    assert len(set(keys)) == len(keys)
    assert result_keys({"revision": "b", "model": "a"}, ["x"]) == keys[:1]


def test_a_store_without_a_path_keeps_everything_in_memory(monkeypatch):
    store = Store(None)
    assert compute(store, Capitals(["a"])) == [b"A"]
    again = Capitals(["a", "b"])
    assert compute(store, again) == [b"A", b"B"]
    assert again.blocks == [["b"]]


def test_the_cache_folder_is_a_setting(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("MMREC_CACHE", raising=False)
    assert default_store_path() == Path("/x/mmrec/store.sqlite")
    monkeypatch.setenv("MMREC_CACHE", "/y")
    assert default_store_path() == Path("/y/store.sqlite")


def _write_text(path):
    path.write_bytes(b"these are not the bytes of a database " * 100)


def _write_table(path):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE results (name TEXT)")


def _write_version(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 4")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_write_text, r"store\.sqlite cannot be used: .*; move it away, or name another"),
        (_write_table, r"store\.sqlite is no store of this version of mmrec"),
        (_write_version, r"store\.sqlite is no store of this version of mmrec"),
        (Path.mkdir, "cannot be used: unable to open"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, write, message):
    path = tmp_path / "store.sqlite"
    write(path)
    before = path.read_bytes() if path.is_file() else b""
    for _ in range(2):
        with pytest.raises(StoreError, match=message):
            Store(path)
    assert before[100:] == (path.read_bytes()[100:] if path.is_file() else b"")


def test_damage_inside_the_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "store.sqlite"
    keys = result_keys({}, [str(number) for number in range(3000)])
    with closing(Store(path)) as store:
        store.put(WORD, [(key, b"x" * 100) for key in keys])
    content = bytearray(path.read_bytes())
    content[8192:200_000] = b"\xff" * (200_000 - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.sqlite"):
        Store(path).get(keys)


def _open_all(folder, start):
    for number, path in enumerate(sorted(folder.glob("*.sqlite"))):
        time.sleep(max(0.0, start + number * 0.02 - time.time()))
        with closing(Store(path)) as store:
            assert store.counts() == {}


def test_processes_that_create_a_store_at_the_same_time_all_get_it(tmp_path):
    for number in range(20):
        (tmp_path / f"new{number}.sqlite").touch()
    context = multiprocessing.get_context("spawn")
    start = time.time() + 1.0
    workers = [context.Process(target=_open_all, args=(tmp_path, start)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of folders")
def test_a_folder_that_may_not_be_written_is_an_error_that_says_so():
    with TemporaryDirectory() as name:
        folder = Path(name)
        Store(folder / "store.sqlite").close()
        folder.chmod(0o555)
        child = os.fork()
        if not child:
            try:
                # In a process of its own, since the superuser may write to every folder.
                if os.getuid() == 0:
                    os.setuid(65534)
                files = ("store.sqlite", "new.sqlite", "new/store.sqlite")
                messages = [_message_of_put(folder / file) for file in files]
                os._exit(0 if all("you may write there" in x for x in messages) else 1)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        folder.chmod(0o755)


def _message_of_put(path):
    try:
        Store(path).put(WORD, [(b"k", b"v")])
    except StoreError as error:
        return str(error)
    return ""


def test_a_store_that_becomes_read_only_is_an_error_that_frees_its_lock(store):
    def protect_after_a_block(blocks):
        for block in blocks:
            yield from [(position, b"x") for position in block]
            store.db.execute("PRAGMA query_only=ON")

    with pytest.raises(StoreError, match=r"store\.sqlite cannot be used: .*you may write there"):
        store.get_or_compute(WORD, [*"abcd"], protect_after_a_block, title="test", chunk=2)
    with closing(Store(store.path)) as reopened:
        assert reopened.counts() == {"word": 2}
        assert compute(reopened, Capitals([*"abcd"])) == [b"x", b"x", b"C", b"D"]
