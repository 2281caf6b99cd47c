"""Backends of the encoder: the vectors of sentence-transformers, for any text, at any number of threads."""

import numpy as np
import pytest
import torch

from mmrec.cache.store import Store
from mmrec.config import EncoderConfig
from mmrec.encoder import text_encoder
from mmrec.encoder.text_encoder import Encoder
from mmrec.encoder.weights import bundled_minilm, has_fast_bf16
from mmrec.errors import ModelError

pytestmark = pytest.mark.usefixtures("minilm", "one_thread")

TEXTS = [
    "The ramen was wonderful, with a rich broth.",
    "",
    "Overpriced.",
    "Our waiter was rude, the soup cold and the music far too loud to talk, so we left early. " * 3,
    "好吃。服务很好！",
    "Overpriced.",
    "word " * 400,
    *(f"{number} good dishes and {number % 7} bad ones. " * (number % 13 + 1) for number in range(20)),
]
HOSTILE = ["\x00\x01", "👍" * 500, "a" * 20_000, "[CLS] [SEP] [PAD]", "\n\t ", "\ud800 lone"]


def encode(texts, **settings):
    return Encoder(EncoderConfig.model_validate(settings), Store()).encode(texts)


@pytest.fixture(scope="module")
def exact(minilm, one_thread):
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(bundled_minilm())).encode(TEXTS, normalize_embeddings=True))


@pytest.fixture(scope="module", params=["torch", "openvino"])
def backend(request):
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return str(request.param)


@pytest.fixture(scope="module")
def single(minilm, one_thread, backend):
    """Vectors by one thread in fp32."""
    return encode(TEXTS, precision="fp32", encoder_backend=backend)


def test_fp32_equals_sentence_transformers(single, exact):
    assert single.dtype == np.float16
    assert single.shape == (len(TEXTS), 384)
    assert np.abs(single.astype(np.float32) - exact).max() < 1e-3
    assert np.array_equal(single[2], single[5])
    assert np.abs(exact[2] - exact[3]).max() > 0.05
    assert np.linalg.norm(single.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)


def test_threads_change_neither_vectors_nor_the_setting_of_torch(single, backend):
    torch.set_num_threads(2)
    try:
        vectors = encode(TEXTS, precision="fp32", encoder_backend=backend)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert np.abs(vectors.astype(np.float32) - single.astype(np.float32)).max() < 1e-3


def test_any_text_has_a_vector(backend):
    vectors = encode(HOSTILE, precision="fp32", encoder_backend=backend).astype(np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)


def test_bf16_points_in_the_same_direction(exact, backend):
    half = encode(TEXTS, precision="bf16", encoder_backend=backend).astype(np.float32)
    cosine = (half * exact).sum(1) / np.linalg.norm(half, axis=1)
    assert cosine.min() >= (0.9999 if backend == "openvino" and has_fast_bf16() else 0.999)
    assert np.linalg.norm(half, axis=1) == pytest.approx(1, abs=1e-3)


def test_a_converted_model_is_kept_and_a_damaged_one_converted_again(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    folder = bundled_minilm()
    assert folder is not None
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))

    def vectors():
        return text_encoder.OpenVINOBackend(folder, False).encode(["great food"])

    first = vectors()
    (cached,) = (tmp_path / "cache").glob("*.xml")
    with monkeypatch.context() as patched:
        patched.setattr(text_encoder, "_convert", None)
        assert np.array_equal(vectors(), first)
    for damage in ("<net", ""):
        cached.write_text(damage)
        assert np.array_equal(vectors(), first)
    monkeypatch.setenv("MMREC_CACHE", "/proc/nowhere")
    assert np.abs(vectors() - first).max() < 1e-6


def test_an_absent_model_is_an_error_that_names_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load the encoder"):
        encode(["x"], encoder_model=str(tmp_path))
