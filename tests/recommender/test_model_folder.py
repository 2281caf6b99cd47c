"""Folders of models: replaced whole or not at all; damaged and hostile ones are refused in one sentence."""

import json
import math
import os
import random
import shutil
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmrec.config import AnnotationConfig, RankerConfig
from mmrec.errors import MmrecError, ModelError
from mmrec.recommender.loading import load_recommender
from mmrec.recommender.persistence import replace_file
from mmrec.recommender.recommender import Recommender
from model_files import change_file, change_manifest, copy_model, files_of

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from kills import fingerprint, kill_saves, small_models

TENSORS = ["features", "model", "retrieval"]
TABLES = ["items", "notes", "reviews"]
FILES = [f"{name}.safetensors" for name in TENSORS] + [f"{name}.json" for name in TABLES]
ALL_FILES = ["model.json", *FILES]


@pytest.fixture
def folder(model, tmp_path):
    """A model that a test may change."""
    return copy_model(model, tmp_path / "model")


@pytest.fixture(scope="module")
def sources(minilm, tmp_path_factory):
    """Two models that differ in everything."""
    return small_models(tmp_path_factory.mktemp("two"))


# Saving.


def test_a_save_that_is_killed_at_random_leaves_one_model_whole(sources, tmp_path):
    counts = kill_saves(sources, tmp_path / "model", kills=2)
    assert counts["the old model"] + counts["the new model"] == 2
    assert not [subject for subject in counts if subject.endswith("lost")]
    assert counts["folders of models after the next save"] == 1


