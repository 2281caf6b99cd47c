"""The palette captioner on drawn pictures whose description is known."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmrec.vision.color_captioner import ColorCaptioner
from mmrec.vision.types import Captioner

SIZE = (160, 120)


def captions(photos: list[Image.Image]) -> list[str]:
    numbered = list(enumerate(photos))
    said = dict(ColorCaptioner().caption(iter([numbered[:7], numbered[7:]])))
    return [said[number].text for number, _ in numbered]


def caption(photo: Image.Image) -> str:
    return captions([photo])[0]


def drawn(kind: str, box: tuple[int, int, int, int], ink: str, ground: str, size=SIZE) -> Image.Image:
    photo = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(photo)
    (draw.ellipse if kind == "round" else draw.rectangle)(box, fill=ink)
    return photo


def gray(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.repeat(values.astype(np.uint8)[..., None], 3, axis=2))


def noise(seed: int, size=SIZE) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.NEAREST)


def test_fits_the_protocol_and_names_its_maker():
    captioner: Captioner = ColorCaptioner()
    assert captioner.provenance == {"kind": "caption", "model": "builtin", "revision": "2"}
    assert list(captioner.caption(iter([]))) == []
    assert captioner.status() == ""


def test_red_square_on_white():
    said = caption(drawn("square", (50, 30, 109, 89), "#e01818", "white"))
    assert "mostly white with red;" in said
    assert "red square shape in the middle, plain background, few edges, symmetric" in said
    assert "bright" in said
    assert "landscape" in said


def test_a_speck_is_no_colour_and_no_shape():
    said = caption(drawn("square", (20, 20, 30, 30), "#e01818", "white"))
    assert "photo, almost all white with hardly any other colour; colours spread evenly, few edges" in said


def test_dark_frame_with_bright_centre():
    said = caption(drawn("square", (40, 30, 119, 89), "#f0e6c8", "#0a0a0a"))
    assert "mostly black with cream;" in said
    assert "cream rectangular shape in the middle, plain background" in said
    assert "high-contrast" in said


@pytest.mark.parametrize("size", [(160, 120), (120, 160), (400, 120)])
def test_a_disc_is_round_in_every_format(size):
    x, y = size[0] // 2, size[1] // 2
    assert "white round shape in the middle" in caption(
        drawn("round", (x - 45, y - 45, x + 45, y + 45), "white", "#3c2618", size)
    )


def test_an_ellipse_is_oval_and_a_triangle_is_neither():
    assert "oval shape" in caption(drawn("round", (20, 40, 140, 80), "white", "black"))
    photo = Image.new("RGB", SIZE)
    ImageDraw.Draw(photo).polygon([(80, 20), (130, 100), (30, 100)], fill="white")
    assert "white shape in the middle" in caption(photo)


def test_a_ring_counts_as_a_round_shape():
    photo = drawn("round", (35, 15, 125, 105), "white", "#3c2618")
    ImageDraw.Draw(photo).ellipse((50, 30, 110, 90), fill="#3c2618")
    assert "white round shape in the middle" in caption(photo)


@pytest.mark.parametrize(
    ("corner", "place"),
    [
        ((8, 8), "at top left"),
        ((60, 8), "at the top"),
        ((112, 80), "at bottom right"),
        ((8, 44), "on the left"),
        ((112, 44), "on the right"),
        ((60, 44), "in the middle"),
    ],
)
def test_where_the_shape_is(corner, place):
    x, y = corner
    assert f"blue square shape {place}," in caption(
        drawn("square", (x, y, x + 31, y + 31), "#1c60c8", "white")
    )


def test_black_and_white_gradient():
    ramp = np.tile(np.linspace(0, 255, 160), (120, 1))
    right, down = caption(gray(ramp)), caption(gray(ramp.T))
    assert "black-and-white landscape" in right
    assert re.search("(black|dark grey) left, (light grey|white) right, few edges", right)
    assert "black-and-white portrait" in down
    assert re.search("(black|dark grey) above, (light grey|white) below, few edges", down)
    assert re.search("(light grey|white) left, (black|dark grey) right", caption(gray(ramp[:, ::-1])))


def test_bands():
    stripes = np.where(np.arange(120)[:, None] // 24 % 2 == 0, 230, 30) * np.ones((1, 160))
    assert "horizontal bands of light" in caption(gray(stripes))
    assert "vertical bands of light" in caption(gray(stripes.T))


def test_a_vignette_is_told_by_its_centre():
    y, x = np.mgrid[-1:1:120j, -1:1:160j]
    radius = np.hypot(x, y)
    speckle = np.random.default_rng(0).choice([-30, 30], (12, 16)).repeat(10, 0).repeat(10, 1)
    assert "bright centre on a dark ground" in caption(gray((190 - 110 * radius + speckle).clip(0, 255)))
    assert "dark centre on a bright ground" in caption(gray((40 + 110 * radius + speckle).clip(0, 255)))
    assert "brightest in the middle" in caption(gray((250 - 70 * radius + speckle).clip(0, 255)))
    assert "darkest in the middle" in caption(gray((140 + 70 * radius + speckle).clip(0, 255)))


def test_sky_over_sand():
    said = caption(drawn("square", (0, 60, 160, 120), "#c8a070", "#80bff0"))
    assert "light blue above, tan below" in said


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ("#000000", "black"),
        ("#ffffff", "white"),
        ("#ff0000", "red"),
        ("#0000ff", "blue"),
        ("#00ff00", "green"),
        ("#ffff00", "yellow"),
        ("#808080", "grey"),
        ("#8b4513", "brown"),
        ("#ffa500", "orange"),
        ("#ffc0cb", "pink"),
        ("#800080", "purple"),
        ("#000080", "dark blue"),
        ("#006400", "dark green"),
        ("#87ceeb", "light blue"),
        ("#fffdd0", "cream"),
        ("#808000", "olive"),
    ],
)
def test_one_flat_colour_by_its_common_name(colour, name):
    for size in [(1, 1), (64, 64), (200, 199)]:
        assert f"square photo, all {name}; one flat colour, no edges" in caption(
            Image.new("RGB", size, colour)
        )


def test_warm_cool_vivid_and_muted():
    pairs = {
        "warm, vivid": ("#f07818", "#b41a1e"),
        "cool, vivid": ("#0000ff", "#1c60c8"),
        "warm, muted": ("#a09070", "#807050"),
        "cool, muted": ("#708090", "#506070"),
    }
    for words, (ink, ground) in pairs.items():
        assert words in caption(drawn("square", (50, 30, 110, 90), ink, ground))


@pytest.mark.parametrize(
    ("size", "word"),
    [
        ((100, 300), "tall"),
        ((100, 150), "portrait"),
        ((100, 100), "square"),
        ((150, 100), "landscape"),
        ((300, 100), "panoramic"),
        ((3000, 1), "panoramic"),
        ((1, 3000), "tall"),
    ],
)
def test_format(size, word):
    assert f" {word} photo" in caption(noise(1, size))


def test_edges_make_it_busy():
    rng = np.random.default_rng(0)
    assert "very busy" in caption(gray(rng.integers(0, 256, (64, 64))))


def test_same_pixels_same_words_alone_or_in_a_batch():
    photos = [noise(seed) for seed in range(20)]
    together = captions(photos)
    assert together == [caption(photo.copy()) for photo in photos]
    assert together == captions(photos)
    assert together[::-1] == captions(photos[::-1])


def test_a_photo_is_left_as_it_was():
    photo = noise(3)
    before = photo.tobytes()
    caption(photo)
    assert photo.tobytes() == before


def test_other_modes_are_read_as_rgb():
    photo = gray(np.tile(np.linspace(0, 255, 160), (120, 1)))
    assert caption(photo.convert("L")) == caption(photo) == caption(photo.convert("RGBA"))


def test_slight_noise_barely_changes_the_words_and_another_picture_does():
    photo = drawn("round", (40, 20, 120, 100), "#f07818", "#1e3820")
    rng = np.random.default_rng(5)
    grain = np.asarray(photo).astype(int) + rng.integers(-6, 7, (120, 160, 3))
    again = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    first, second, other = captions([photo, again, noise(2)])
    words = [
        set(said.strip(".").replace(",", "").replace(";", "").split()) for said in (first, second, other)
    ]
    assert len(words[0] ^ words[1]) <= 2
    assert len(words[0] ^ words[2]) >= 8


def test_length_and_form_of_a_caption():
    photos = [noise(seed, (60 + seed, 90)) for seed in range(60)]
    photos += [drawn("square", (5, 5, 5 + k, 5 + k), "white", "#0c1450") for k in range(1, 110, 6)]
    for said in captions(photos):
        assert 12 <= len(said.split()) <= 30, said
        assert said.startswith("A ")
        assert said.endswith(".")


def test_different_pictures_read_differently():
    colours = ["#e01818", "#1c60c8", "#1e8c28", "#f07818", "white", "black"]
    boxes = [(10, 10, 40, 40), (50, 30, 110, 90), (20, 40, 140, 80)]
    photos = [
        drawn(kind, box, ink, ground)
        for ink, ground in itertools.permutations(colours, 2)
        for box in boxes
        for kind in ("round", "square")
    ]
    assert len(set(captions(photos))) == len(photos)
