"""`mmrec store`: results counted, exported, imported and deleted; hostile files."""

import gzip
import json
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.cache.admin import ImportCounts, Selection, export, import_, prune, stats
from mmrec.cache.store import Failure, Store, result_keys
from mmrec.cli.options import stdout
from mmrec.cli.store import store_app
from mmrec.errors import ConfigError, DataError, StoreError
from mmrec.llm.types import Answer, Usage

NOTE = {"kind": "note", "model": "small", "prompt": "1"}
NOTE_2 = {**NOTE, "prompt": "2"}
LARGE = {**NOTE, "model": "large"}
VECTOR = {"kind": "vector", "model": "mini"}
DAY = 86400


def answer(tokens):
    usage = Usage(input=tokens, output=7, cached=1)
    return Answer(text="gut 👍", usage=usage).model_dump_json().encode()


@pytest.fixture
def full(store):
    """Two notes of the small model, by two prompts, one of the large, 30 vectors, and failures."""
    for provenance, tokens, final in ((NOTE, 100, True), (NOTE_2, 10, False)):
        results = [answer(tokens), Failure("no", final)]
        store.put(provenance, zip(result_keys(provenance, ["a", "b"]), results, strict=True))
    store.put(LARGE, zip(result_keys(LARGE, ["a"]), [answer(1)], strict=True))
    store.put(VECTOR, [(key, os.urandom(768)) for key in result_keys(VECTOR, map(str, range(30)))])
    return store


def content(store):
    query = """SELECT key, content, value, created
    FROM results JOIN provenances ON id = results.provenance ORDER BY key"""
    return store.db.execute(query).fetchall()


def failed_keys(store):
    return {key for (key,) in store.db.execute("SELECT key FROM failures")}


def line(**changed):
    good = {"key": "ab" * 32, "provenance": {"kind": "note"}, "value": "text", "created": 5}
    return json.dumps({**good, **changed}).encode()


def make_older(store, provenance, days):
    chosen = "provenance = (SELECT id FROM provenances WHERE content = ?)"
    created, text = int(time.time() - days * DAY), json.dumps(provenance, sort_keys=True)
    with store.db:
        for table in ("results", "failures"):
            store.db.execute(f"UPDATE {table} SET created = ? WHERE {chosen}", (created, text))


def test_results_are_counted_by_kind_and_model(full):
    make_older(full, NOTE, days=10)
    rows = {(row["kind"], row["model"]): row for row in stats(full, Selection())}
    assert list(rows) == [("note", "large"), ("note", "small"), ("vector", "mini")]
    size, day = len(answer(100)) + len(answer(10)), datetime.now(UTC) - timedelta(days=10)
    assert [*rows["note", "small"].values()] == ["note", "small", 2, 2, size, 110, 14, f"{day:%Y-%m-%d}"]
    assert " ".join(rows["note", "small"]) == "kind model results failed bytes input output oldest"
    vectors = rows["vector", "mini"]
    assert (vectors["results"], vectors["bytes"], vectors["input"]) == (30, 30 * 768, 0)
    (old,) = stats(full, Selection(kind="note", before=time.time() - DAY))
    assert (old["model"], old["results"], old["failed"], old["input"]) == ("small", 1, 1, 100)
    (failed,) = stats(full, Selection(model="small", failures=True))
    assert (failed["results"], failed["failed"]) == (0, 2)
    assert stats(full, Selection(kind="notes")) == []


