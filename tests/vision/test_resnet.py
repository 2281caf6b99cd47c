"""Image vectors by ResNet: the real code on a tiny random model, and on real weights where those are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.config import VisionConfig
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from tiny_models import tiny_chat_folder, tiny_resnet_folder

torch = pytest.importorskip("torch")

from mmrec.vision.resnet import ImageEncoder  # noqa: E402

FP32 = Placement("cpu", "fp32")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["tiny resnet", VisionConfig().image_model])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionConfig:
    if request.param == "tiny resnet":
        folder = tiny_resnet_folder(tmp_path_factory.mktemp("models") / "tiny-resnet")
        return VisionConfig(image_model=str(folder))
    if Weights.find(request.param) is None:
        pytest.skip(f"the weights of {request.param} are not here")
    return VisionConfig(image_model=request.param)


def encode(encoder: ImageEncoder, photos: Sequence[Image.Image], size: int) -> np.ndarray:
    """Vectors of photos, which come in blocks of a size."""
    numbered = list(enumerate(photos))
    blocks = [numbered[start : start + size] for start in range(0, len(numbered), size)]
    vectors = dict(encoder.encode(iter(blocks)))
    return np.stack([vectors[number] for number, _ in numbered]).astype(np.float32)


def test_vectors_are_the_pooled_layer_in_any_batch(config: VisionConfig, photos: list[Image.Image]) -> None:
    from transformers import ResNetModel
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    encoder = ImageEncoder(config, FP32)
    together = encode(encoder, photos, 7)
    assert together.shape == (7, encoder.width)
    assert np.abs(encode(encoder, photos, 1) - together).max() < 2e-3
    folder = Weights.find_or_download(config.image_model).folder
    model = ResNetModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = ConvNextImageProcessorPil.from_pretrained(folder)(images=photos, return_tensors="pt")
    with torch.no_grad():
        states = model(pixel_values=pixels["pixel_values"]).last_hidden_state
    assert np.abs(states.mean(dim=(2, 3)).numpy() - together).max() < 2e-3


def test_bf16_vectors_point_the_same_way(config: VisionConfig, photos: list[Image.Image]) -> None:
    exact = encode(ImageEncoder(config, FP32), photos, 7)
    fast = encode(ImageEncoder(config, Placement("cpu", "bf16")), photos, 7)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1)
    assert ((exact * fast).sum(axis=1) / lengths).min() > 0.999


def test_a_missing_image_model_that_was_named_is_an_error(tmp_path: Path) -> None:
    encoder = ImageEncoder(VisionConfig(image_model=str(tmp_path / "absent")))
    assert encoder.available()
    with pytest.raises(ModelError, match=r"no model in .*absent"):
        _ = encoder.provenance


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    encoder = ImageEncoder(VisionConfig(image_model=str(tiny_chat_folder(tmp_path / "chat"))))
    with pytest.raises(ModelError, match="is a model of type llama; resnet is needed"):
        list(encoder._loaded)


def test_a_vector_that_is_not_finite_is_a_failure(
    config: VisionConfig, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ImageEncoder(config, FP32)
    monkeypatch.setattr(encoder, "_forward", lambda photos: np.full((len(photos), 4), 1e9))
    with np.errstate(over="ignore"):
        assert list(encoder.encode(iter([[(3, photos[0])]]))) == [(3, Failure("vector is not finite"))]
