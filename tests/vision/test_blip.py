"""BLIP-2 and BLIP: the real code on tiny random models, and on real weights where those are."""

import shutil
from pathlib import Path

import pytest
import torch

from mmrec.cache.store import Failure
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from mmrec.llm.types import Answer
from mmrec.vision.blip import BlipCaptioner
from mmrec.vision.captioner import CAPTIONERS, caption_fault
from tiny_models import edit_json, results_in_blocks, tiny_blip2_folder, tiny_blip_folder, tiny_chat_folder

FP32 = Placement("cpu", "fp32")
HUB_MODELS = [model for _, model in CAPTIONERS.values() if model]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    folders = tiny_blip2_folder(base / "tiny-blip-2"), tiny_blip_folder(base / "tiny-blip")
    return {folder.name: BlipCaptioner(str(folder), placement=FP32) for folder in folders}


@pytest.fixture(scope="module", params=["tiny-blip-2", "tiny-blip", *HUB_MODELS])
def captioner(request, tiny):
    if request.param in tiny:
        return tiny[request.param]
    if Weights.find(request.param) is None:
        pytest.skip(f"the weights of {request.param} are not here")
    return BlipCaptioner(request.param)


@pytest.fixture(scope="module")
def blip2(tiny):
    return tiny["tiny-blip-2"]


def test_a_caption_depends_on_its_photo_alone(captioner, photos):
    alone, together = (results_in_blocks(captioner, photos, size) for size in (1, 4))
    same = [first == second for first, second in zip(alone, together, strict=True)]
    # In bf16 a near tie between words may be decided differently in a batch of another size.
    assert all(same) if captioner.placement.precision == "fp32" else sum(same) * 2 > len(same)
    reloaded = BlipCaptioner(captioner.name, placement=captioner.placement)
    assert together == results_in_blocks(reloaded, photos, 4)
    assert len({str(answer) for answer in together}) > 2


def test_faulty_captions_are_generated_again_or_failures(captioner, photos):
    answers = results_in_blocks(captioner, photos, 4)
    for answer in answers:
        if isinstance(answer, Failure):
            assert (answer.final, answer.reason[-7:]) == (True, "(twice)")
        else:
            assert caption_fault(answer.text) is None
    if captioner.provenance["model"] == "tiny-blip-2":
        greedy = captioner._generate(photos, captioner.greedy)
        loops = ["loops" in str(caption_fault(text)) for text in greedy]
        repaired = [answer for answer, loop in zip(answers, loops, strict=True) if loop]
        assert any(isinstance(answer, Answer) for answer in repaired)


def test_a_caption_that_is_useless_twice_fails_with_the_reason(blip2, photos, monkeypatch):
    monkeypatch.setattr(blip2, "_generate", lambda photos, options: ["a photo of"] * len(photos))
    failure = Failure("caption says nothing: a photo of (twice)")
    assert results_in_blocks(blip2, photos[:1], 1) == [failure]


def test_a_batch_that_exceeds_the_memory_is_halved(blip2, photos, monkeypatch):
    expected = results_in_blocks(blip2, photos, 7)
    generate, limit = blip2._model.generate, 2

    def generate_few(pixel_values, **options):
        if len(pixel_values) > limit:
            raise torch.OutOfMemoryError
        return generate(pixel_values=pixel_values, **options)

    monkeypatch.setattr(blip2._model, "generate", generate_few)
    assert results_in_blocks(blip2, photos, 7) == expected
    limit = 0
    with pytest.raises(ModelError, match="one photo exceeds the memory"):
        results_in_blocks(blip2, photos, 7)


def test_bf16_gives_similar_captions_under_another_key(blip2, photos):
    fast = BlipCaptioner(blip2.name, placement=Placement("cpu", "bf16"))
    assert blip2.provenance != fast.provenance
    pairs = zip(results_in_blocks(blip2, photos, 7), results_in_blocks(fast, photos, 7), strict=True)
    assert sum(first == second for first, second in pairs) >= 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "processor_config.json").unlink(), "image processor.*; bring its files"),
        (lambda folder: (folder / "config.json").write_text("{"), "type unknown; blip-2 or blip is needed"),
        (lambda folder: edit_json(folder / "config.json", image_token_index=None), "transformers 4.46"),
        (tiny_chat_folder, "is a model of type llama; blip-2 or blip is needed"),
    ],
)
def test_a_folder_without_a_usable_model_is_an_error(blip2, photos, tmp_path, damage, message):
    folder = Path(shutil.copytree(blip2.name, tmp_path / "model"))
    damage(folder)
    with pytest.raises(ModelError, match=message) as error:
        results_in_blocks(BlipCaptioner(str(folder), placement=FP32), photos[:1], 1)
    assert str(folder) in str(error.value)