ODD = [b'{"usage": {"input": %s}}' % x for x in (b'"1e999"', b"1e999", b"9e18", b"{}", b"null")]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from(ODD))))
def test_any_value_is_counted_and_comes_back_byte_by_byte(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("any") / "all.jsonl.gz"
    with closing(Store()) as store, closing(Store()) as copy:
        keys = result_keys(NOTE, map(str, range(len(values))))
        store.put(NOTE, zip(keys, values, strict=True))
        assert sum(row["bytes"] for row in stats(store, Selection())) == sum(map(len, values))
        assert export(store, file, Selection()) == len(values)
        assert import_(copy, file) == ImportCounts(new=len(values))
        assert content(copy) == content(store)


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_an_export_comes_back_and_is_present_the_second_time(full, tmp_path, name):
    path, empty = tmp_path / name, Store()
    make_older(full, NOTE, days=10)
    assert export(full, path, Selection()) == 33
    assert not [*tmp_path.glob(".*.part")]
    (key,), (other,) = result_keys(NOTE, ["a"]), result_keys(LARGE, ["a"])
    empty.put(NOTE, [(key, b"was here first"), (other, Failure("not here"))])
    assert import_(empty, path) == ImportCounts(new=32, present=1)
    assert import_(empty, path) == ImportCounts(new=0, present=33)
    assert failed_keys(empty) == set()
    present, *imported = sorted(content(empty), key=lambda row: row[0] != key)
    assert present[2] == b"was here first"
    assert imported == [row for row in content(full) if row[0] != key]


def test_an_export_that_fails_leaves_the_earlier_file(full, tmp_path, monkeypatch):
    path = tmp_path / "all.jsonl"
    path.write_text("before")
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(DataError, match=r"all\.jsonl cannot be written: .*No space"):
        export(full, path, Selection())
    assert path.read_text() == "before"
    assert not [*tmp_path.glob(".*.part")]
    with pytest.raises(DataError, match="cannot be written"):
        export(full, path / "below a file.jsonl", Selection())
    with pytest.raises(ConfigError, match=r"ends in \.jsonl"):
        export(full, tmp_path / "all.txt", Selection())


def test_a_bad_line_costs_only_itself_and_the_first_is_named(tmp_path):
    path, deep = tmp_path / "archive.jsonl", b'"x", "deep": ' + b"[" * 500 + b"]" * 500
    cases = {
        b"{": "broken JSON",
        b"\xff\xfe": "not UTF-8",
        b"[" * 100_000: "nested too deeply",
        b'{"provenance":' * 100_000: "nested too deeply",
        b"3": "not an object",
        **{line(key=key): "key: " for key in ("ab", "ab " * 21 + "a", 7)},
        line(provenance="note"): "provenance: ",
        **{line(provenance=p): "provenance: its kind is no text" for p in ({"model": "x"}, {"kind": 3})},
        line(provenance={"kind": "x", "temperature": float("nan")}): "not JSON compliant",
        line(provenance={"kind": "x"}).replace(b'"x"', deep): "recursion limit",
        line(provenance={"kind": "\ud800"}): "hex escape",
        line(value=None): "value",
        line(value="\ud800"): "hex escape",
        line(value="YQ", base64=True): "padding",
        line(value="Y!Q=", base64=True): "base64",
    }
    for bad, reason in cases.items():
        path.write_bytes(b"\n".join([line(), b"", bad, bad, line(key="cd" * 32, extra="ignored")]))
        with closing(Store()) as store:
            counts = import_(store, path)
            (row,) = stats(store, Selection())
        assert (counts.new, counts.refused) == (2, 2)
        assert counts.reason.startswith("line 3: ")
        assert reason in counts.reason
        assert (row["kind"], row["model"], row["results"], row["bytes"]) == ("note", None, 2, 8)


CLOCKS = {-62135596800: None, 253402300799: None, -1: None, 2**63 - 1: None, -(2**63): None, 1.5: 1}
CLOCKS |= dict.fromkeys((float("inf"), float("-inf"), 1e30, "yesterday", b"\xff"), 0)
CLOCKS |= {
    "2024-01-01T00:00:00": 1704067200,
    "2024-01-01T02:00:00+02:00": 1704067200,
    "0001-01-01": -62135596800,
}


def test_results_of_any_clock_come_back(store, tmp_path):
    keys = dict(zip(CLOCKS, result_keys(NOTE, map(str, CLOCKS)), strict=True))
    store.put(NOTE, [(key, b"paid") for key in keys.values()])
    for clock, key in keys.items():
        with store.db:
            store.db.execute("UPDATE results SET created = ? WHERE key = ?", (clock, key))
    stats(store, Selection(before=time.time()))
    path, clocks = tmp_path / "all.jsonl", {keys[c]: c if new is None else new for c, new in CLOCKS.items()}
    for _ in range(2):
        assert export(store, path, Selection()) == len(CLOCKS)
        store = Store()
        assert import_(store, path) == ImportCounts(new=len(CLOCKS))
        assert dict(store.db.execute("SELECT key, created FROM results")) == clocks
    for clock in (None, True, 10**30, [], {}, float("nan"), "5", "2024-01-01T00:00+99:00"):
        path.write_bytes(line(created=clock))
        with closing(Store()) as copy:
            assert import_(copy, path) == ImportCounts(new=1), clock


def test_failures_of_wrong_clocks_are_final_until_a_retry(store):
    clocks = (-1e12, 0.0, 1e12, float("inf"))
    keys = result_keys(NOTE, map(str, clocks))
    store.put(NOTE, [(key, Failure("no")) for key in keys])
    for clock, key in zip(clocks, keys, strict=True):
        with store.db:
            store.db.execute("UPDATE failures SET created = ? WHERE key = ?", (clock, key))
    assert store.missing(NOTE, map(str, clocks)) == {}
    with closing(Store(store.path, retry=True)) as retrying:
        assert retrying.missing(NOTE, map(str, clocks)).keys() == {*keys}
        retrying.put(NOTE, [(keys[0], Failure("no"))])
        assert retrying.missing(NOTE, map(str, clocks)).keys() == {*keys[1:]}


def test_results_before_a_break_in_the_file_are_kept(store, tmp_path):
    path = tmp_path / "archive.jsonl.gz"
    packed = gzip.compress(b"".join(line(key=os.urandom(32).hex()) + b"\n" for _ in range(5000)))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="cut off or damaged"):
        import_(store, path)
    assert store.counts() == {"note": 2000}
    path.write_bytes(packed)
    assert import_(store, path) == ImportCounts(new=3000, present=2000)


