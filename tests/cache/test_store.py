"""The store: each result computed once, and none lost; test_locks.py shows how processes share it."""

import multiprocessing
import os
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.cache.store import Failure, Store, default_store_path, result_keys
from mmrec.errors import StoreError

WORD = {"kind": "word", "model": "upper"}


def compute(store, names, failures=(), chunk=2, order=None):
    """Names in capitals, or their failures; and the blocks that were computed."""
    blocks = []

    def capitals(positions):
        for block in positions:
            blocks.append([names[position] for position in block])
            for position in reversed(block):
                name = names[position]
                yield position, failures[name] if name in failures else name.upper().encode()

    return store.get_or_compute(WORD, names, capitals, title="test", chunk=chunk, order=order), blocks


def stored_failures(store):
    rows = store.db.execute("SELECT key, reason, final FROM failures")
    return {key: Failure(reason, bool(final)) for key, reason, final in rows}


@pytest.mark.parametrize("in_memory", [False, True])
def test_every_input_is_computed_once_in_blocks_and_in_the_requested_order(store, in_memory):
    store = Store() if in_memory else store
    names = [*"abacbde"]
    assert sorted(store.missing(WORD, names).values()) == [0, 1, 3, 5, 6]
    results, blocks = compute(store, names)
    assert results == [b"A", b"B", b"A", b"C", b"B", b"D", b"E"]
    assert blocks == [["a", "b"], ["c", "d"], ["e"]]
    assert list(store.missing(WORD, [*"efa"]).values()) == [1]
    assert compute(store, [*"efa"]) == ([b"E", b"F", b"A"], [["f"]])
    assert store.counts() == {"word": 6}
    names = ["ccc", "aa", "bb"]
    results, blocks = compute(store, names, order=lambda position: (len(names[position]), names[position]))
    assert (results, blocks) == ([b"CCC", b"AA", b"BB"], [["aa", "bb"], ["ccc"]])


@pytest.mark.parametrize(("error", "written"), [(KeyboardInterrupt, 1), (RuntimeError, 2)])
def test_results_before_an_error_are_kept_even_of_an_unfinished_block(store, error, written):
    def first_of_each_block(blocks):
        for block in blocks:
            yield block[0], b"x"
            if error is KeyboardInterrupt:
                raise error("2 inputs were neither answered nor refused")

    with pytest.raises(error, match="2 inputs were neither answered nor refused"):
        store.get_or_compute(WORD, [*"abcd"], first_of_each_block, title="test", chunk=2)
    with closing(Store(store.path)) as reopened:
        assert reopened.counts() == {"word": written}
        assert len(list(chain.from_iterable(compute(reopened, [*"abcd"])[1]))) == 4 - written


def test_a_run_with_retry_tries_a_final_failure_once(store):
    final, worse = Failure("unreadable"), Failure("worse")
    assert compute(store, ["good", "bad"], {"bad": final})[0] == [b"GOOD", final]
    with closing(Store(store.path, retry=True)) as retrying:
        assert list(retrying.missing(WORD, ["good", "bad"]).values()) == [1]
        assert compute(retrying, ["good", "bad"], {"bad": worse})[0] == [b"GOOD", worse]
        assert retrying.missing(WORD, ["good", "bad"]) == {}


def is_missing(result, retry):
    return not isinstance(result, bytes) and (result is None or retry or not result.final)


@settings(max_examples=25, deadline=None)
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
                    computed = [name for name in new if is_missing(expected.get(name), retry)]
                    returned, blocks = compute(store, [*new], new)
                    assert [*chain.from_iterable(blocks)] == computed
                    after = expected | {name: new[name] for name in computed}
                    assert returned == [after[name] for name in new]
                for name in computed:
                    if not isinstance(expected.get(name), bytes):
                        expected[name] = new[name]
                stored = dict(store.select("SELECT key, value FROM results")) | stored_failures(store)
                assert stored == dict(zip(result_keys(WORD, expected), expected.values(), strict=True))


def test_keys_depend_on_provenance_and_text_but_not_on_the_order_of_a_provenance():
    keys = result_keys({"model": "a", "revision": "b"}, ["x", "y", "", "\ud800"])
    keys += result_keys({"model": "a", "revision": "c"}, ["x"]) + result_keys({"model": "a"}, ["x"])
    assert len(set(keys)) == len(keys)
    assert result_keys({"revision": "b", "model": "a"}, ["x"]) == keys[:1]


