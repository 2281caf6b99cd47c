"""`mmrec store`: what is in the store, out of it and into another, and thrown away; archives of strangers."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.cache.admin import ImportCounts, Selection, export, import_, prune, stats
from mmrec.cache.store import Failure, Store, result_keys
from mmrec.cli.store import store_app
from mmrec.errors import ConfigError, DataError, ModelError
from mmrec.llm.types import Answer, Usage

NOTE: dict[str, object] = {"kind": "note", "model": "small", "prompt": "1"}
NOTE_2 = {**NOTE, "prompt": "2"}
LARGE = {**NOTE, "model": "large"}
VECTOR: dict[str, object] = {"kind": "vector", "model": "mini"}


def answer(tokens: int) -> bytes:
    return Answer(text="gut 👍", usage=Usage(input=tokens, output=7, cached=1)).model_dump_json().encode()


@pytest.fixture
def full(store: Store) -> Store:
    """Two notes of the small model, by two prompts, one of the large, 30 vectors, and failures."""
    store.put(NOTE, [(result_keys(NOTE, "a")[0], answer(100)), (result_keys(NOTE, "b")[0], Failure("no"))])
    store.put(
        NOTE_2,
        [(result_keys(NOTE_2, "a")[0], answer(10)), (result_keys(NOTE_2, "b")[0], Failure("no", False))],
    )
    store.put(LARGE, [(result_keys(LARGE, "a")[0], answer(1))])
    store.put(VECTOR, [(key, os.urandom(768)) for key in result_keys(VECTOR, map(str, range(30)))])
    return store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "other.sqlite")) as one:
        yield one


def content(store: Store) -> list[tuple[Any, ...]]:
    query = "SELECT key, makers.maker, value, made FROM results JOIN makers ON id = results.maker ORDER BY 1"
    return store.db.execute(query).fetchall()


def line(**changed: object) -> bytes:
    good = {"key": "ab" * 32, "maker": {"kind": "note"}, "value": "text", "made": 5}
    return json.dumps({**good, **changed}).encode()


def age(store: Store, maker: dict[str, object], days: float) -> None:
    with store.db:
        for table in ("results", "failures"):
            condition = "maker = (SELECT id FROM makers WHERE maker = ?)"
            made, text = time.time() - days * 86400, json.dumps(maker, sort_keys=True)
            store.db.execute(f"UPDATE {table} SET made = ? WHERE {condition}", (int(made), text))


def test_results_are_counted_by_kind_and_model(full: Store) -> None:
    now = datetime.now(UTC)
    age(full, NOTE, 10)
    found = {(one["kind"], one["model"]): one for one in stats(full, Selection())}
    assert list(found) == [("note", "large"), ("note", "small"), ("vector", "mini")]
    assert found["note", "small"] == {
        "kind": "note",
        "model": "small",
        "results": 2,
        "failed": 2,
        "bytes": len(answer(100)) + len(answer(10)),
        "input": 110,
        "output": 14,
        "oldest": f"{now - timedelta(days=10):%Y-%m-%d}",
    }
    vectors = found["vector", "mini"]
    assert (vectors["results"], vectors["bytes"], vectors["input"]) == (30, 30 * 768, 0)
    (old,) = stats(full, Selection(kind="note", before=time.time() - 86400))
    assert (old["model"], old["results"], old["failed"], old["input"]) == ("small", 1, 1, 100)
    (failed,) = stats(full, Selection(model="small", failures=True))
    assert (failed["results"], failed["failed"]) == (0, 2)
    assert stats(full, Selection(kind="notes")) == []


def test_the_day_of_what_the_first_version_stored_is_not_known(full: Store) -> None:
    with full.db:
        full.db.execute("UPDATE results SET made = 0")
    (one,) = stats(full, Selection(kind="vector"))
    assert (one["results"], one["oldest"]) == (30, None)


ODD = [b'{"usage": {"input": %s}}' % one for one in (b'"1e999"', b"1e999", b"9e18", b"{}", b"null")]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from(ODD))))
def test_any_value_is_counted_and_comes_back_byte_by_byte(
    tmp_path_factory: pytest.TempPathFactory, values: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with closing(Store()) as store, closing(Store()) as other:
        store.put(NOTE, zip(result_keys(NOTE, map(str, range(len(values)))), values, strict=True))
        assert sum(one["bytes"] for one in stats(store, Selection())) == sum(map(len, values))
        assert export(store, folder / "all.jsonl.gz", Selection()) == len(values)
        assert import_(other, folder / "all.jsonl.gz") == ImportCounts(new=len(values))
        assert content(other) == content(store)


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_what_is_exported_comes_back_and_is_known_the_second_time(
    full: Store, other: Store, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    age(full, NOTE, 10)
    assert export(full, path, Selection()) == 33
    assert not [*tmp_path.glob(".*.part")]
    key = result_keys(NOTE, "a")[0]
    other.put(NOTE, [(key, b"was here first"), (result_keys(LARGE, "a")[0], Failure("not here"))])
    assert import_(other, path) == ImportCounts(new=32, present=1)
    assert import_(other, path) == ImportCounts(new=0, present=33)
    assert other.get([key]) == {key: b"was here first"}
    assert other.failures(result_keys(LARGE, "a")) == {}
    kept = [row for row in content(other) if row[0] != key]
    assert kept == [row for row in content(full) if row[0] != key]


def test_a_choice_is_exported(full: Store, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    assert export(full, path, Selection("note", "small")) == 2
    rows = [json.loads(one) for one in path.read_text().splitlines()]
    assert [row["maker"] for row in sorted(rows, key=lambda row: row["maker"]["prompt"])] == [NOTE, NOTE_2]
    assert json.loads(rows[0]["value"])["text"] == "gut 👍"
    assert export(full, path, Selection(kind="vector")) == 30
    assert all(len(json.loads(one)["value"]) == 1024 for one in path.read_text().splitlines())


def test_an_export_that_fails_leaves_the_file_of_before(
    full: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("before")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full_disk)
        with pytest.raises(DataError, match=r"all\.jsonl cannot be written: .*No space"):
            export(full, path, Selection())
    assert path.read_text() == "before"
    assert not [*tmp_path.glob(".*.part")]
    with pytest.raises(DataError, match="cannot be written"):
        export(full, path / "below a file.jsonl", Selection())
    with pytest.raises(ConfigError, match=r"ends in \.jsonl"):
        export(full, tmp_path / "all.txt", Selection())


BAD = {
    b"{": "broken JSON",
    b"\xff\xfe": "not UTF-8",
    b"[" * 100_000: "nested too deeply",
    b'{"maker":' * 100_000: "nested too deeply",
    b"3": "not an object",
    line(key="ab"): "key: ",
    line(key="ab " * 21 + "a"): "key: ",
    line(key=7): "key: ",
    line(maker="note"): "maker: ",
    line(maker={"model": "x"}): "maker: its kind is no text",
    line(maker={"kind": 3}): "maker: its kind is no text",
    line(maker={"kind": "x", "temperature": float("nan")}): "not JSON compliant",
    line(maker={"kind": "x"}).replace(b'"x"', b'"x", "deep": ' + b"[" * 500 + b"]" * 500): "recursion limit",
    line(maker={"kind": "\ud800"}): "hex escape",
    line(value=None): "value",
    line(value="\ud800"): "hex escape",
    line(value="YQ", base64=True): "padding",
    line(value="Y!Q=", base64=True): "base64",
    line(made=-1): "made: ",
    line(made=10**30): "made: ",
    line(made="5"): "made: ",
    line(made=True): "made: ",
}


def test_each_bad_line_costs_itself_and_the_first_is_named(other: Store, tmp_path: Path) -> None:
    for bad, reason in BAD.items():
        path = tmp_path / "archive.jsonl"
        path.write_bytes(b"\n".join([line(), b"", bad, bad, line(key="cd" * 32, extra="ignored")]))
        done = import_(other, path)
        assert (done.new + done.present, done.refused) == (2, 2), bad[:100]
        assert done.reason.startswith("line 3: ")
        assert reason in done.reason
    (one,) = stats(other, Selection())
    assert (one["kind"], one["model"], one["results"], one["bytes"]) == ("note", None, 2, 8)


def test_what_came_before_a_break_in_the_file_is_kept(other: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive.jsonl.gz"
    whole = gzip.compress(b"".join(line(key=os.urandom(32).hex()) + b"\n" for _ in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off or damaged"):
        import_(other, path)
    assert other.counts() == {"note": 2000}
    path.write_bytes(whole)
    assert import_(other, path) == ImportCounts(new=3000, present=2000)


def test_pruning_deletes_what_was_chosen_and_shrinks_the_file(full: Store) -> None:
    full.put(VECTOR, [(key, os.urandom(768)) for key in result_keys(VECTOR, map(str, range(2000)))])
    age(full, NOTE, 100)
    full.close()
    assert full.path is not None
    before = full.path.stat().st_size
    with closing(Store(full.path)) as store:
        prune(store, Selection(kind="vector"))
        assert store.counts() == {"note": 3}
    assert full.path.stat().st_size < before - 1_000_000
    with closing(Store(full.path)) as store:
        prune(store, Selection(before=time.time() - 90 * 86400))
        assert store.counts() == {"note": 2}
        assert store.failures(result_keys(NOTE, "b")) == {}
        prune(store, Selection(model="small", failures=True))
        assert store.counts() == {"note": 2}
        assert store.failures(result_keys(NOTE_2, "b")) == {}


def test_nothing_is_pruned_while_others_work(full: Store) -> None:
    with closing(Store(full.path)) as worker:
        worker.claims.take([b"k"])
        with pytest.raises(ModelError, match=r"other processes make 1 results"):
            prune(full, Selection(kind="vector"))
        assert full.counts() == {"note": 3, "vector": 30}
        worker.claims.release([b"k"])
        prune(full, Selection(kind="vector"))
        assert full.counts() == {"note": 3}


def test_claims_that_a_killed_process_left_hinder_no_pruning(full: Store) -> None:
    with full.db:
        full.db.execute("INSERT INTO claims VALUES (?, ?)", (b"k", "dead"))
    prune(full, Selection(kind="vector"))
    assert full.counts() == {"note": 3}


def test_pruning_works_beside_a_reader(full: Store) -> None:
    assert full.path is not None
    with closing(sqlite3.connect(full.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM results").fetchone()
        prune(full, Selection(kind="vector"))
    assert full.counts() == {"note": 3}


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    store_app([*map(str, words)], result_action="return_value")
    return capsys.readouterr().out


def test_the_commands(full: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(run(capsys, "stats", "--store", full.path, "--json"))
    assert said["bytes"] == full.path.stat().st_size
    assert [row["results"] for row in said["holdings"]] == [1, 2, 30]
    assert "vector" in run(capsys, "stats", "--store", full.path)
    file, new = tmp_path / "notes.jsonl.gz", tmp_path / "new.sqlite"
    assert "3 results" in run(capsys, "export", file, "--kind", "note", "--store", full.path)
    assert "3 new, 0 known already, 0 refused" in run(capsys, "import", file, "--store", new)
    file.write_bytes(gzip.compress(b"{\n" * 30))
    said = json.loads(run(capsys, "import", file, "--store", new, "--json"))
    assert (said["new"], said["refused"]) == (0, 30)
    assert "30 refused; line 1: broken JSON" in run(capsys, "import", file, "--store", new)


def test_prune_says_what_it_would_do_and_does_it_when_told_to(
    full: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", "--kind", "note", "--model", "small", "--store", full.path]
    said = run(capsys, *words)
    assert "4 results and failures would be deleted" in said
    assert full.counts() == {"note": 3, "vector": 30}
    said = json.loads(run(capsys, *words, "--json", "--yes"))
    assert said["deleted"] is True
    assert [row["results"] for row in said["holdings"]] == [2]
    assert full.counts() == {"note": 1, "vector": 30}
    assert "0 results and failures" in run(capsys, "prune", "--older-than", 90, "--store", full.path)
    with pytest.raises(ConfigError, match="say what to delete"):
        run(capsys, "prune", "--yes", "--store", full.path)


def test_only_import_makes_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.sqlite"
    for words in (["stats"], ["export", "x.jsonl"], ["prune", "--failures"]):
        with pytest.raises(DataError, match=r"none\.sqlite: no store is there"):
            run(capsys, *words, "--store", path)
    assert not path.exists()


def test_names_from_an_archive_cannot_command_the_terminal(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "archive.jsonl"
    file.write_bytes(line(maker={"kind": "[red]x", "model": "\x1b[2Jy"}))
    run(capsys, "import", file, "--store", store.path)
    said = run(capsys, "stats", "--store", store.path)
    assert "\x1b" not in said
    assert "[red]x" in said
    assert "�[2Jy" in said
