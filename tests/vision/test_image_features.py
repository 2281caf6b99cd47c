"""Photos through the store: each file is seen by a model once; and vectors by ResNet."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.config import VisionConfig
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from mmrec.llm.types import Answer
from mmrec.vision.captioner import Captioner
from mmrec.vision.image_features import Captions, ImageEncoder, PhotoAnnotator
from tiny_models import results_in_blocks, tiny_resnet_folder

FP32 = Placement("cpu", "fp32")


class SizeCaptioner(Captioner):
    """Captions a photo by its size, and records the sizes of each block."""

    chunk_size = 3
    provenance = {"kind": "caption", "model": "stub"}  # noqa: RUF012

    def __init__(self, faulty=None):
        self.blocks, self.faulty = [], faulty

    def compute(self, photos):
        for block in photos:
            self.blocks.append([photo.size for _, photo in block])
            assert {photo.mode for _, photo in block} == {"RGB"}
            for number, photo in block:
                caption = Answer(text=f"{photo.width} by {photo.height}")
                yield number, Failure("caption loops: a (twice)") if photo.size == self.faulty else caption


@pytest.fixture
def draw(tmp_path):
    """A function that writes a black photo, and returns its path."""

    def draw(width, height=20, name=None, mode="RGB"):
        path = tmp_path / (name or f"{width}.png")
        Image.new(mode, (width, height)).save(path)
        return str(path)

    return draw


def test_each_file_is_captioned_once_ever(store, draw):
    paths, twin = [draw(width) for width in range(10, 17)], draw(12, name="twin.png")
    captioner, annotator = SizeCaptioner(), PhotoAnnotator(store, 10**6)
    assert annotator.count_uncaptioned([*paths, twin], captioner) == 7
    captions = annotator.caption_photos([*paths, twin, paths[0]], captioner)
    expected = {path: f"{width} by 20" for width, path in enumerate(paths, 10)} | {twin: "12 by 20"}
    assert captions == Captions(expected, Counter())
    assert str(captions) == ""
    assert [len(block) for block in captioner.blocks] == [3, 3, 1]
    again = SizeCaptioner()
    assert PhotoAnnotator(store, 10**6).caption_photos([*paths, twin], again) == captions
    assert not again.blocks
    assert PhotoAnnotator(store, 10**6).caption_photos([], again).texts == {}


def test_photos_without_a_caption_are_counted_with_the_reason(store, tmp_path, draw):
    good, huge = [draw(width) for width in (10, 11, 12)], draw(1000, 1001)
    broken, worse, gone = (str(tmp_path / f"{name}.png") for name in ("broken", "worse", "gone"))
    for path in (broken, worse):
        Path(path).write_text(f"no photo in {path}")
    paths, captioner = [broken, worse, huge, gone, *good], SizeCaptioner(faulty=(11, 20))
    captions = PhotoAnnotator(store, 10**6).caption_photos(paths, captioner)
    assert captioner.blocks == [[(10, 20), (11, 20), (12, 20)]]  # none of the three that cannot be read
    assert captions.texts == dict.fromkeys(paths, "") | {good[0]: "10 by 20", good[2]: "12 by 20"}
    assert captions.failures == {"photo cannot be read": 4, "caption loops": 1}
    assert str(captions) == "5 of 7 photos have no caption: photo cannot be read (4), caption loops (1)"
    # A faulty caption is final; a file that could not be read is tried again, since it may have changed.
    draw(30, name="broken.png")
    draw(31, name="gone.png")
    again = SizeCaptioner()
    captions = PhotoAnnotator(store, 10**7).caption_photos(paths, again)
    assert again.blocks == [[(30, 20), (1000, 1001)], [(31, 20)]]
    assert captions.failures == {"photo cannot be read": 1, "caption loops": 1}


def test_photos_of_every_mode_come_as_rgb_and_small_ones(store, draw):
    modes = {"1.png": "1", "l.png": "L", "la.png": "LA", "rgba.png": "RGBA", "p.png": "P", "p.gif": "P"}
    expected = {draw(21, name=name, mode=mode): "21 by 20" for name, mode in modes.items()}
    expected |= {draw(21, name="cmyk.jpg", mode="CMYK"): "21 by 20"}
    expected |= {draw(4096, 2048): "1024 by 512", draw(5000, 1): "1024 by 1"}
    assert PhotoAnnotator(store, 10**8).caption_photos(expected, SizeCaptioner()).texts == expected


@pytest.fixture(scope="module", params=["tiny resnet", VisionConfig().image_model])
def image_model(request, tmp_path_factory):
    if request.param == "tiny resnet":
        return str(tiny_resnet_folder(tmp_path_factory.mktemp("models") / "tiny-resnet"))
    if Weights.find(request.param) is None:
        pytest.skip(f"the weights of {request.param} are not here")
    return request.param


def encode(encoder, photos, size):
    return np.stack(results_in_blocks(encoder, photos, size)).astype(np.float32)


def test_vectors_go_through_the_store_too(store, draw, image_model):
    encoder, paths = ImageEncoder(image_model, placement=FP32), [draw(30), draw(40)]
    vectors = PhotoAnnotator(store, 10**6).encode_photos([*paths, paths[0], "gone.png"], encoder)
    assert list(vectors) == paths
    assert store.counts() == {"image vector": 2}
    again = ImageEncoder(image_model, placement=FP32)
    again._forward = None
    for path, vector in PhotoAnnotator(store, 10**6).encode_photos(paths, again).items():
        assert (vector.shape, vector.dtype) == ((encoder.width,), np.float16)
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


def test_an_image_model_that_is_missing_or_of_another_type_is_an_error(tmp_path, chat_folder):
    encoder = ImageEncoder(str(tmp_path / "absent"))
    assert encoder.available()  # since the user named it
    with pytest.raises(ModelError, match=r"no model in .*absent"):
        _ = encoder.provenance
    with pytest.raises(ModelError, match="is a model of type llama; resnet is needed"):
        _ = ImageEncoder(str(chat_folder))._model


def test_a_vector_that_is_not_finite_is_a_failure(image_model, photos, monkeypatch):
    encoder = ImageEncoder(image_model, placement=FP32)
    monkeypatch.setattr(encoder, "_forward", lambda photos: np.full((len(photos), 4), 1e9))
    with np.errstate(over="ignore"):
        assert results_in_blocks(encoder, photos[:1], 1) == [Failure("vector is not finite")]