def test_the_cache_folder_is_a_setting(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("MMREC_CACHE", raising=False)
    assert default_store_path() == Path("/x/mmrec/store.sqlite")
    monkeypatch.setenv("MMREC_CACHE", "/y")
    assert default_store_path() == Path("/y/store.sqlite")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no database " * 300, "cannot be used: .*; move it away, or name another --store"),
        ("CREATE TABLE results (name TEXT)", "is no store of this version of mmrec; name another --store"),
        ("PRAGMA user_version = 4", "is no store of this version of mmrec; name another --store"),
        (None, "cannot be used: unable to open"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, content, message):
    path = tmp_path / "store.sqlite"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is None:
        path.mkdir()
    else:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(content)
    before = path.read_bytes()[100:] if path.is_file() else b""
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"store\.sqlite {message}"):
            Store(path)
    assert before == (path.read_bytes()[100:] if path.is_file() else b"")


def test_damage_inside_the_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "store.sqlite"
    names = [str(number) for number in range(3000)]
    with closing(Store(path)) as store:
        store.put(WORD, [(key, b"x" * 100) for key in result_keys(WORD, names)])
        assert store.missing(WORD, names) == {}, "a query cannot name so many keys"
    content = bytearray(path.read_bytes())
    content[8192:200_000] = b"\xff" * (200_000 - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.sqlite"):
        Store(path).missing(WORD, names)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_processes_that_create_a_store_at_the_same_time_all_get_it(tmp_path):
    def open_all():
        for number in range(20):
            time.sleep(max(0.0, start + number * 0.02 - time.time()))
            with closing(Store(tmp_path / f"new{number}.sqlite")) as store:
                assert store.counts() == {}

    start, fork = time.time() + 0.3, multiprocessing.get_context("fork")
    workers = [fork.Process(target=open_all) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of folders")
def test_a_folder_that_may_not_be_written_is_an_error_that_says_so():
    def put_everywhere():
        # In a process of its own, since the superuser may write to every folder.
        if os.getuid() == 0:
            os.setuid(65534)
        for file in ("store.sqlite", "new.sqlite", "new/store.sqlite"):
            with pytest.raises(StoreError, match="you may write there"):
                Store(Path(folder) / file).put(WORD, [(b"k", b"v")])

    with TemporaryDirectory() as folder:
        Store(Path(folder) / "store.sqlite").close()
        os.chmod(folder, 0o555)
        child = multiprocessing.get_context("fork").Process(target=put_everywhere)
        child.start()
        child.join(60)
        os.chmod(folder, 0o755)
    assert child.exitcode == 0


def test_a_store_that_becomes_read_only_is_an_error_that_frees_its_lock(store):
    def protect_after_a_block(blocks):
        for block in blocks:
            yield from [(position, b"x") for position in block]
            store.db.execute("PRAGMA query_only=ON")

    with pytest.raises(StoreError, match=r"store\.sqlite cannot be used: .*you may write there"):
        store.get_or_compute(WORD, [*"abcd"], protect_after_a_block, title="test", chunk=2)
    with closing(Store(store.path)) as reopened:
        assert reopened.counts() == {"word": 2}
        assert compute(reopened, [*"abcd"])[0] == [b"x", b"x", b"C", b"D"]


def test_no_call_is_under_way_when_the_lock_is_free_though_the_bar_failed(store, monkeypatch):
    was_locked = []

    def try_lock():
        with closing(Store(store.path)) as other, other.lock("word", max_wait=0) as is_held:
            was_locked.append(not is_held)

    @contextmanager
    def failing_bar(*_):
        yield Mock(side_effect=[None, MemoryError])  # it shows stored results before the first answer

    def answers(blocks):
        try:
            for block in blocks:
                yield block[0], b"answer"
        finally:  # here calls that are under way end; a lock excludes other threads
            with ThreadPoolExecutor(1) as pool:
                pool.submit(try_lock).result()

    monkeypatch.setattr("mmrec.cache.store.track", failing_bar)
    with pytest.raises(MemoryError) as error:
        store.get_or_compute(WORD, [*"abc"], answers, title="test", chunk=1)
    assert was_locked == [True], error
