"""BLIP-2, BLIP and ResNet: the real code on tiny random models, and on real weights where they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.config import VisionConfig
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ConfigError, ModelError
from mmrec.llm.types import Answer
from mmrec.vision.caption_quality import caption_fault
from mmrec.vision.factory import cached_models, open_captioner, vision_checks
from mmrec.vision.types import Captioner

torch = pytest.importorskip("torch")

from mmrec.vision.blip import BlipCaptioner  # noqa: E402
from mmrec.vision.resnet import ImageEncoder  # noqa: E402
from tiny_models import tiny_blip2_folder, tiny_blip_folder, tiny_chat_folder, tiny_resnet_folder  # noqa: E402

EXACT = Placement("cpu", "fp32")
REAL = ("Salesforce/blip2-opt-2.7b", "Salesforce/blip-image-captioning-base")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1: nothing is asked of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    build: dict[str, Callable[[Path], Path]] = {
        "tiny blip-2": tiny_blip2_folder,
        "tiny blip": tiny_blip_folder,
        "tiny resnet": tiny_resnet_folder,
        "tiny chat": tiny_chat_folder,
    }
    return {name: make(base / name.replace(" ", "-")) for name, make in build.items()}


@pytest.fixture(scope="module", params=["tiny blip-2", "tiny blip", *REAL])
def captioner(request: pytest.FixtureRequest, folders: dict[str, Path]) -> BlipCaptioner:
    if request.param in folders:
        return BlipCaptioner(str(folders[request.param]), placement=EXACT)
    if Weights.find(request.param) is None:
        pytest.skip(f"the weights of {request.param} are not here")
    return BlipCaptioner(request.param)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(4)]
    flat = [Image.new("RGB", (30, 20 + 7 * at), colour) for at, colour in enumerate(("red", "blue", "white"))]
    return [*noise, *flat]


def said(captioner: Captioner, photos: Sequence[Image.Image], size: int) -> list[Answer | Failure]:
    numbered = list(enumerate(photos))
    blocks = [numbered[at : at + size] for at in range(0, len(numbered), size)]
    answers = dict(captioner.caption(iter(blocks)))
    return [answers[number] for number, _ in numbered]


def test_a_caption_does_not_depend_on_its_neighbours(
    captioner: BlipCaptioner, photos: list[Image.Image]
) -> None:
    alone, together = said(captioner, photos, 1), said(captioner, photos, 4)
    same = [one == other for one, other in zip(alone, together, strict=True)]
    # In bf16 a near tie between words may fall otherwise in a batch of another size.
    assert all(same) if captioner.placement.precision == "fp32" else sum(same) * 2 > len(same)
    assert alone == said(BlipCaptioner(captioner._model, placement=captioner.placement), photos, 1)


def test_a_caption_depends_on_its_photo(captioner: BlipCaptioner, photos: list[Image.Image]) -> None:
    assert len({str(answer) for answer in said(captioner, photos, 4)}) > 2


def test_faulty_captions_are_mended_or_failures(captioner: BlipCaptioner, photos: list[Image.Image]) -> None:
    answers = said(captioner, photos, 4)
    for answer in answers:
        if isinstance(answer, Failure):
            assert answer.final
            assert answer.reason.endswith("(twice)")
        else:
            assert caption_fault(answer.text) is None
    if captioner.provenance["model"] == "tiny-blip-2":
        greedy = captioner._say(photos, {"max_new_tokens": 30, "do_sample": False, "num_beams": 1})
        mended = [
            at
            for at, answer in enumerate(answers)
            if isinstance(answer, Answer)
            and answer.text != greedy[at]
            and "loops" in str(caption_fault(greedy[at]))
        ]
        assert mended, "a greedy caption loops, the search finds one that does not"
        assert "asked again" in captioner.status()


def test_a_model_that_only_says_nonsense_fails_with_the_reason(
    folders: dict[str, Path], photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = BlipCaptioner(str(folders["tiny blip"]), placement=EXACT)
    monkeypatch.setattr(captioner, "_say", lambda photos, how: ["a photo of"] * len(photos))
    assert said(captioner, photos[:1], 1) == [Failure("caption says nothing: a photo of (twice)")]


def test_half_a_batch_where_a_whole_one_is_too_much(
    folders: dict[str, Path], photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = BlipCaptioner(str(folders["tiny blip-2"]), placement=EXACT)
    expected = said(captioner, photos, 7)
    model, most = captioner._loaded[0], 2
    generate = model.generate

    def small(pixel_values: torch.Tensor, **how: object) -> torch.Tensor:
        if len(pixel_values) > most:
            raise torch.OutOfMemoryError
        return generate(pixel_values=pixel_values, **how)

    monkeypatch.setattr(model, "generate", small)
    assert said(captioner, photos, 7) == expected
    most = 0
    with pytest.raises(ModelError, match="one photo is too much"):
        said(captioner, photos, 7)


def test_bf16_says_much_the_same_and_is_kept_apart(
    folders: dict[str, Path], photos: list[Image.Image]
) -> None:
    exact = BlipCaptioner(str(folders["tiny blip-2"]), placement=EXACT)
    fast = BlipCaptioner(str(folders["tiny blip-2"]), placement=Placement("cpu", "bf16"))
    assert exact.provenance != fast.provenance
    pairs = zip(said(exact, photos, 7), said(fast, photos, 7), strict=True)
    assert sum(one == other for one, other in pairs) >= 4


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def drop_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[sorted(tensors)[5]]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999])


def outdate(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["image_token_index"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "needs config.json and model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "needs config.json and model.safetensors"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "is a model of type unknown; blip-2 or blip is needed",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.*; bring its files again"),
        (
            lambda folder: (folder / "processor_config.json").unlink(),
            "image processor.*; bring its files again",
        ),
        (cut, "bring its files again"),
        (drop_a_tensor, r"the weights lack .*weight; bring its files again"),
        (outdate, "before transformers 4.46"),
    ],
)
def test_a_damaged_folder_is_told_with_the_mend(
    folders: dict[str, Path],
    photos: list[Image.Image],
    tmp_path: Path,
    harm: Callable[[Path], object],
    told: str,
) -> None:
    folder = copy(folders["tiny blip-2"], tmp_path / "model")
    harm(folder)
    with pytest.raises(ModelError, match=told) as caught:
        said(BlipCaptioner(str(folder), placement=EXACT), photos[:1], 1)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["tiny chat", "tiny resnet"])
def test_a_model_of_another_kind_is_refused(
    folders: dict[str, Path], photos: list[Image.Image], name: str
) -> None:
    with pytest.raises(ModelError, match=r"is a model of type (llama|resnet); blip-2 or blip is needed"):
        said(BlipCaptioner(str(folders[name]), placement=EXACT), photos[:1], 1)
    with pytest.raises(ModelError, match="is a model of type llama; resnet is needed"):
        list(ImageEncoder(VisionConfig(image_model=str(folders["tiny chat"])))._loaded)


@pytest.mark.parametrize("name", ["nobody/nothing-here", "./nothing-here", "not a//name"])
def test_a_model_that_is_not_here_is_told_with_the_mend(name: str) -> None:
    with pytest.raises(
        ModelError,
        match=r"hf download nobody/nothing-here`|no model in \./nothing-here: |hf download not a//name`",
    ):
        _ = BlipCaptioner(name, placement=EXACT).provenance


def test_a_folder_that_moves_keeps_its_captions(folders: dict[str, Path], tmp_path: Path) -> None:
    original = folders["tiny blip"]
    moved = copy(original, tmp_path / original.name)
    makers = [BlipCaptioner(str(folder), placement=EXACT).provenance for folder in (original, moved)]
    assert makers[0] == makers[1]


def in_cache(cache: Path, name: str, folder: Path, commit: str) -> Path:
    """A model as the hub's cache holds it."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    return copy(folder, home / "snapshots" / commit)


