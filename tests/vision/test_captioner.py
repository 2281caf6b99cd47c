"""Captioners by name, captions that say nothing, and the builtin captioner on known colours."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from mmrec.cache.store import Failure
from mmrec.config import Config, LanguageConfig, VisionConfig
from mmrec.errors import ConfigError, ModelError
from mmrec.llm.types import Answer
from mmrec.vision.captioner import LOCAL_CAPTIONERS, ColorCaptioner, open_captioner, vision_checks
from mmrec.vision.image_features import ImageEncoder
from mmrec.vision.openai_captioner import OpenAICaptioner
from mmrec.vision.types import caption_fault
from tiny_models import results_in_blocks, tiny_blip_folder, tiny_resnet_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def open_by_name(name, **vision):
    language = LanguageConfig(llm_price="1/2", in_flight=7)
    return open_captioner(Config(vision=VisionConfig(captioner=name, **vision), language=language))


def put_in_cache(cache, name, folder):
    """A model as the hub's cache holds it."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, home / "snapshots" / COMMIT))


def test_models_in_the_hubs_cache_are_found_by_name_and_pinned_by_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    encoder = ImageEncoder(VisionConfig().image_model)
    assert not encoder.available()
    states = {subject: state for subject, (state, _) in vision_checks().items()}
    assert [*states] == ["captions", "captions by blip2", "captions by blip", "image baseline"]
    assert [*states.values()] == ["ok", "missing", "missing", "missing"]
    tiny_blip = tiny_blip_folder(tmp_path / "blip")
    put_in_cache(tmp_path / "hub", "Salesforce/blip-image-captioning-base", tiny_blip)
    incomplete = put_in_cache(tmp_path / "hub", "Salesforce/blip2-opt-2.7b", tiny_blip)
    (incomplete / "model.safetensors").unlink()
    put_in_cache(tmp_path / "hub", "microsoft/resnet-50", tiny_resnet_folder(tmp_path / "resnet"))
    captioner = open_by_name("blip")
    assert captioner.provenance["revision"] == COMMIT
    (answer,) = results_in_blocks(captioner, [Image.new("RGB", (30, 20), "red")], 1)
    assert isinstance(answer, Answer | Failure)
    assert encoder.available()
    assert encoder.provenance["revision"] == COMMIT
    assert [state for state, _ in vision_checks().values()] == ["ok", "missing", "ok", "ok"]
    with pytest.raises(ModelError, match="hf download"):
        _ = open_by_name("blip", captioner_revision="f" * 40).provenance


def test_local_captioners_are_opened_by_name(monkeypatch):
    assert open_by_name("builtin").provenance["model"] == "builtin"
    assert open_by_name("blip2").name == "Salesforce/blip2-opt-2.7b"
    assert open_by_name("blip:a/b:c").name == "a/b:c"
    monkeypatch.setitem(LOCAL_CAPTIONERS, "mine", ("builtins:print", "my/model"))
    assert open_by_name("mine") is None  # the class was called
    with pytest.raises(ConfigError, match=r"mine\[:MODEL_OR_FOLDER\]"):
        open_by_name("yours")
    assert "captions by mine" in vision_checks()


def test_captioners_behind_http_are_opened_by_name():
    captioner = open_by_name("openai:Qwen/Qwen3-VL@http://gpu:8000/v1")
    assert isinstance(captioner, OpenAICaptioner)
    assert captioner.chunk_size == 1
    expected = {"kind": "caption", "provider": "server", "model": "Qwen/Qwen3-VL"}
    assert expected.items() <= captioner.provenance.items()
    assert "gpu:8000" not in str(captioner.provenance)


@pytest.mark.parametrize("name", ["blip3", "openai:", "builtin:x", "", "openai"])
def test_other_names_are_an_error(name):
    with pytest.raises(ConfigError, match=r"no such captioner; there are builtin, blip2|name a model"):
        open_by_name(name)


