"""The builtin captioner on drawn photos whose colours and brightness are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from mmrec.vision.captioner import Captioner
from mmrec.vision.color_captioner import ColorCaptioner


def describe(*photos: Image.Image) -> list[str]:
    """Captions of photos, which come in blocks of seven."""
    numbered = list(enumerate(photos))
    blocks = iter([numbered[start : start + 7] for start in range(0, len(numbered), 7)])
    answers = dict(ColorCaptioner().caption(blocks))
    return [answers[number].text for number, _ in numbered]


def bands(*colors: tuple[str, int], height: int = 100) -> Image.Image:
    """A photo of vertical bands, each of a colour and a width."""
    photo = Image.new("RGB", (sum(width for _, width in colors), height))
    left = 0
    for color, width in colors:
        photo.paste(color, (left, 0, left + width, height))
        left += width
    return photo


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((160, 120), Image.Resampling.NEAREST)


def test_it_fits_the_protocol() -> None:
    captioner: Captioner = ColorCaptioner()
    assert captioner.provenance == {"kind": "caption", "model": "builtin", "revision": "3"}
    assert list(captioner.caption(iter([]))) == []
    assert captioner.status() == ""


@pytest.mark.parametrize(
    ("photo", "caption"),
    [
        (bands(("white", 80), ("#e01818", 20)), "A very bright photo, mostly white with red."),
        (bands(("black", 90), ("#e01818", 10)), "A dark photo, mostly black with a touch of red."),
        (bands(("white", 99), ("#e01818", 1)), "A very bright photo, almost all white."),
        (
            bands(("#1c60c8", 45), ("white", 30), ("#f07818", 25)),
            "A bright photo, blue with white and orange.",
        ),
        (
            bands(("black", 60), ("white", 20), ("#f07818", 12), ("#1c60c8", 8)),
            "A dim photo, mostly black with white and a touch of orange.",
        ),
    ],
)
def test_colours_are_named_by_their_share_of_the_photo(photo: Image.Image, caption: str) -> None:
    assert describe(photo) == [caption]


WEB_COLORS = {
    **{"#000000": "black", "#ffffff": "white", "#ff0000": "red", "#0000ff": "blue", "#00ff00": "green"},
    **{"#ffff00": "yellow", "#808080": "grey", "#8b4513": "brown", "#ffa500": "orange", "#ffc0cb": "pink"},
    **{"#800080": "purple", "#000080": "dark blue", "#006400": "dark green", "#87ceeb": "light blue"},
    **{"#fffdd0": "cream", "#808000": "olive"},
}


@pytest.mark.parametrize(("color", "name"), WEB_COLORS.items())
def test_web_colours_have_their_common_names(color: str, name: str) -> None:
    photos = [Image.new("RGB", size, color) for size in [(1, 1), (64, 64), (200, 199), (3000, 1)]]
    captions = set(describe(*photos))
    assert len(captions) == 1
    assert captions.pop().endswith(f" photo, almost all {name}.")


@pytest.mark.parametrize(
    ("level", "word"), [(20, "dark"), (70, "dim"), (120, "balanced"), (180, "bright"), (240, "very bright")]
)
def test_brightness_is_the_mean_lightness(level: int, word: str) -> None:
    assert describe(Image.new("L", (50, 50), level))[0].startswith(f"A {word} photo, ")


def test_a_caption_depends_on_the_pixels_alone() -> None:
    photos = [noise(seed) for seed in range(20)]
    before = [photo.tobytes() for photo in photos]
    captions = describe(*photos)
    assert captions == [describe(photo.copy())[0] for photo in photos]
    assert captions[::-1] == describe(*photos[::-1])
    assert [photo.tobytes() for photo in photos] == before


def test_other_modes_are_read_as_rgb() -> None:
    photo = Image.fromarray(np.tile(np.linspace(0, 255, 160).astype(np.uint8), (120, 1)))
    captions = describe(photo, photo.convert("RGB"), photo.convert("RGBA"), photo.convert("P"))
    assert len(set(captions)) == 1


def test_slight_noise_changes_nothing_and_other_colours_do() -> None:
    photo = bands(("#f07818", 70), ("#1e3820", 30))
    grain = np.random.default_rng(5).integers(-6, 7, (100, 100, 3))
    grainy = Image.fromarray((np.asarray(photo) + grain).clip(0, 255).astype(np.uint8))
    assert len(set(describe(photo, grainy))) == 1
    colors = ["#e01818", "#1c60c8", "#1e8c28", "#f07818", "white", "black"]
    pairs = [bands((first, 70), (second, 30)) for first, second in itertools.permutations(colors, 2)]
    assert len(set(describe(*pairs))) == len(pairs)
