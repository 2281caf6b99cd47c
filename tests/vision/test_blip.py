"""BLIP-2 and BLIP: the real code on tiny random models, and on real weights where those are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from mmrec.llm.types import Answer
from mmrec.vision.captioner import Captioner, caption_fault
from mmrec.vision.factory import BLIP_MODELS
from tiny_models import tiny_blip2_folder, tiny_blip_folder, tiny_chat_folder, tiny_resnet_folder

torch = pytest.importorskip("torch")

from mmrec.vision.blip import BlipCaptioner  # noqa: E402

FP32 = Placement("cpu", "fp32")
pytestmark = pytest.mark.usefixtures("one_thread", "offline")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1: no call to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {
        "tiny blip-2": tiny_blip2_folder(base / "tiny-blip-2"),
        "tiny blip": tiny_blip_folder(base / "tiny-blip"),
    }


@pytest.fixture(scope="module", params=["tiny blip-2", "tiny blip", *BLIP_MODELS.values()])
def captioner(request: pytest.FixtureRequest, folders: dict[str, Path]) -> BlipCaptioner:
    if request.param in folders:
        return BlipCaptioner(str(folders[request.param]), placement=FP32)
    if Weights.find(request.param) is None:
        pytest.skip(f"the weights of {request.param} are not here")
    return BlipCaptioner(request.param)


@pytest.fixture(scope="module")
def blip2(folders: dict[str, Path]) -> BlipCaptioner:
    return BlipCaptioner(str(folders["tiny blip-2"]), placement=FP32)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(4)]
    flat = [
        Image.new("RGB", (30, 20 + width), color) for width, color in ((0, "red"), (7, "blue"), (14, "white"))
    ]
    return [*noise, *flat]


def caption(captioner: Captioner, photos: Sequence[Image.Image], size: int) -> list[Answer | Failure]:
    """Answers to photos, which come in blocks of a size."""
    numbered = list(enumerate(photos))
    blocks = [numbered[start : start + size] for start in range(0, len(numbered), size)]
    answers = dict(captioner.caption(iter(blocks)))
    return [answers[number] for number, _ in numbered]


def test_a_caption_depends_on_its_photo_alone(captioner: BlipCaptioner, photos: list[Image.Image]) -> None:
    alone, together = caption(captioner, photos, 1), caption(captioner, photos, 4)
    same = [first == second for first, second in zip(alone, together, strict=True)]
    # In bf16 a near tie between words may be decided differently in a batch of another size.
    assert all(same) if captioner.placement.precision == "fp32" else sum(same) * 2 > len(same)
    assert alone == caption(BlipCaptioner(captioner._model, placement=captioner.placement), photos, 1)
    assert len({str(answer) for answer in together}) > 2


def test_faulty_captions_are_generated_again_or_failures(
    captioner: BlipCaptioner, photos: list[Image.Image]
) -> None:
    answers = caption(captioner, photos, 4)
    for answer in answers:
        if isinstance(answer, Failure):
            assert answer.final
            assert answer.reason.endswith("(twice)")
        else:
            assert caption_fault(answer.text) is None
    if captioner.provenance["model"] == "tiny-blip-2":
        greedy = captioner._generate(photos, captioner.greedy)
        repaired = [
            text
            for text, answer in zip(greedy, answers, strict=True)
            if isinstance(answer, Answer) and answer.text != text and "loops" in str(caption_fault(text))
        ]
        assert repaired, "a greedy caption loops, and the search finds one that does not"
        assert "asked again" in captioner.status()


def test_a_caption_that_is_useless_twice_fails_with_the_reason(
    folders: dict[str, Path], photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = BlipCaptioner(str(folders["tiny blip"]), placement=FP32)
    monkeypatch.setattr(captioner, "_generate", lambda photos, options: ["a photo of"] * len(photos))
    assert caption(captioner, photos[:1], 1) == [Failure("caption says nothing: a photo of (twice)")]


def test_a_batch_that_exceeds_the_memory_is_halved(
    blip2: BlipCaptioner, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = caption(blip2, photos, 7)
    model, limit = blip2._loaded[0], 2
    generate = model.generate

    def generate_few(pixel_values: torch.Tensor, **options: object) -> torch.Tensor:
        if len(pixel_values) > limit:
            raise torch.OutOfMemoryError
        return generate(pixel_values=pixel_values, **options)

    monkeypatch.setattr(model, "generate", generate_few)
    assert caption(blip2, photos, 7) == expected
    limit = 0
    with pytest.raises(ModelError, match="one photo exceeds the memory"):
        caption(blip2, photos, 7)


def test_bf16_gives_similar_captions_under_another_key(
    folders: dict[str, Path], blip2: BlipCaptioner, photos: list[Image.Image]
) -> None:
    fast = BlipCaptioner(str(folders["tiny blip-2"]), placement=Placement("cpu", "bf16"))
    assert blip2.provenance != fast.provenance
    pairs = zip(caption(blip2, photos, 7), caption(fast, photos, 7), strict=True)
    assert sum(first == second for first, second in pairs) >= 4


def delete(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def drop_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[sorted(tensors)[5]]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:999])


def remove_the_image_token(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["image_token_index"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (delete("model.safetensors"), "needs config.json and model.safetensors"),
        (delete("config.json"), "needs config.json and model.safetensors"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "is a model of type unknown; blip-2 or blip is needed",
        ),
        (delete("tokenizer.json"), "tokenizer.*; bring its files again"),
        (delete("processor_config.json"), "image processor.*; bring its files again"),
        (cut_weights, "bring its files again"),
        (drop_a_tensor, r"the weights lack .*weight; bring its files again"),
        (remove_the_image_token, "before transformers 4.46"),
    ],
)
def test_a_damaged_folder_is_an_error_with_the_remedy(
    folders: dict[str, Path],
    photos: list[Image.Image],
    tmp_path: Path,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    folder = Path(shutil.copytree(folders["tiny blip-2"], tmp_path / "model"))
    damage(folder)
    with pytest.raises(ModelError, match=message) as error:
        caption(BlipCaptioner(str(folder), placement=FP32), photos[:1], 1)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(("build", "kind"), [(tiny_chat_folder, "llama"), (tiny_resnet_folder, "resnet")])
def test_a_model_of_another_type_is_refused(
    photos: list[Image.Image], tmp_path: Path, build: Callable[[Path], Path], kind: str
) -> None:
    with pytest.raises(ModelError, match=f"is a model of type {kind}; blip-2 or blip is needed"):
        caption(BlipCaptioner(str(build(tmp_path / "model")), placement=FP32), photos[:1], 1)


@pytest.mark.parametrize("name", ["nobody/nothing-here", "./nothing-here", "not a//name"])
def test_a_missing_model_is_an_error_with_the_remedy(name: str) -> None:
    with pytest.raises(
        ModelError,
        match=r"hf download nobody/nothing-here`|no model in \./nothing-here: |hf download not a//name`",
    ):
        _ = BlipCaptioner(name, placement=FP32).provenance


def test_a_folder_that_moves_keeps_its_captions(folders: dict[str, Path], tmp_path: Path) -> None:
    original = folders["tiny blip"]
    moved = shutil.copytree(original, tmp_path / original.name)
    first, second = (BlipCaptioner(str(folder), placement=FP32).provenance for folder in (original, moved))
    assert first == second