def test_pruning_deletes_the_selection_and_shrinks_the_file(full):
    full.put(VECTOR, [(key, os.urandom(768)) for key in result_keys(VECTOR, map(str, range(2000)))])
    make_older(full, NOTE, days=100)
    full.close()
    before = full.path.stat().st_size
    with closing(Store(full.path)) as store:
        prune(store, Selection(kind="vector"))
        assert store.counts() == {"note": 3}
        prune(store, Selection(before=time.time() - 90 * DAY))
        assert store.counts() == {"note": 2}
        assert failed_keys(store) == {*result_keys(NOTE_2, ["b"])}
        prune(store, Selection(model="small", failures=True))
        assert store.counts() == {"note": 2}
        assert failed_keys(store) == set()
    assert full.path.stat().st_size < before - 1_000_000


def test_results_are_not_pruned_while_another_process_computes_but_beside_a_reader(full):
    with ThreadPoolExecutor(1) as pool:
        with full.lock("vector"), pytest.raises(StoreError, match="another process computes: vector"):
            pool.submit(prune, full, Selection(kind="vector")).result()
        assert full.counts() == {"note": 3, "vector": 30}
        with closing(sqlite3.connect(full.path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM results").fetchone()
            pool.submit(prune, full, Selection(kind="vector")).result()
    assert full.counts() == {"note": 3}


def run(capsys, *words):
    store_app([*map(str, words)], result_action="return_value")
    return capsys.readouterr().out


def test_commands_print_counts_as_text_or_json(full, tmp_path, capsys):
    file, new = tmp_path / "notes.jsonl.gz", tmp_path / "new.sqlite"
    for words in (["stats"], ["export", "x.jsonl"], ["prune", "--failures"]):
        with pytest.raises(DataError, match=r"new\.sqlite: there is no store"):
            run(capsys, *words, "--store", new)
    assert not new.exists(), "only `import` creates a store"
    output = json.loads(run(capsys, "stats", "--store", full.path, "--json"))
    assert output["bytes"] == full.path.stat().st_size
    assert [row["results"] for row in output["holdings"]] == [1, 2, 30]
    words = ["export", file, "--kind", "note", "--model", "small", "--store", full.path]
    assert "2 results" in run(capsys, *words)
    rows = [json.loads(text) for text in gzip.decompress(file.read_bytes()).splitlines()]
    assert sorted((row["provenance"] for row in rows), key=str) == [NOTE, NOTE_2]
    assert json.loads(rows[0]["value"])["text"] == "gut 👍"
    assert "2 new, 0 present before, 0 refused" in run(capsys, "import", file, "--store", new)
    file.write_bytes(gzip.compress(b"{\n" * 30))
    output = json.loads(run(capsys, "import", file, "--store", new, "--json"))
    assert (output["new"], output["refused"]) == (0, 30)
    assert "30 refused; line 1: broken JSON" in run(capsys, "import", file, "--store", new)


def test_prune_deletes_only_with_yes(full, capsys):
    words = ["prune", "--kind", "note", "--model", "small", "--store", full.path]
    assert "4 results and failures would be deleted" in run(capsys, *words)
    assert full.counts() == {"note": 3, "vector": 30}
    output = json.loads(run(capsys, *words, "--json", "--yes"))
    assert output["deleted"] is True
    assert [row["results"] for row in output["holdings"]] == [2]
    assert full.counts() == {"note": 1, "vector": 30}
    assert "0 results and failures" in run(capsys, "prune", "--older-than", 90, "--store", full.path)
    with pytest.raises(ConfigError, match="select what to delete"):
        run(capsys, "prune", "--yes", "--store", full.path)


def test_names_from_an_archive_cannot_control_the_terminal(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stdout, "_width", 200)  # a narrow table would fold the names
    file = tmp_path / "archive.jsonl"
    file.write_bytes(line(provenance={"kind": "[red]x", "model": "\x1b[2Jy"}))
    run(capsys, "import", file, "--store", store.path)
    output = run(capsys, "stats", "--store", store.path)
    assert "\x1b" not in output
    assert "[red]x" in output
    assert r"\x1b[2Jy" in output
