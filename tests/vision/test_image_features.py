"""Photos through the store: each file looked at once, broken ones told, means that keep to the evidence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from conftest import interactions, tables
from mmrec.cache.store import Failure, Store
from mmrec.config import VisionConfig
from mmrec.data.schema import NO_TIME, Interactions
from mmrec.data.split import Split
from mmrec.encoder.weights import Placement
from mmrec.evidence.policies import Evidence, Policy
from mmrec.features.photos import PhotoVectors
from mmrec.llm.types import Answer
from mmrec.vision.image_features import PhotoAnnotator
from mmrec.vision.resnet import ImageEncoder
from tiny_models import tiny_resnet_folder

SLOW = """
import sys, time
from pathlib import Path
from mmrec.llm.types import Answer
from mmrec.vision.image_features import Pictures
from mmrec.cache.store import Store

class Slow:
    chunk = 2
    maker = {"kind": "caption", "model": "stub"}
    status = str
    def captions(self, photos):
        for block in photos:
            for at, photo in block:
                yield at, Answer(text=f"{photo.size}")
            print("block", flush=True)
            time.sleep(float(sys.argv[2]))

folder = Path(sys.argv[1])
paths = [str(path) for path in sorted(folder.glob("*.png"))]
Pictures(Store(folder / "store.sqlite"), 10**6).captions(paths, Slow())
"""


class Stub:
    """Says the size of a photo; notes what it was asked for."""

    chunk = 3
    provenance = {"kind": "caption", "model": "stub"}  # noqa: RUF012

    def __init__(self, poor: tuple[int, int] | None = None) -> None:
        self.asked: list[list[tuple[int, int]]] = []
        self.poor = poor

    def caption(
        self, photos: Iterator[list[tuple[int, Image.Image]]]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        for block in photos:
            self.asked.append([photo.size for _, photo in block])
            assert {photo.mode for _, photo in block} == {"RGB"}
            for at, photo in block:
                if photo.size == self.poor:
                    yield at, Failure("caption loops: a a a a (twice)")
                else:
                    yield at, Answer(text=f"{photo.width} by {photo.height}")

    def status(self) -> str:
        return ""


def draw(path: Path, width: int, mode: str = "RGB", height: int = 20) -> str:
    Image.new(mode, (width, height)).save(path)
    return str(path)


def test_each_file_is_looked_at_once_ever(store: Store, tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{width}.png", width) for width in range(10, 17)]
    twin = draw(tmp_path / "twin.png", 12)
    stub = Stub()
    captions = PhotoAnnotator(store, 10**6).caption_photos([*paths, twin, paths[0]], stub)
    assert captions.texts == {path: f"{10 + at} by 20" for at, path in enumerate(paths)} | {twin: "12 by 20"}
    assert not captions.failures
    assert str(captions) == ""
    assert list(map(len, stub.asked)) == [3, 3, 1]
    again = Stub()
    assert PhotoAnnotator(store, 10**6).caption_photos([*paths, twin], again) == captions
    assert not again.asked
    assert PhotoAnnotator(store, 10**6).caption_photos([], again).texts == {}


def test_photos_without_a_caption_are_counted_with_the_reason(store: Store, tmp_path: Path) -> None:
    good = [draw(tmp_path / f"{width}.png", width) for width in (10, 11, 12)]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    huge = draw(tmp_path / "huge.png", 1000, height=1001)
    gone = str(tmp_path / "gone.png")
    paths = [str(broken), gone, *good, huge]
    captions = PhotoAnnotator(store, 10**6).caption_photos(paths, Stub(poor=(11, 20)))
    assert captions.texts == dict.fromkeys(paths, "") | {good[0]: "10 by 20", good[2]: "12 by 20"}
    assert captions.failures == {"photo cannot be read": 3, "caption loops": 1}
    assert str(captions) == ("4 of 6 photos have no caption: photo cannot be read (3), caption loops (1)")
    # What the model failed at is not asked again; what could not be read is, since that may be mended.
    draw(broken.with_suffix(".png"), 30)
    broken.with_suffix(".png").replace(broken)
    draw(tmp_path / "gone.png", 31)
    again = Stub()
    captions = PhotoAnnotator(store, 10**7).caption_photos(paths, again)
    assert again.asked == [[(30, 20), (31, 20), (1000, 1001)]]
    assert captions.failures == {"caption loops": 1}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK", "GIF"])
def test_every_kind_of_photo_comes_as_rgb(store: Store, tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.gif" if mode == "GIF" else "a.jpg" if mode == "CMYK" else "a.png")
    draw(path, 21, "P" if mode == "GIF" else mode)
    assert PhotoAnnotator(store, 10**6).caption_photos([str(path)], Stub()).texts == {str(path): "21 by 20"}


def test_large_photos_are_made_small_before_they_wait_for_the_model(store: Store, tmp_path: Path) -> None:
    paths = [draw(tmp_path / "a.png", 4096, height=2048), draw(tmp_path / "b.png", 5000, height=1)]
    text = PhotoAnnotator(store, 10**8).caption_photos(paths, Stub()).texts
    assert list(text.values()) == ["1024 by 512", "1024 by 1"]


def test_a_killed_run_keeps_its_captions(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{width}.png", width) for width in range(10, 20)]
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path), "30"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "block\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    stub = Stub()
    store = Store(tmp_path / "store.sqlite")
    text = PhotoAnnotator(store, 10**6).caption_photos(paths, stub).texts
    assert sorted(size[0] for block in stub.asked for size in block) == list(range(12, 20))
    assert text[paths[3]] == "13 by 20"
    store.close()


def test_vectors_go_through_the_store_too(store: Store, tmp_path: Path, one_thread: None) -> None:
    folder = tiny_resnet_folder(tmp_path / "resnet")
    features = ImageEncoder(VisionConfig(image_model=str(folder)), Placement("cpu", "fp32"))
    paths = [draw(tmp_path / f"{width}.png", width) for width in (30, 40)]
    vectors = PhotoAnnotator(store, 10**6).encode_photos(
        [*paths, paths[0], str(tmp_path / "gone.png")], features
    )
    assert list(vectors) == paths
    assert {vector.shape for vector in vectors.values()} == {(features.width,)}
    assert {vector.dtype for vector in vectors.values()} == {np.dtype(np.float16)}
    assert store.counts() == {"image vector": 2}
    again = ImageEncoder(VisionConfig(image_model=str(folder)), Placement("cpu", "fp32"))
    again.encode = None  # type: ignore[method-assign, assignment]
    for path, vector in PhotoAnnotator(store, 10**6).encode_photos(paths, again).items():
        assert np.array_equal(vector, vectors[path])


def dealt(size: int, rng: np.random.Generator) -> Split:
    part = rng.integers(3, size=size)
    return Split(*(np.flatnonzero(part == at) for at in range(3)))


@given(tables(), st.sampled_from(["fold", "leave_one_out", "all", "past"]), st.integers(0, 2**32 - 1))
def test_means_hear_the_photos_of_the_evidence_and_the_items_own(
    data: Interactions, policy: Policy, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    names = [f"p{at}" for at in range(8)]
    vectors = {name: rng.normal(size=150).astype(np.float16) for name in names[:6]}

    def groups(count: int) -> list[list[str]]:
        return [list(rng.choice(names, rng.integers(0, 4))) for _ in range(count)]

    assume(policy != "past" or (data.time != NO_TIME).any())
    reviews, items = groups(len(data)), groups(len(data.items))
    side = Evidence.derive(data, dealt(len(data), rng), policy, 3, rng).item
    mean, count = PhotoVectors.build(reviews, items, vectors, 150).view_means(side)
    for view, rows in enumerate(side.review_sets()):
        shown = [name for row in rows for name in reviews[row]] + items[side.entity[view]]
        known = [vectors[name].astype(np.float64) for name in shown if name in vectors]
        assert count[view] == len(known)
        assert np.abs(mean[view] - sum(known, np.zeros(150)) / max(len(known), 1)).max() < 2e-3


def test_no_vector_at_all_is_a_block_of_zeros(store: Store) -> None:
    data = interactions([0, 1], [0, 0])
    rng = np.random.default_rng(0)
    side = Evidence.derive(data, dealt(2, rng), "all", 3, rng).item
    mean, count = PhotoVectors.build([["a"], []], [[]], {}, 5).view_means(side)
    assert mean.shape == (len(side), 5)
    assert not count.any()
    assert not mean.any()
