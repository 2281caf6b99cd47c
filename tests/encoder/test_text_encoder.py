"""The encoder through its store: each text once; which backend and precision are chosen."""

import importlib.util

import numpy as np
import pytest

from mmrec.cache.store import Failure, Store, result_keys
from mmrec.config import EncoderConfig
from mmrec.encoder import weights
from mmrec.encoder.text_encoder import Encoder
from mmrec.encoder.weights import Placement, bundled_minilm
from mmrec.errors import ModelError, StoreError

pytestmark = pytest.mark.usefixtures("minilm")


class CountingBackend:
    """Gives every text a vector of its own, and counts."""

    dimension = 4

    def __init__(self):
        self.calls = []
        self.raise_at = None

    def encode(self, texts):
        if len(self.calls) == self.raise_at:
            raise MemoryError
        self.calls.append(list(texts))
        return np.array([[len(text), text.count("a"), 1, 0] for text in texts], dtype=np.float32)


def counting(store, config=None):
    encoder, backend = Encoder(config or EncoderConfig(), store), CountingBackend()
    encoder.__dict__["backend"] = backend
    return encoder, backend


def test_a_text_is_encoded_once_and_vectors_keep_the_order_of_texts(store):
    encoder, backend = counting(store)
    texts = ["bbbb", "a", "bbbb", "", "aaa", "a"]
    expected = [[4, 0, 1, 0], [1, 1, 1, 0], [4, 0, 1, 0], [0, 0, 1, 0], [3, 3, 1, 0], [1, 1, 1, 0]]
    assert encoder.encode(texts).tolist() == expected
    assert backend.calls == [["", "a", "aaa", "bbbb"]]
    assert encoder.encode(["aaa", "new", "a"]).tolist() == [[3, 3, 1, 0], [3, 0, 1, 0], [1, 1, 1, 0]]
    assert backend.calls[1:] == [["new"]]


def test_a_later_run_does_not_load_the_model(store):
    first, _ = counting(store)
    before = first.encode(["one", "two"])
    later = Encoder(EncoderConfig(), Store(store.path))
    assert np.array_equal(later.encode(["two", "one"]), before[::-1])
    assert "backend" not in later.__dict__


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

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    encoder = Encoder(EncoderConfig(**settings), store, Placement(*placement))
    assert (encoder.provenance["precision"], encoder.backend_name) == (precision, backend)
    assert encoder.description == f"all-MiniLM-L6-v2 ({precision}, {backend})"


def test_a_crash_costs_one_chunk(store, monkeypatch):
    monkeypatch.setattr(Encoder, "chunk", 2)
    encoder, backend = counting(store)
    backend.raise_at = 2
    texts = ["a" * length for length in range(1, 7)]
    with pytest.raises(MemoryError):
        encoder.encode(texts)
    again, backend = counting(store)
    again.encode(texts)
    assert backend.calls == [["aaaaa", "aaaaaa"]]


def test_no_texts_give_no_vectors(store):
    encoder, backend = counting(store)
    assert encoder.encode([]).shape == (0, 4)
    assert backend.calls == []


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


def test_different_weights_under_the_name_are_refused(monkeypatch, store):
    monkeypatch.setattr(weights, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"are not all-MiniLM-L6-v2 .*expected 000000000000"):
        Encoder(EncoderConfig(), store)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_bundled_weights_are_the_original_ones(store, name):
    assert Encoder(EncoderConfig(encoder_model=name), store).source == str(bundled_minilm())
