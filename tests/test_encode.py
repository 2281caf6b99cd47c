"""The encoder: what sentence-transformers would say, each text once."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmrec.cache.store import Store
from mmrec.config import EncoderConfig
from mmrec.encoder import runtimes
from mmrec.encoder import text_encoder as encode
from mmrec.encoder.text_encoder import Encoder, bundled_minilm
from mmrec.encoder.weights import Placement, has_fast_bf16
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
    *(f"{at} good dishes and {at % 7} bad ones. " * (at % 13 + 1) for at in range(40)),
]


class CountingEngine:
    """Gives every text a vector of its own and counts."""

    dimension = 4

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        return np.array([[len(text), text.count("a"), 1, 0] for text in texts], dtype=np.float32)


def counting(store: Store, config: EncoderConfig | None = None) -> tuple[Encoder, CountingEngine]:
    encoder, engine = Encoder(config or EncoderConfig(), store), CountingEngine()
    encoder.__dict__["backend"] = engine
    return encoder, engine


@pytest.fixture(scope="module")
def exact(minilm: None, one_thread: None) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(bundled_minilm())).encode(TEXTS, normalize_embeddings=True))


@pytest.fixture(scope="module", params=["torch", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return str(request.param)


@pytest.fixture(scope="module")
def single(minilm: None, one_thread: None, runtime: str) -> np.ndarray:
    return Encoder(EncoderConfig(precision="fp32", encoder_backend=runtime), Store(None)).encode(TEXTS)


def test_fp32_is_what_sentence_transformers_says(single: np.ndarray, exact: np.ndarray) -> None:
    assert single.dtype == np.float16
    assert single.shape == (len(TEXTS), 384)
    assert np.abs(single.astype(np.float32) - exact).max() < 1e-3
    assert np.array_equal(single[2], single[5])
    assert np.abs(exact[2] - exact[3]).max() > 0.05


def test_threads_change_neither_vectors_nor_the_setting_of_torch(single: np.ndarray, runtime: str) -> None:
    import torch

    torch.set_num_threads(2)
    try:
        vectors = Encoder(EncoderConfig(precision="fp32", encoder_backend=runtime), Store(None)).encode(TEXTS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert np.abs(vectors.astype(np.float32) - single.astype(np.float32)).max() < 1e-3


def test_any_text_has_a_vector() -> None:
    hostile = ["\x00\x01", "👍" * 500, "a" * 20_000, "[CLS] [SEP] [PAD]", "\n\t "]
    vectors = Encoder(EncoderConfig(precision="fp32"), Store(None)).encode(hostile).astype(np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)


def test_a_lone_surrogate_has_a_vector() -> None:
    vector = Encoder(EncoderConfig(precision="fp32"), Store(None)).encode(["\ud800 lone"])
    assert np.linalg.norm(vector.astype(np.float32)) == pytest.approx(1, abs=1e-3)


def test_bf16_points_the_same_way(exact: np.ndarray, runtime: str) -> None:
    config = EncoderConfig(precision="bf16", encoder_backend=runtime)
    half = Encoder(config, Store(None)).encode(TEXTS).astype(np.float32)
    cosine = (half * exact).sum(1) / np.linalg.norm(half, axis=1)
    assert cosine.min() >= (0.9999 if runtime == "openvino" and has_fast_bf16() else 0.999)
    assert np.linalg.norm(half, axis=1) == pytest.approx(1, abs=1e-3)


def test_vectors_have_unit_length(single: np.ndarray) -> None:
    assert np.linalg.norm(single.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)


def test_a_text_is_encoded_once_and_answers_keep_their_order(store: Store) -> None:
    encoder, engine = counting(store)
    texts = ["bbbb", "a", "bbbb", "", "aaa", "a"]
    expected = [[4, 0, 1, 0], [1, 1, 1, 0], [4, 0, 1, 0], [0, 0, 1, 0], [3, 3, 1, 0], [1, 1, 1, 0]]
    assert encoder.encode(texts).tolist() == expected
    assert engine.calls == [["", "a", "aaa", "bbbb"]]
    assert encoder.encode(["aaa", "new", "a"]).tolist() == [[3, 3, 1, 0], [3, 0, 1, 0], [1, 1, 1, 0]]
    assert engine.calls[1:] == [["new"]]


def test_a_later_run_does_not_even_load_the_model(store: Store) -> None:
    first, _ = counting(store)
    before = first.encode(["one", "two"])
    later = Encoder(EncoderConfig(), Store(store.path))
    assert np.array_equal(later.encode(["two", "one"]), before[::-1])
    assert "backend" not in later.__dict__


def test_precisions_models_and_runtimes_do_not_share_vectors(store: Store, tmp_path: Path) -> None:
    for config in (
        EncoderConfig(precision="fp32", encoder_backend="torch"),
        EncoderConfig(precision="fp32", encoder_backend="openvino"),
        EncoderConfig(precision="bf16", encoder_backend="torch"),
        EncoderConfig(precision="fp32", encoder_model=str(tmp_path)),
    ):
        encoder, engine = counting(store, config)
        encoder.encode(["one"])
        assert engine.calls == [["one"]]


def test_auto_takes_what_is_fast_here_and_says_why(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(place: Placement, **settings: str) -> Encoder:
        return Encoder(EncoderConfig.model_validate(settings), store, place)

    plain, fast, gpu = Placement("cpu", "fp32"), Placement("cpu", "bf16"), Placement("cuda", "bf16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    chosen = of(fast)
    assert (chosen.provenance["precision"], chosen.runtime) == ("bf16", "openvino")
    assert chosen.explanation == "bf16 is native on this cpu; OpenVINO is installed"
    assert of(plain).provenance["precision"] == "fp32"
    assert "bf16 is not native" in of(plain).explanation
    assert of(gpu).runtime == "sentence-transformers"
    asked = of(fast, precision="fp32", encoder_backend="torch")
    assert (asked.provenance["precision"], asked.runtime) == ("fp32", "torch")
    assert asked.explanation == "precision as asked; runtime as asked"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    assert of(fast).runtime == "torch"
    assert "mmrec[openvino]" in of(fast).explanation


def test_a_converted_model_is_kept_and_a_damaged_one_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    folder = bundled_minilm()
    assert folder is not None
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    ids = np.array([[101, 2307, 102]]), np.ones((1, 3), dtype=np.int64)
    first = runtimes.OpenVINOMeans(folder, False)(*ids)
    (kept,) = (tmp_path / "cache").glob("*.xml")
    with monkeypatch.context() as patched:
        patched.setattr(runtimes, "_converted", None)
        assert np.array_equal(runtimes.OpenVINOMeans(folder, False)(*ids), first)
    for damage in ("<net", ""):
        kept.write_text(damage)
        assert np.array_equal(runtimes.OpenVINOMeans(folder, False)(*ids), first)
    monkeypatch.setenv("MMREC_CACHE", "/proc/nowhere")
    assert np.abs(runtimes.OpenVINOMeans(folder, False)(*ids) - first).max() < 1e-6


def test_a_crash_costs_one_chunk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "chunk", 2)
    encoder, engine = counting(store)
    works = engine.encode

    def breaks(texts: Sequence[str]) -> np.ndarray:
        if len(engine.calls) == 2:
            raise MemoryError
        return works(texts)

    monkeypatch.setattr(engine, "encode", breaks)
    texts = ["a", "aa", "aaa", "aaaa", "aaaaa", "aaaaaa"]
    with pytest.raises(MemoryError):
        encoder.encode(texts)
    again, engine = counting(store)
    again.encode(texts)
    assert engine.calls == [["aaaaa", "aaaaaa"]]


def test_no_texts_give_no_vectors(store: Store) -> None:
    encoder, engine = counting(store)
    assert encoder.encode([]).shape == (0, 4)
    assert engine.calls == []


def test_other_weights_under_the_name_are_refused(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setattr(encode, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"are not all-MiniLM-L6-v2 .*expected 000000000000"):
        Encoder(EncoderConfig(), store)


def test_the_bundled_weights_are_the_original_ones(store: Store) -> None:
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert Encoder(EncoderConfig(encoder_model=name), store).source == str(bundled_minilm())


def test_a_model_that_is_not_there_is_an_error_that_names_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    encoder = Encoder(EncoderConfig(encoder_model=str(tmp_path)), store)
    with pytest.raises(ModelError, match="cannot load the encoder"):
        encoder.encode(["x"])
