"""Photos through the store: each file is seen by a model once; and vectors by ResNet."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmrec.cache.store import Failure, Store
from mmrec.config import VisionConfig
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from mmrec.llm.types import Answer
from mmrec.vision.image_features import ImageEncoder, PhotoAnnotator
from tiny_models import results_in_blocks, tiny_chat_folder, tiny_resnet_folder

FP32 = Placement("cpu", "fp32")


class SizeCaptioner:
    """Captions a photo by its size, and records the sizes of each block."""

    chunk_size = 3
    provenance = {"kind": "caption", "model": "stub"}  # noqa: RUF012

    def __init__(self, faulty=None):
        self.blocks = []
        self.faulty = faulty

    def compute(self, photos):
        for block in photos:
            self.blocks.append([photo.size for _, photo in block])
            assert {photo.mode for _, photo in block} == {"RGB"}
            for number, photo in block:
                if photo.size == self.faulty:
                    yield number, Failure("caption loops: a a a a (twice)")
                else:
                    yield number, Answer(text=f"{photo.width} by {photo.height}")

    def status(self):
        return ""


def draw(path, width, mode="RGB", height=20):
    Image.new(mode, (width, height)).save(path)
    return str(path)


def test_each_file_is_captioned_once_ever(store, tmp_path):
    paths = [draw(tmp_path / f"{width}.png", width) for width in range(10, 17)]
    twin = draw(tmp_path / "twin.png", 12)
    captioner, annotator = SizeCaptioner(), PhotoAnnotator(store, 10**6)
    assert annotator.count_uncaptioned([*paths, twin], captioner) == 7
    captions = annotator.caption_photos([*paths, twin, paths[0]], captioner)
    expected = {path: f"{width} by 20" for width, path in enumerate(paths, 10)} | {twin: "12 by 20"}
    assert captions.texts == expected
    assert not captions.failures
    assert str(captions) == ""
    assert [len(block) for block in captioner.blocks] == [3, 3, 1]
    again = SizeCaptioner()
    assert PhotoAnnotator(store, 10**6).caption_photos([*paths, twin], again) == captions
    assert not again.blocks
    assert PhotoAnnotator(store, 10**6).caption_photos([], again).texts == {}


def test_photos_without_a_caption_are_counted_with_the_reason(store, tmp_path):
    good = [draw(tmp_path / f"{width}.png", width) for width in (10, 11, 12)]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    huge = draw(tmp_path / "huge.png", 1000, height=1001)
    gone = str(tmp_path / "gone.png")
    paths = [str(broken), gone, *good, huge]
    captions = PhotoAnnotator(store, 10**6).caption_photos(paths, SizeCaptioner(faulty=(11, 20)))
    assert captions.texts == dict.fromkeys(paths, "") | {good[0]: "10 by 20", good[2]: "12 by 20"}
    assert captions.failures == {"photo cannot be read": 3, "caption loops": 1}
    assert str(captions) == "4 of 6 photos have no caption: photo cannot be read (3), caption loops (1)"
    # A faulty caption is final; a file that could not be read is tried again, since it may have changed.
    draw(broken.with_suffix(".png"), 30)
    broken.with_suffix(".png").replace(broken)
    draw(tmp_path / "gone.png", 31)
    again = SizeCaptioner()
    captions = PhotoAnnotator(store, 10**7).caption_photos(paths, again)
    assert again.blocks == [[(30, 20), (31, 20), (1000, 1001)]]
    assert captions.failures == {"caption loops": 1}


def test_a_whole_block_of_broken_photos_is_no_block(store, tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(7)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(b"no photo %d" % number)
    draw(tmp_path / "6.png", 9)
    captioner = SizeCaptioner()
    captions = PhotoAnnotator(store, 10**6).caption_photos(paths, captioner)
    assert captioner.blocks == [[(9, 20)]]
    assert captions.failures == {"photo cannot be read": 6}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK", "GIF"])
def test_photos_of_every_mode_come_as_rgb(store, tmp_path, mode):
    path = tmp_path / ("a.gif" if mode == "GIF" else "a.jpg" if mode == "CMYK" else "a.png")
    draw(path, 21, "P" if mode == "GIF" else mode)
    captions = PhotoAnnotator(store, 10**6).caption_photos([str(path)], SizeCaptioner())
    assert captions.texts == {str(path): "21 by 20"}


def test_large_photos_are_made_small_before_they_wait_for_the_model(store, tmp_path):
    paths = [draw(tmp_path / "a.png", 4096, height=2048), draw(tmp_path / "b.png", 5000, height=1)]
    texts = PhotoAnnotator(store, 10**8).caption_photos(paths, SizeCaptioner()).texts
    assert [texts[path] for path in paths] == ["1024 by 512", "1024 by 1"]


KILLED_RUN = """
import sys, time
from pathlib import Path
from mmrec.cache.store import Store
from mmrec.llm.types import Answer
from mmrec.vision.image_features import PhotoAnnotator

