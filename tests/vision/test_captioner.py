"""Captioners by name, captions that say nothing, and the builtin captioner on known colours."""

import re

import numpy as np
import pytest
from PIL import Image, ImageColor

from mmrec.config import Config, LanguageConfig, VisionConfig
from mmrec.encoder.weights import Weights
from mmrec.errors import ConfigError
from mmrec.vision import captioner as captioners
from mmrec.vision.captioner import ColorCaptioner, caption_fault, vision_checks
from mmrec.vision.image_features import ImageEncoder
from tiny_models import results_in_blocks


def open_by_name(name, **vision):
    language = LanguageConfig(llm_price="1/2", in_flight=7)
    return captioners.open_captioner(Config(vision=VisionConfig(captioner=name, **vision), language=language))


def test_doctor_says_which_weights_are_here(monkeypatch):
    here = {"Salesforce/blip-image-captioning-base"}
    monkeypatch.setattr(Weights, "find", lambda name, revision=None: name if name in here else None)
    encoder = ImageEncoder(VisionConfig().image_model)
    assert not encoder.available()
    states = {subject: state for subject, (state, _) in vision_checks().items()}
    assert [*states] == ["captions", "captions by blip2", "captions by blip", "image baseline"]
    assert [*states.values()] == ["ok", "missing", "ok", "missing"]
    here.add(encoder.name)
    assert encoder.available()
    assert vision_checks()["image baseline"][0] == "ok"


def test_local_captioners_are_opened_by_name(monkeypatch):
    assert open_by_name("builtin").provenance["model"] == "builtin"
    captioner = open_by_name("blip2", captioner_revision="mine")
    assert (captioner.name, captioner._revision) == ("Salesforce/blip2-opt-2.7b", "mine")
    assert open_by_name("blip:a/b:c").name == "a/b:c"
    monkeypatch.setitem(captioners.CAPTIONERS, "mine", ("builtins:print", "my/model"))
    assert open_by_name("mine") is None  # the class was called
    monkeypatch.setitem(captioners.CAPTIONERS, "plain", ("builtins:dict", None))
    assert open_by_name("plain") == {}  # without a model
    message = r"there are builtin, blip2.*mine\[:MODEL_OR_FOLDER\]|name a model"
    for name in ("blip3", "openai:", "builtin:x", "", "openai"):
        with pytest.raises(ConfigError, match=message):
            open_by_name(name)
    assert "captions by mine" in vision_checks()


def test_captioners_behind_http_are_opened_by_name():
    provenance = open_by_name("openai:Qwen/Qwen3-VL@http://gpu:8000/v1").provenance
    expected = {"kind": "caption", "provider": "server", "model": "Qwen/Qwen3-VL"}
    assert expected.items() <= provenance.items()
    assert "gpu:8000" not in str(provenance)


GOOD = ["sushi", "an image of the menu.", "a very very big pizza", "no no no, said the sign"]
GOOD += ["une assiette de pâtes", "木桌上的一碗面条", "a sign that says 10000000", "a photo of ramen"]
GOOD += ["a man and a woman and a dog in front of a house and a car"]
GOOD += ["a bowl of soup, a bowl of rice and a bowl of salad on a table"]
GOOD += ["a plate of food with a plate of rice and a bowl of soup and a bowl of rice"]
GOOD += ["a group of people sitting at a table in a restaurant with food and drinks in front of them"]
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


@pytest.mark.parametrize("kind", FAULTS)
def test_captions_that_say_nothing_have_a_fault(kind):
    faults = {caption: caption_fault(caption) for caption in FAULTS[kind]}
    assert [caption for caption, fault in faults.items() if kind not in fault or len(fault) > 120] == []
    assert [*map(caption_fault, GOOD)] == [None] * len(GOOD)


def describe(*photos):
    return [answer.text for answer in results_in_blocks(ColorCaptioner(), photos, 7)]


def bands(colors):
    """A photo of vertical bands, by their colours and widths."""
    columns = []
    for color, width in re.findall(r"(\S+) (\d+)", colors):
        columns.append(np.full((100, int(width), 3), ImageColor.getrgb(color), np.uint8))
    return Image.fromarray(np.concatenate(columns, axis=1))


BANDS = {
    "A very bright photo, mostly white with red.": "white 80, #e01818 20",
    "A dark photo, mostly black with a touch of red.": "black 90, #e01818 10",
    "A very bright photo, almost all white.": "white 99, #e01818 1",
    "A bright photo, blue with white and orange.": "#1c60c8 45, white 30, #f07818 25",
    "A dim photo, mostly black with white and a touch of orange.": "black 60, white 20, #f07818 12, blue 8",
}


def test_colours_are_named_by_their_share_of_the_photo():
    assert describe(*map(bands, BANDS.values())) == list(BANDS)


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
    levels = {"dark": 20, "dim": 70, "balanced": 120, "bright": 180, "very bright": 240}
    captions = describe(*(Image.new("L", (50, 50), level) for level in levels.values()))
    assert [re.match("A (.*?) photo, ", caption)[1] for caption in captions] == [*levels]


def test_a_color_caption_depends_on_the_pixels_alone(photos):
    captions = describe(*photos)
    assert captions == [describe(photo)[0] for photo in photos]
    gray = Image.fromarray(np.tile(np.linspace(0, 255, 160).astype(np.uint8), (120, 1)))
    assert len({*describe(gray, gray.convert("RGB"), gray.convert("RGBA"), gray.convert("P"))}) == 1


def test_slight_noise_changes_nothing():
    photo = bands("#f07818 70, #1e3820 30")
    grain = np.random.default_rng(5).integers(-6, 7, (100, 100, 3))
    grainy = Image.fromarray((np.asarray(photo) + grain).clip(0, 255).astype(np.uint8))
    assert len({*describe(photo, grainy)}) == 1