GOOD = [
    "two cats sleeping on a couch",
    "sushi",
    "a photo of a bowl of ramen",
    "an image of the menu.",
    "a very very big pizza",
    "no no no, said the sign",
    "a man and a woman and a dog in front of a house and a car",
    "a bowl of soup, a bowl of rice and a bowl of salad on a table",
    "a plate of food with a plate of rice and a bowl of soup and a bowl of rice",
    "a sign that says 10000000",
    "une assiette de pâtes sur une table",
    "木桌上的一碗面条",
    "a group of people sitting at a table in a restaurant with food and drinks in front of them",
    "A dim, warm landscape photo, mostly black with red and touches of cream; few edges.",
]
FAULTS = {
    "empty": ["", " \n\t "],
    "no words": [".", "... !? -", "12 34"],
    "says nothing": ["a photo of", "A picture of a.", "an image of the", "this is a close up of", "the"],
    "control characters": ["a dog\x00 on a bench", "a dog � on a bench"],
    "special tokens": ["a dog </s>", "<pad><pad>", "<image> a dog", "[UNK] with a hat"],
    "loops": [
        *("food food food food", "a table table table table table", "a red and a red and a red and"),
        *("the bar, the bar, the bar", "hahahahahahahaha", "a dooooooooog"),
        "a plate with a fork and a plate with a fork and a knife",
        "a large room with a large table and a large table with a large table and a room",
        "one on the left of it, another on the left of it, more on the left of it",
    ],
    "too long": ["words " * 200],
}
FAULTY = [(caption, kind) for kind, captions in FAULTS.items() for caption in captions]


@pytest.mark.parametrize(("caption", "kind"), [*((caption, None) for caption in GOOD), *FAULTY])
def test_captions_that_say_nothing_have_a_fault(caption, kind):
    fault = caption_fault(caption)
    if kind is None:
        assert fault is None
    else:
        assert kind in fault
        assert len(fault) < 120


def describe(*photos):
    return [answer.text for answer in results_in_blocks(ColorCaptioner(), photos, 7)]


def bands(*colors, height=100):
    """A photo of vertical bands, each of a colour and a width."""
    columns = [np.full((height, width, 3), ImageColor.getrgb(color), np.uint8) for color, width in colors]
    return Image.fromarray(np.concatenate(columns, axis=1))


@pytest.mark.parametrize(
    ("caption", "colors"),
    [
        ("A very bright photo, mostly white with red.", [("white", 80), ("#e01818", 20)]),
        ("A dark photo, mostly black with a touch of red.", [("black", 90), ("#e01818", 10)]),
        ("A very bright photo, almost all white.", [("white", 99), ("#e01818", 1)]),
        ("A bright photo, blue with white and orange.", [("#1c60c8", 45), ("white", 30), ("#f07818", 25)]),
        (
            "A dim photo, mostly black with white and a touch of orange.",
            [("black", 60), ("white", 20), ("#f07818", 12), ("#1c60c8", 8)],
        ),
    ],
)
def test_colours_are_named_by_their_share_of_the_photo(caption, colors):
    assert describe(bands(*colors)) == [caption]


SAME = ["black", "white", "red", "blue", "yellow", "grey", "orange", "pink", "purple", "olive"]
WEB_COLORS = dict(zip(SAME, SAME, strict=True))
WEB_COLORS |= {"lime": "green", "saddlebrown": "brown", "navy": "dark blue", "darkgreen": "dark green"}
WEB_COLORS |= {"skyblue": "light blue", "#fffdd0": "cream"}


def test_web_colours_have_their_common_names():
    for size in [(1, 1), (64, 64), (200, 199), (3000, 1)]:
        captions = describe(*(Image.new("RGB", size, color) for color in WEB_COLORS))
        names = [caption.rpartition(" photo, almost all ")[2] for caption in captions]
        assert names == [f"{name}." for name in WEB_COLORS.values()]


def test_brightness_is_the_mean_lightness():
    captions = describe(*(Image.new("L", (50, 50), level) for level in (20, 70, 120, 180, 240)))
    words = ["dark", "dim", "balanced", "bright", "very bright"]
    assert [re.match("A (.*?) photo, ", caption)[1] for caption in captions] == words


def test_a_color_caption_depends_on_the_pixels_alone(photos):
    before = [photo.tobytes() for photo in photos]
    captions = describe(*photos)
    assert captions == [describe(photo.copy())[0] for photo in photos]
    assert captions[::-1] == describe(*photos[::-1])
    assert [photo.tobytes() for photo in photos] == before
    gray = Image.fromarray(np.tile(np.linspace(0, 255, 160).astype(np.uint8), (120, 1)))
    assert len({*describe(gray, gray.convert("RGB"), gray.convert("RGBA"), gray.convert("P"))}) == 1


def test_slight_noise_changes_nothing_and_other_colours_do():
    photo = bands(("#f07818", 70), ("#1e3820", 30))
    grain = np.random.default_rng(5).integers(-6, 7, (100, 100, 3))
    grainy = Image.fromarray((np.asarray(photo) + grain).clip(0, 255).astype(np.uint8))
    assert len({*describe(photo, grainy)}) == 1
    colors = ["#e01818", "#1c60c8", "#1e8c28", "#f07818", "white", "black"]
    pairs = [bands((first, 70), (second, 30)) for first, second in itertools.permutations(colors, 2)]
    assert len({*describe(*pairs)}) == len(pairs)