class SlowCaptioner:
    chunk_size = 2
    provenance = {"kind": "caption", "model": "stub"}
    status = str

    def compute(self, photos):
        for block in photos:
            if len(block) and block[0][1].width == 14:
                print("two blocks are done", flush=True)
                time.sleep(60)
            for number, photo in block:
                yield number, Answer(text="before the kill")

folder = Path(sys.argv[1])
paths = [str(path) for path in sorted(folder.glob("*.png"))]
PhotoAnnotator(Store(folder / "store.sqlite"), 10**6).caption_photos(paths, SlowCaptioner())
"""


def test_a_killed_run_keeps_its_captions(tmp_path):
    paths = [draw(tmp_path / f"{width}.png", width) for width in range(10, 20)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "two blocks are done\n"
        child.send_signal(signal.SIGKILL)
    captioner = SizeCaptioner()
    store = Store(tmp_path / "store.sqlite")
    texts = PhotoAnnotator(store, 10**6).caption_photos(paths, captioner).texts
    store.close()
    assert [texts[path] for path in paths[:5]] == ["before the kill"] * 4 + ["14 by 20"]
    assert sorted(size[0] for block in captioner.blocks for size in block) == list(range(14, 20))


@pytest.fixture(scope="module", params=["tiny resnet", VisionConfig().image_model])
def image_model(request, tmp_path_factory):
    if request.param == "tiny resnet":
        return str(tiny_resnet_folder(tmp_path_factory.mktemp("models") / "tiny-resnet"))
    if Weights.find(request.param) is None:
        pytest.skip(f"the weights of {request.param} are not here")
    return request.param


def encode(encoder, photos, size):
    return np.stack(results_in_blocks(encoder, photos, size)).astype(np.float32)


def test_vectors_go_through_the_store_too(store, tmp_path, image_model):
    encoder = ImageEncoder(image_model, placement=FP32)
    paths = [draw(tmp_path / f"{width}.png", width) for width in (30, 40)]
    twice = [*paths, paths[0], str(tmp_path / "gone.png")]
    vectors = PhotoAnnotator(store, 10**6).encode_photos(twice, encoder)
    assert list(vectors) == paths
    expected = (encoder.width,), np.dtype(np.float16)
    assert {(vector.shape, vector.dtype) for vector in vectors.values()} == {expected}
    assert store.counts() == {"image vector": 2}
    again = ImageEncoder(image_model, placement=FP32)
    again._forward = None
    for path, vector in PhotoAnnotator(store, 10**6).encode_photos(paths, again).items():
        assert np.array_equal(vector, vectors[path])


def test_vectors_are_the_pooled_layer_in_any_batch(image_model, photos):
    from transformers import ResNetModel
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    encoder = ImageEncoder(image_model, placement=FP32)
    together = encode(encoder, photos, 7)
    assert together.shape == (7, encoder.width)
    assert np.abs(encode(encoder, photos, 1) - together).max() < 2e-3
    folder = Weights.find_or_download(image_model).folder
    model = ResNetModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = ConvNextImageProcessorPil.from_pretrained(folder)(images=photos, return_tensors="pt")
    with torch.no_grad():
        states = model(pixel_values=pixels["pixel_values"]).last_hidden_state
    assert np.abs(states.mean(dim=(2, 3)).numpy() - together).max() < 2e-3
    fast = encode(ImageEncoder(image_model, placement=Placement("cpu", "bf16")), photos, 7)
    lengths = np.linalg.norm(together, axis=1) * np.linalg.norm(fast, axis=1)
    assert ((together * fast).sum(axis=1) / lengths).min() > 0.999


def test_an_image_model_that_is_missing_or_of_another_type_is_an_error(tmp_path):
    encoder = ImageEncoder(str(tmp_path / "absent"))
    assert encoder.available()  # since the user named it
    with pytest.raises(ModelError, match=r"no model in .*absent"):
        _ = encoder.provenance
    with pytest.raises(ModelError, match="is a model of type llama; resnet is needed"):
        _ = ImageEncoder(str(tiny_chat_folder(tmp_path / "chat")))._model


def test_a_vector_that_is_not_finite_is_a_failure(image_model, photos, monkeypatch):
    encoder = ImageEncoder(image_model, placement=FP32)
    monkeypatch.setattr(encoder, "_forward", lambda photos: np.full((len(photos), 4), 1e9))
    with np.errstate(over="ignore"):
        assert results_in_blocks(encoder, photos[:1], 1) == [Failure("vector is not finite")]