def save_until(source, folder, last, pipe):
    """Save a model over another, and end at the `last` file operation, as if killed there."""
    model, count = Recommender.load(source), 0

    def count_operation(event, arguments):
        nonlocal count
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"):
            count += str(folder) in str(arguments[0]) or event in ("os.rmdir", "os.remove")
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count_operation)
    model.save(folder)
    pipe.send(count)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_save_that_is_killed_at_any_file_operation_leaves_one_model_whole(sources, tmp_path):
    folder, prints = tmp_path / "model", [fingerprint(load_recommender(source)) for source in sources]
    context = get_context("spawn")

    def save(last):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sources[0], folder)
        here, there = context.Pipe()
        process = context.Process(target=save_until, args=(sources[1], folder, last, there))
        process.start()
        process.join(120)
        return here.recv() if process.exitcode == 0 else None

    count = save(0)
    assert count > 20
    found = []
    # The first and the last, where names are swapped, and some between.
    for last in (2, count // 2, *range(count - 12, count + 1, 3)):
        assert save(last) is None
        found.append(prints.index(fingerprint(load_recommender(folder))))
    assert found == sorted(found)  # the old one up to the swap, then the new one
    assert {*found} == {0, 1}


def test_what_else_lies_in_the_folder_stays(sources, tmp_path):
    folder, others = tmp_path / "model", ["live.sqlite", "live.sqlite-wal", "report.html", "model-of-mine/a"]
    first, second = map(Recommender.load, sources)
    first.save(folder)
    killed = folder / "model-0123456789abcdef"
    killed.mkdir()
    (killed / "reviews.json").touch()
    for name in others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    second.save(folder)
    assert [(folder / name).read_text() for name in others] == others
    assert not killed.exists()
    assert len([*folder.glob("model-*")]) == 2
    assert fingerprint(load_recommender(folder)) == fingerprint(second.saved)


def test_a_save_that_fails_leaves_the_earlier_model(sources, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    first, second = map(Recommender.load, sources)
    first.save(folder)
    before = sorted(folder.rglob("*"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmrec.recommender.persistence.os.fsync", full)
    with pytest.raises(ModelError, match=r"cannot be saved .*No space left.* unchanged"):
        second.save(folder)
    assert sorted(folder.rglob("*")) == before
    assert fingerprint(load_recommender(folder)) == fingerprint(first.saved)


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(sources, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    first, second = map(Recommender.load, sources)
    first.save(folder)
    check_files, calls = sys.modules["mmrec.recommender.model_folder"].check_files, []

    def check(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            second.save(folder)
        return check_files(*arguments, **options)

    monkeypatch.setattr("mmrec.recommender.model_folder.check_files", check)
    assert fingerprint(load_recommender(folder)) == fingerprint(second.saved)
    assert len(calls) == 2


@pytest.mark.parametrize("features", ["baseline", "proposed", "mmrec"])
def test_a_model_of_every_kind_comes_back(fitted, tmp_path, features):
    ranker = RankerConfig(features=features, ensemble=2)
    annotation = AnnotationConfig(strategy="summary" if features == "proposed" else "notes")
    config = fitted.config.model_copy(update={"ranker": ranker, "annotation": annotation})
    reviews = fitted.saved.reviews
    for table in (reviews.table.head(300), reviews.table.head(300).drop("photos", "captions")):
        items = reviews.items.drop("name") if len(table.columns) < 8 else reviews.items
        part = type(reviews)(table, items if "name" in items.columns else reviews.items)
        first = Recommender(config).fit(part)
        again = Recommender.load(first.save(tmp_path / "model"), trust=True)
        users, items = (again.state.online.ids[kind] for kind in ("user", "item"))
        names = [user for user in users for _ in items], items * len(users)
        assert np.array_equal(again.predict(*names), first.predict(*names))
        assert again.recommend_all(5).equals(first.recommend_all(5))


# Damage.


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("name", ALL_FILES)
def test_what_is_flipped_cut_swapped_or_missing_is_named(folder, name, model):
    path = folder / name if name == "model.json" else files_of(folder) / name
    other = path.with_name("model.safetensors" if name == "features.safetensors" else "features.safetensors")
    content, size = path.read_bytes(), path.stat().st_size
    changes = [lambda position=position: flip(path, position) for position in (0, 90, size // 2, size - 1)]
    changes += [lambda end=end: path.write_bytes(content[:end]) for end in (0, 1, size // 2, size - 1)]
    changes += [lambda: path.write_bytes(content + b" "), path.unlink]
    if name != "model.json":
        changes.append(lambda: shutil.copy(other, path))
    for change in changes:
        change()
        with pytest.raises(ModelError, match=name if name != "model.json" else "model"):
            load_recommender(folder)
        path.write_bytes(content)
    load_recommender(folder)


def test_another_format_and_no_model_are_said(folder, tmp_path):
    for content in (b'{"format": 9}', b'{"format": 99, "more": [1]}'):
        (folder / "model.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"format \d+, this mmrec reads \d+; fit again"):
            load_recommender(folder)
    with pytest.raises(ModelError, match=r"no model\.json here; name a folder"):
        load_recommender(tmp_path)


# Hostility: whoever makes the folder makes its hashes, too.


def arrays(name, key, change):
    """Change an array of a file; without a change it is missing."""

    def rewrite(path):
        values = load_file(path)
        old = values.pop(key)
        if change:
            values[key] = np.asarray(change(old), order="C")
        save_file(values, path)

    return lambda folder: change_file(folder, f"{name}.safetensors", rewrite)


def cell(value):
    """Set the first number of an array."""

    def change(values):
        values = values.copy()
        values.reshape(-1)[0] = value
        return values

    return change


def header(name, text):
    """A file that is a header of safetensors alone."""
    content = len(text).to_bytes(8, "little") + text.encode()
    return lambda folder: change_file(folder, f"{name}.safetensors", lambda path: path.write_bytes(content))


def huge(name, key, shape):
    """A header with another shape of an array, and offsets that go with it."""

    def rewrite(path):
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        values = json.loads(content[8 : 8 + size])
        values[key]["shape"] = shape
        total = {"F16": 2, "F32": 4}.get(values[key]["dtype"], 8) * math.prod(shape)
        offsets = values[key]["data_offsets"]
        offsets[1] = offsets[0] + total
        text = json.dumps(values).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])

    return lambda folder: change_file(folder, f"{name}.safetensors", rewrite)


def table(name, change):
    """Change the columns of a table in place."""

    def rewrite(path):
        values = json.loads(path.read_bytes())
        change(values)
        path.write_text(json.dumps(values))

    return lambda folder: change_file(folder, f"{name}.json", rewrite)


def content(name, data):
    return lambda folder: change_file(folder, name, lambda path: path.write_bytes(data))


def manifest(*path, to):
    """Set a value in `model.json`."""

    def change(values):
        for name in path[:-1]:
            values = values[name]
        values[path[-1]] = to

    return lambda folder: change_manifest(folder, change)


def config(*path, to):
    return manifest("builder", "config", *path, to=to)


def in_place_of(name, make):
    """Put something that is no regular file in the place of one."""

    def change(folder):
        path = folder / name if name == "model.json" else files_of(folder) / name
        target = path.rename(folder / f"moved-{name}")
        make(path, target)

    return change


def sparse(folder):
    path = files_of(folder) / "features.safetensors"
    os.truncate(path, 1 << 42)
    entry = {"size": 1 << 42, "sha256": "0" * 64}
    change_manifest(folder, lambda values: values["files"].update({path.name: entry}))


DEEP = "[" * 100_000
HOSTILE = {
    # model.json
    "deep manifest": lambda folder: (folder / "model.json").write_text(DEEP),
    "deep value": lambda folder: (folder / "model.json").write_text('{"format": ' + DEEP),
    "a list": lambda folder: (folder / "model.json").write_text("[]"),
    "huge manifest": lambda folder: os.truncate(folder / "model.json", 1 << 40),
    "no files": manifest("files", to={}),
    "more files": manifest("files", "/etc/passwd", to={"size": 1, "sha256": ""}),
    "files of elsewhere": manifest("folder", to="../model"),
    "files of the folder": manifest("folder", to="."),
    "absolute files": manifest("folder", to="/tmp"),
    "odd name": manifest("folder", to="model-\x1b[2J"),
    "NUL": manifest("folder", to="model-\x00"),
    "negative size": manifest("files", "model.safetensors", "size", to=-1),
    "unknown field": manifest("pickle", to="x"),
    "no builder": manifest("builder", to=None),
    "no runs": manifest("runs", to=0),
    "other runs": manifest("runs", to=999),
    "many runs": manifest("runs", to=10**12),
    "no weights": manifest("class_weights", to=[0, 0]),
    "weights not a number": manifest("class_weights", to=["NaN", 1]),
    "no metrics": manifest("evaluation", "metrics", to={}),
    "odd verdict": manifest("evaluation", "verdict", to={"model": "x", "sentence": "Use it."}),
    "short curve": manifest("evaluation", "curve", to=[[], []]),
    "mean not a number": manifest("builder", "constants", "mean", to="NaN"),
    "mean too long": manifest("builder", "constants", "mean", to=10**400),
    "infinite prior": manifest("builder", "constants", "item_prior", to="Infinity"),
    "negative penalty": manifest("builder", "penalties", to=[-1, -1]),
    "no reviews known": manifest("builder", "known_reviews", to=0),
    "more factors": manifest("builder", "factor_count", to=10**12),
    "fewer factors": manifest("builder", "factor_count", to=3),
    "no effects": manifest("builder", "unknown_effects", to={}),
    "odd effects": manifest("builder", "unknown_effects", "user", to={"x": 1.0}),
    "fewer words": manifest("builder", "vocabulary", to=[]),
    "more words": manifest("builder", "vocabulary", to=["x"] * 100_000),
    "numbers as words": manifest("builder", "vocabulary", to=[1, 2]),
    "photos that are not there": manifest("builder", "image", to="x"),
    "mixed effects": manifest("builder", "mixed_effects", to={"-1": {}}),
    "many categories": config("annotation", "max_categories", to=10**12),
    "another model": config("ranker", "features", to="baseline"),
    "wide ranker": config("ranker", "hidden_size", to=10**12),
    "wide vectors": config("ranker", "embedding_size", to=10**9),
    "rating not a number": config("like_rating", to="NaN"),
    "key to a server": config("language", "llm", to="openai:gpt@http://evil.example/v1"),
    "key to an upper-case server": config("language", "llm", to="openai:gpt@HTTP://evil.example/v1"),
    "key to a URL": config("language", "llm", to="https://evil.example/v1"),
    "local server": config("language", "llm", to="ollama:x@http://evil.example/v1"),
    "model of a folder": config("language", "llm", to="transformers:/tmp/evil"),
    "captions by a server": config("vision", "captioner", to="openai:gpt@http://evil.example/v1"),
    "captions by a folder": config("vision", "captioner", to="blip:/tmp/evil"),
    "images by a folder": config("vision", "image_model", to="/tmp/evil"),
    "encoder of a folder": config("encoder", "encoder_model", to="/tmp/evil"),
    "encoder beside": config("encoder", "encoder_model", to="./all-MiniLM-L6-v2"),
    "encoder of the hub": config("encoder", "encoder_model", to="evil/encoder"),
    # Files that are none.
    **{f"{name} is a link": in_place_of(name, Path.symlink_to) for name in ALL_FILES},
    **{f"{name} is a pipe": in_place_of(name, lambda path, _: os.mkfifo(path)) for name in ALL_FILES},
    "a folder": in_place_of("model.safetensors", lambda path, _: path.mkdir()),
    "a device": in_place_of("reviews.json", lambda path, _: path.symlink_to("/dev/zero")),
    "itself": in_place_of("notes.json", lambda path, _: path.symlink_to(path)),
    "linked files": lambda folder: files_of(folder).rename(folder / "x").parent.joinpath(
        json.loads((folder / "model.json").read_bytes())["folder"]
    ).symlink_to(folder / "x"),
    "sparse": sparse,
    # safetensors
    **{f"empty {name}": content(f"{name}.safetensors", b"") for name in TENSORS},
    **{f"pickle as {name}": content(f"{name}.safetensors", b"\x80\x04cos\nsystem\n.") for name in TENSORS},
    **{f"no arrays in {name}": header(name, "{}") for name in TENSORS},
    **{f"deep header of {name}": header(name, '{"a":' * 100_000) for name in TENSORS},
    **{f"huge header of {name}": content(f"{name}.safetensors", b"\xff" * 8 + b"{}") for name in TENSORS},
    "huge shape": huge("features", "user/dense", [1 << 40, 4]),
    "overflowing shape": huge("features", "user/dense", [1 << 62, 1 << 62]),
    "huge weights": huge("model", "bottom.0.weight", [1 << 40, 1, 1]),
    "no columns": huge("features", "user/vectors/gist", [1 << 60, 0]),
    "users missing": arrays("features", "user/dense", lambda values: values[:-1]),
    "columns missing": arrays("features", "item/dense", lambda values: values[:, :-1]),
    "no dense": arrays("features", "item/dense", None),
    "dense not a number": arrays("features", "item/dense", cell(np.nan)),
    "dense in double": arrays("features", "item/dense", lambda values: values.astype(np.float64)),
    "integers as vectors": arrays("features", "item/vectors/gist", lambda values: values.astype(np.int64)),
    "infinite vector": arrays("features", "item/vectors/gist", cell(np.inf)),
    "short vectors": arrays("features", "item/vectors/gist", lambda values: values[:, :100]),
    "presence of two": arrays("features", "user/present/gist", cell(2)),
    "negative category": arrays("features", "item/categories", cell(-1)),
    "huge category": arrays("features", "item/categories", cell(2**40)),
    "negative count": arrays("features", "user sums/rating_count", cell(-5)),
    "sum not a number": arrays("features", "item sums/rating_sum", cell(np.nan)),
    "votes of three": arrays("features", "item sums/price", lambda values: values[:, :3]),
    "axes not a number": arrays("features", "text regression/topic_axes", cell(np.nan)),
    "flat factors": arrays("features", "user/factors", lambda values: values.ravel()),
    "weight not a number": arrays("model", "linear.weight", cell(np.nan)),
    "infinite weight": arrays("model", "top.0.weight", cell(np.inf)),
    "scale not a number": arrays("model", "standardiser.dense_scale", cell(np.nan)),
    "limit not a number": arrays("model", "standardiser.dense_low", cell(np.nan)),
    "half weights": arrays("model", "linear.weight", lambda values: values.astype(np.float16)),
    "no bias": arrays("model", "linear.bias", None),
    "index too large": arrays("retrieval", "walks/indices", cell(2**31 - 1)),
    "negative index": arrays("retrieval", "walks/indices", cell(-1)),
    "huge pointer": arrays("retrieval", "co-visits/indptr", lambda values: np.full_like(values, 2**30)),
    "falling pointer": arrays("retrieval", "co-visits/indptr", lambda values: values[::-1]),
    "pairs not a number": arrays("retrieval", "co-likes/data", lambda values: values * np.float32(np.nan)),
    "few weights": arrays("retrieval", "weights", lambda values: values[:3]),
    "negative visits": arrays("retrieval", "visit_count", lambda values: -1 - values),
    "more likes": arrays("retrieval", "like_count", cell(1e8)),
    "topics of fewer": arrays("retrieval", "user topics", lambda values: values[:-1]),
    "fewer topics": arrays("retrieval", "user topics", lambda values: values[:, :-1]),
    "no axes": arrays("retrieval", "text axes", None),
    # Tables
    **{f"deep {name}": content(f"{name}.json", DEEP.encode()) for name in TABLES},
    **{f"deep column of {name}": content(f"{name}.json", b'{"item": ' + DEEP.encode()) for name in TABLES},
    **{f"no {name}": content(f"{name}.json", b"{}") for name in TABLES},
    **{f"{name} as a list": content(f"{name}.json", b"[]") for name in TABLES},
    **{f"{name} not UTF-8": content(f"{name}.json", b'{"item": ["\xff"]}') for name in TABLES},
    "empty reviews": table("reviews", lambda values: [column.clear() for column in values.values()]),
    "no ratings": table("reviews", lambda values: values.pop("rating")),
    "more columns": table("reviews", lambda values: values.update(x=[])),
    "fewer ratings": table("reviews", lambda values: values["rating"].pop()),
    "fewer reviews": table("reviews", lambda values: [column.pop() for column in values.values()]),
    "another user": table("reviews", lambda values: values["user"].__setitem__(0, "new")),
    "words as ratings": table("reviews", lambda values: values["rating"].__setitem__(0, "five")),
    "rating that is none": table("reviews", lambda values: values["rating"].__setitem__(0, None)),
    "rating without end": table("reviews", lambda values: values["rating"].__setitem__(0, 1e300)),
    "number as an id": table("reviews", lambda values: values["user"].__setitem__(0, 7)),
    "lists as texts": table("reviews", lambda values: values["text"].__setitem__(0, ["x"])),
    "huge time": table("reviews", lambda values: values["time"].__setitem__(0, 2**62)),
    "long time": table("reviews", lambda values: values["time"].__setitem__(0, 10**3000)),
    "numbers as photos": table("reviews", lambda values: values["photos"].__setitem__(0, [1])),
    "lone surrogate": table("reviews", lambda values: values["text"].__setitem__(0, "\ud800")),
    "a million errors": table("reviews", lambda values: values.update(user=[1] * 10**6)),
    "number as a name": table("items", lambda values: values["name"].__setitem__(0, 1)),
    "fewer notes": table("notes", lambda values: values["notes"].pop()),
    "odd price": table("notes", lambda values: values["notes"][0].update(price="free")),
    "more in a note": table("notes", lambda values: values["notes"][0].update(x=1)),
}  # fmt: skip


@pytest.fixture
def alarm():
    """Nothing may hang."""

    def end(*_):
        raise AssertionError("it hangs")

    old = signal.signal(signal.SIGALRM, end)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("name", [*HOSTILE])
def test_a_hostile_folder_is_refused_in_one_sentence(folder, name, alarm):
    load_recommender(folder)
    HOSTILE[name](folder)
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        load_recommender(folder)
    assert time.monotonic() - start < 5
    message = str(caught.value).replace(str(folder), "")
    assert 20 < len(message) < 500
    assert message.isprintable()


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_random_changes_is_refused_or_works(folder, name, alarm):
    rng, path = random.Random(name), files_of(folder) / name
    content = path.read_bytes()
    outcomes = set()
    for _ in range(12):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 30])):
            # Half of them where the header is.
            end = rng.choice([len(changed), min(len(changed), 4000)])
            changed[rng.randrange(end)] = rng.randrange(256)
        change_file(folder, name, lambda path, changed=changed: path.write_bytes(changed))
        try:
            recommender = Recommender.load(folder)
            recommender.recommend(recommender.state.online.ids["user"][0], 3)
            outcomes.add("works")
        except MmrecError:
            outcomes.add("refused")
    assert "refused" in outcomes


# What a folder may decide.


def test_a_folder_chooses_no_store_no_limits_and_no_cluster(folder, tmp_path):
    store = tmp_path / "evil.sqlite"
    config("store", to=str(store))(folder)
    config("read", "max_pixels", to=10**12)(folder)
    config("engine", to={"engine": "ray", "address": "evil.example:6379"})(folder)
    recommender = Recommender.load(folder)
    assert recommender.config.store is None
    assert recommender.config.read.max_pixels == 40_000_000
    assert recommender.config.engine.engine == "local"
    recommender.recommend(likes="ramen")
    assert not store.exists()
    trusted = Recommender.load(folder, trust=True)
    assert (trusted.config.store, trusted.config.read.max_pixels) == (store, 10**12)
    assert trusted.config.engine.engine == "local"
    # The store of another machine is not used.
    config("store", to=str(tmp_path / "elsewhere/store.sqlite"))(folder)
    assert Recommender.load(folder, trust=True).config.store is None


def test_models_on_servers_and_in_folders_need_consent(folder):
    config("language", "llm", to="openai:gpt@http://127.0.0.1:9/v1")(folder)
    with pytest.raises(
        ModelError, match=r"'openai:gpt@http://127.0.0.1:9/v1' \(language.llm\); if you trust.*--trust"
    ):
        Recommender.load(folder)
    assert Recommender.load(folder, trust=True).config.language.llm.endswith(":9/v1")
    for name in ("openai:gpt-4o-mini", "ollama:llama3.2:3b", "builtin"):  # the user's own key and server
        config("language", "llm", to=name)(folder)
        assert Recommender.load(folder).config.language.llm == name


def test_photos_outside_of_the_folder_are_not_shown(folder, tmp_path):
    inside, outside = folder / "a.jpg", tmp_path / "b.jpg"
    for path in (inside, outside):
        path.touch()
    (folder / "link.jpg").symlink_to(outside)
    os.mkfifo(folder / "pipe.jpg")
    odd = ["x" * 5000, "\x00", "/dev/zero", str(folder / "../b.jpg")]
    photos = [str(inside), str(outside), str(folder / "link.jpg"), str(folder / "pipe.jpg"), *odd]
    table("items", lambda values: values["photos"].__setitem__(0, photos))(folder)
    assert Recommender.load(folder).saved.reviews.items["photos"][0].to_list() == [str(inside.resolve())]
    assert Recommender.load(folder, trust=True).saved.reviews.items["photos"][0].to_list() == photos


def test_a_database_that_is_a_link_is_refused(folder, tmp_path):
    pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
    from mmrec.config import ServeConfig
    from mmrec.service.app import open_live_store

    (folder / "live.sqlite").symlink_to(tmp_path / "created")
    with pytest.raises(ModelError, match=r"live.sqlite: .*a link"):
        open_live_store(folder, ServeConfig())
    assert not (tmp_path / "created").exists()


def test_a_card_that_is_a_pipe_is_left_alone(fitted, folder, alarm):
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    fitted.save(folder)
    assert (folder / "README.md").is_fifo()
    replace_file(folder / "notes.txt", "ä")
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "ä"