def test_models_in_the_hubs_cache_are_found_by_name_and_pinned_by_commit(
    folders: dict[str, Path], photos: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    features = ImageEncoder(VisionConfig())
    assert not features.available()
    assert {state for state, _ in vision_checks().values()} == {"ok", "missing"}
    in_cache(tmp_path, "Salesforce/blip-image-captioning-base", folders["tiny blip"], commit)
    half = in_cache(tmp_path, "somebody/half", folders["tiny blip"], commit)
    (half / "model.safetensors").unlink()
    in_cache(tmp_path, "microsoft/resnet-50", folders["tiny resnet"], commit)
    assert dict(cached_models()) == {
        "Salesforce/blip-image-captioning-base": "blip",
        "microsoft/resnet-50": "resnet",
    }
    captioner = open_captioner(VisionConfig(captioner="blip"))
    assert captioner.provenance["revision"] == commit
    assert isinstance(said(captioner, photos[:1], 1)[0], Answer | Failure)
    assert features.available()
    assert features.provenance["revision"] == commit
    checks = vision_checks()
    assert checks["image baseline"][0] == "ok"
    assert "blip:Salesforce/blip-image-captioning-base" in checks["captions by blip"][1]
    assert checks["captions by blip2"][0] == "missing"
    pinned = VisionConfig(captioner="blip", captioner_revision="f" * 40)
    with pytest.raises(ModelError, match="hf download"):
        _ = open_captioner(pinned).provenance


def test_spellings_of_captioners() -> None:
    assert open_captioner(VisionConfig()).provenance["model"] == "builtin"
    assert open_captioner(VisionConfig(captioner="blip2"))._model == "Salesforce/blip2-opt-2.7b"
    assert open_captioner(VisionConfig(captioner="blip:a/b:c"))._model == "a/b:c"
    by_api = open_captioner(VisionConfig(captioner="openai:m"), lambda config: config.captioner)  # type: ignore[arg-type, return-value]
    assert by_api == "openai:m"
    for name in ("blip3", "openai:", "builtin:x", "", "openai"):
        with pytest.raises(ConfigError, match=r"no such captioner; there are builtin, blip2"):
            open_captioner(VisionConfig(captioner=name), lambda config: ImageEncoder)  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module", params=["tiny resnet", "microsoft/resnet-50"])
def image_model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> str:
    if request.param not in folders and Weights.find(request.param) is None:
        pytest.skip(f"the weights of {request.param} are not here")
    return str(folders.get(request.param, request.param))


def looked_at(features: ImageEncoder, photos: Sequence[Image.Image], size: int) -> np.ndarray:
    numbered = list(enumerate(photos))
    blocks = [numbered[at : at + size] for at in range(0, len(numbered), size)]
    rows = dict(features.encode(iter(blocks)))
    return np.stack([rows[number] for number, _ in numbered]).astype(np.float32)


def test_vectors_are_the_pooled_layer_whatever_the_batch(image_model: str, photos: list[Image.Image]) -> None:
    from transformers import ResNetModel
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    features = ImageEncoder(VisionConfig(image_model=image_model), EXACT)
    together = looked_at(features, photos, 7)
    assert together.shape == (7, features.width)
    assert np.abs(looked_at(features, photos, 1) - together).max() < 2e-3
    folder = Weights.find_or_download(image_model).folder
    model = ResNetModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = ConvNextImageProcessorPil.from_pretrained(folder)(images=photos, return_tensors="pt")
    with torch.no_grad():
        states = model(pixel_values=pixels["pixel_values"]).last_hidden_state
    assert np.abs(states.mean(dim=(2, 3)).numpy() - together).max() < 2e-3


def test_bf16_vectors_point_the_same_way(image_model: str, photos: list[Image.Image]) -> None:
    config = VisionConfig(image_model=image_model)
    exact = looked_at(ImageEncoder(config, EXACT), photos, 7)
    fast = looked_at(ImageEncoder(config, Placement("cpu", "bf16")), photos, 7)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1)
    assert ((exact * fast).sum(axis=1) / lengths).min() > 0.999


def test_an_image_model_that_is_asked_for_is_never_done_without(tmp_path: Path) -> None:
    features = ImageEncoder(VisionConfig(image_model=str(tmp_path / "absent")))
    assert features.available()
    with pytest.raises(ModelError, match=r"no model in .*absent"):
        _ = features.provenance


def test_a_vector_that_is_no_number_is_a_failure(
    folders: dict[str, Path], photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = ImageEncoder(VisionConfig(image_model=str(folders["tiny resnet"])), EXACT)
    monkeypatch.setattr(features, "_vectors", lambda photos: np.full((len(photos), 4), 1e9))
    with np.errstate(over="ignore"):
        assert list(features.encode(iter([[(3, photos[0])]]))) == [(3, Failure("vector is not finite"))]
