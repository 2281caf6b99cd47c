"""The encoder through its store: each text once; its backends give the vectors of sentence-transformers."""

import numpy as np
import pytest
import torch

from mmrec.cache.store import Failure, Store, result_keys
from mmrec.config import EncoderConfig
from mmrec.encoder import text_encoder, weights
from mmrec.encoder.text_encoder import Encoder, MeanPoolingBackend
from mmrec.encoder.weights import Placement, bundled_minilm, has_fast_bf16
from mmrec.errors import ModelError, StoreError

pytestmark = pytest.mark.usefixtures("minilm")


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


class CountingBackend:
    """Gives every text a vector of its own, and counts."""

    dimension = 4

    def __init__(self):
        self.calls = []

    def encode(self, texts):
        self.calls.append(list(texts))
        return np.array([[len(text), text.count("a"), 1, 0] for text in texts], dtype=np.float32)


def counting(store, config=None):
    encoder, backend = Encoder(config or EncoderConfig(), store), CountingBackend()
    encoder.__dict__["backend"] = backend
    return encoder, backend


def test_a_text_is_encoded_once_and_vectors_keep_the_order_of_texts(store, monkeypatch):
    monkeypatch.setattr(Encoder, "chunk", 3)
    encoder, backend = counting(store)
    texts = ["bbbb", "a", "bbbb", "", "aaa", "a"]
    expected = [[4, 0, 1, 0], [1, 1, 1, 0], [4, 0, 1, 0], [0, 0, 1, 0], [3, 3, 1, 0], [1, 1, 1, 0]]
    assert encoder.encode(texts).tolist() == expected
    assert backend.calls == [["", "a", "aaa"], ["bbbb"]]
    assert encoder.encode(["aaa", "new", "a"]).tolist() == [[3, 3, 1, 0], [3, 0, 1, 0], [1, 1, 1, 0]]
    assert backend.calls[2:] == [["new"]]
    later = Encoder(EncoderConfig(), Store(store.path))
    assert later.encode(["aaa", "a"]).tolist() == [[3, 3, 1, 0], [1, 1, 1, 0]]
    assert "backend" not in vars(later), "the model is not loaded"
    empty, backend = counting(store)
    assert empty.encode([]).shape == (0, 4)
    assert backend.calls == []


def test_precisions_models_and_backends_do_not_share_vectors(store, tmp_path):
    for config in (
        EncoderConfig(precision="fp32", encoder_backend="torch"),
        EncoderConfig(precision="fp32", encoder_backend="openvino"),
        EncoderConfig(precision="bf16", encoder_backend="torch"),
        EncoderConfig(precision="fp32", encoder_model=str(tmp_path)),
    ):
        encoder, backend = counting(store, config)
        encoder.encode(["one"])
        assert backend.calls == [["one"]]


@pytest.mark.parametrize(
    ("placement", "settings", "has_openvino", "precision", "backend"),
    [
        (("cpu", "bf16"), {}, True, "bf16", "openvino"),
        (("cpu", "fp32"), {}, True, "fp32", "openvino"),
        (("cpu", "bf16"), {}, False, "bf16", "torch"),
        (("cuda", "bf16"), {}, True, "bf16", "sentence-transformers"),
        (("cuda", "fp16"), {}, True, "fp32", "sentence-transformers"),
        (("cpu", "bf16"), {"precision": "fp32", "encoder_backend": "torch"}, True, "fp32", "torch"),
    ],
)
def test_auto_chooses_the_fastest(store, monkeypatch, placement, settings, has_openvino, precision, backend):
    def find_spec(name):
        return object() if has_openvino or name != "openvino" else None

    monkeypatch.setattr(text_encoder, "find_spec", find_spec)
    encoder = Encoder(EncoderConfig(**settings), store, Placement(*placement))
    assert (encoder.provenance["precision"], encoder.backend_name) == (precision, backend)
    assert encoder.description == f"all-MiniLM-L6-v2 ({precision}, {backend})"


def test_a_text_that_failed_has_zeros_and_damaged_vectors_are_a_store_error(store):
    encoder, _ = counting(store)
    bad, short = result_keys(encoder.provenance, ["bad", "short"])
    store.put(encoder.provenance, [(bad, Failure("a worker died"))])
    assert encoder.encode(["bad", "a"]).tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]
    with pytest.raises(ModelError, match="no text could be encoded: a worker died"):
        encoder.encode(["bad"])
    store.put(encoder.provenance, [(short, b"\0\0")])
    with pytest.raises(StoreError, match="vectors in the store are damaged"):
        encoder.encode(["short", "a"])


def test_the_bundled_weights_are_the_original_ones(store, monkeypatch):
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert Encoder(EncoderConfig(encoder_model=name), store).source == str(bundled_minilm())
    monkeypatch.setattr(weights, "_MINILM_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"are not all-MiniLM-L6-v2 .*expected 000000000000"):
        Encoder(EncoderConfig(), store)


def encode(texts, **settings):
    return Encoder(EncoderConfig.model_validate(settings), Store()).encode(texts)


@pytest.fixture(scope="module")
def exact(minilm):
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(bundled_minilm())).encode(TEXTS, normalize_embeddings=True))


@pytest.fixture(scope="module", params=["torch", "openvino"])
def backend(request):
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return str(request.param)


def test_fp32_equals_sentence_transformers_with_any_number_of_threads(exact, backend):
    single = encode(TEXTS, precision="fp32", encoder_backend=backend)
    assert single.dtype == np.float16
    assert single.shape == (len(TEXTS), 384)
    assert np.abs(single.astype(np.float32) - exact).max() < 1e-3
    assert np.array_equal(single[2], single[5])
    assert np.abs(exact[2] - exact[3]).max() > 0.05
    assert np.linalg.norm(single.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)
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
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))

    def vectors():
        return MeanPoolingBackend(folder, "openvino", False).encode(["great food"])

    first = vectors()
    (cached,) = (tmp_path / "cache").glob("*.xml")
    with monkeypatch.context() as patched:
        patched.setattr(text_encoder, "_convert", None)
        assert np.array_equal(vectors(), first)
    cached.write_text("<net")
    assert np.array_equal(vectors(), first)
    monkeypatch.setenv("MMREC_CACHE", "/proc/nowhere")
    assert np.abs(vectors() - first).max() < 1e-6


def test_an_absent_model_is_an_error_that_names_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load the encoder"):
        encode(["x"], encoder_model=str(tmp_path))
