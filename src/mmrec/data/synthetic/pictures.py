"""Photos of the synthetic city, drawn with Pillow: rooms, and dishes seen from above.

`scenes.json` lists what is drawn, step by step: see `_Canvas.draw`. Positions and sizes are pixels of
the finished photo from its middle, x to the right and y down; sizes reach from the middle of a shape to
its edge. A colour is one that Pillow knows, several of which each shape draws one, or of the palette.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageEnhance, ImageFilter

_SCALE = 2  # Pillow's shapes have hard edges, so photos are drawn larger and then reduced
_TABLES: dict[str, Any] = json.loads(
    (files("mmrec.data.synthetic") / "scenes.json").read_text(encoding="utf-8")
)
SCENES = (*_TABLES["rooms"], *_TABLES["dishes"])  # that `draw_photo` can draw

_Places = Iterator[tuple[float, float, float]]  # positions x and y, and angles in degrees

_TURN = np.linspace(0, 2 * np.pi, 41)[:-1]
_OVAL = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_OUTLINES = {  # corners (k, 2) of shapes, in -1..1
    "oval": _OVAL,
    "leaf": _OVAL * np.stack([np.ones(40), abs(_OVAL[:, 1])], axis=1),
    "box": np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]),
    "rounded": _OVAL / abs(_OVAL).max(axis=1, keepdims=True) ** 0.9,
    "strand": np.concatenate([_OVAL[:21], 0.88 * _OVAL[20::-1]]),
}


class _Canvas:
    """A picture being drawn, and a mask of what its topmost layer covers."""

    def __init__(self, rng: np.random.Generator, palette: dict[str, str]) -> None:
        self.rng = rng
        self.image = Image.new("RGB", (256 * _SCALE, 192 * _SCALE))
        self._mask = Image.new("L", self.image.size)
        self._palette = _TABLES["palette"] | palette

    def draw(
        self, steps: list[list[Any]], x: float = 0, y: float = 0, scale: float = 1, turn: float = 0
    ) -> None:
        """Draw steps at a position, each a list of a kind and its values:

        - an outline such as `oval`: x, y, width, height, colours, maybe degrees to turn clockwise;
        - `glow`: x, y, width, height, colour;
        - a group of `scenes.json`: x, y, and maybe a scale of all its sizes;
        - `ring`, `scatter`, `line`: values of the methods below, and steps to repeat at each place;
        - `raised`: height, and steps to draw with a shadow;
        - `pick`: a name for the palette, and colours, of which it gets one for the steps after it.
        """
        for kind, *values in steps:
            if kind == "pick":
                self._palette[values[0]] = self._color(values[1])
            elif kind == "raised":
                with self.raised(values[0]):
                    self.draw(values[1], x, y, scale, turn)
            elif kind in ("ring", "scatter", "line"):
                for across, down, angle in getattr(self, f"_{kind}")(*values[:-1]):
                    self.draw(values[-1], x + scale * across, y + scale * down, scale, angle)
            elif kind in _TABLES["groups"]:
                across, down, *size = values
                group = _TABLES["groups"][kind]
                self.draw(group, x + scale * across, y + scale * down, scale * math.prod(size))
            else:
                across, down, width, height, color, *angle = values
                place = (x + scale * across, y + scale * down, scale * width, scale * height)
                if kind == "glow":
                    self._glow(*place, color)
                else:
                    self.fill(_OUTLINES[kind], *place, color, turn + sum(angle))

    def fill(
        self, form: np.ndarray, x: float, y: float, w: float, h: float, colors: str, turn: float
    ) -> None:
        """Fill an outline (k, 2); an opaque one has a darker lower edge."""
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        matrix = np.array([[w * cos, w * sin], [-h * sin, h * cos]])
        corners = ((form @ matrix + (x + 128, y + 96)) * _SCALE).ravel().tolist()
        red, green, blue, alpha = (*ImageColor.getrgb(self._color(colors)), 255)[:4]
        if alpha < 255:  # blending is slow, so opaque shapes are not blended
            ImageDraw.Draw(self.image, "RGBA").polygon(corners, (red, green, blue, alpha))
            return
        ImageDraw.Draw(self._mask).polygon(corners, 255)
        draw = ImageDraw.Draw(self.image)
        draw.polygon(corners, (red * 3 // 4, green * 3 // 4, blue * 3 // 4))
        corners[1::2] = [down - _SCALE for down in corners[1::2]]
        draw.polygon(corners, (red, green, blue))

    def _color(self, colors: str) -> str:
        names = self._palette.get(colors, colors).split()
        return names[int(self.rng.integers(len(names)))]

    def _ring(self, count: int, x: float, y: float, radius: float) -> _Places:
        for step in range(count):
            turn = 2 * math.pi * step / count
            yield x + radius * math.cos(turn), y + radius * math.sin(turn), math.degrees(turn)

    def _scatter(self, count: int, x: float, y: float, radius: float) -> _Places:
        for share, direction, angle in self.rng.random((count, 3)).tolist():
            distance, turn = radius * math.sqrt(share), 2 * math.pi * direction
            yield x + distance * math.cos(turn), y + distance * math.sin(turn), 360 * angle

    def _line(self, count: int, x: float, y: float, across: float, down: float) -> _Places:
        for step in range(count):
            yield x + step * across, y + step * down, 0

    def _glow(self, x: float, y: float, width: float, height: float, color: str) -> None:
        left, top = (x - width + 128) * _SCALE, (y - height + 96) * _SCALE
        red, green, blue, alpha = (*ImageColor.getrgb(self._color(color)), 255)[:4]
        fading = [max(0, 180 - distance) * alpha // 255 for distance in range(256)]
        light = Image.radial_gradient("L").point(fading)
        size = int(2 * width * _SCALE), int(2 * height * _SCALE)
        self.image.paste((red, green, blue), (int(left), int(top)), light.resize(size))

    @contextmanager
    def raised(self, height: int, angle: float = 0) -> Iterator[None]:
        """Draw into a layer that is turned and throws a shadow on what was drawn before."""
        below, below_mask = self.image, self._mask
        self.image, self._mask = below.copy(), Image.new("L", below.size)
        yield
        layer, mask = self.image.rotate(angle), self._mask.rotate(angle)
        shadow = mask.reduce(4).filter(ImageFilter.BoxBlur(height / 4))
        shadow = shadow.point([shade * 3 // 5 for shade in range(256)])
        shadow = shadow.resize(mask.size, Image.Resampling.BILINEAR)
        box = shadow.getbbox() or (0, 0, 1, 1)  # the rest has not changed
        below.paste("black", (box[0] + height, box[1] + height), shadow.crop(box))
        below.paste(layer.crop(box), box, mask.crop(box))
        below_mask.paste(255, box, mask.crop(box))
        self.image, self._mask = below, below_mask


def draw_photo(
    scene: str, price_level: int, ambience: int, rng: np.random.Generator
) -> Image.Image:
    """Draw one of the `SCENES`, 256 x 192 pixels; the light is flat (ambience -1), plain or warm (1)."""
    if scene in _TABLES["rooms"]:
        palette, *furniture = _TABLES["rooms"][scene]
        canvas = _Canvas(rng, palette)
        canvas.draw([["box", 0, -40, 130, 70, "wall"], ["glow", 30, -70, 150, 90, "#fff6"]])
        canvas.draw([["box", 0, 70, 130, 48, "floor"]])  # it begins 22 below the middle
        for x in range(-280, 281, 35):
            gap = np.array([[0.25 * x, 22], [x - 1, 98], [x + 1, 98]])
            canvas.fill(gap, 0, 0, 1, 1, "#0003", 0)
        canvas.draw([*furniture, ["box", 0, 23, 130, 2, "wood"]])
        canvas.draw([["table", -58, 42, 0.8], ["table", 54, 62, 1.1]])
    else:
        canvas = _Canvas(rng, {})
        canvas.draw(_TABLES["tables"][price_level - 1] + _TABLES["spoon"])
        with canvas.raised(6, angle=float(rng.normal(0, 5))):
            canvas.draw(_TABLES["dishes"][scene])
    saturation, light = {-1: (0.55, 0.9), 0: (0.95, 1.0), 1: (1.15, 1.0)}[ambience]
    photo = ImageEnhance.Color(canvas.image.reduce(_SCALE)).enhance(saturation)
    if rng.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    y, x = np.mgrid[-1:1:192j, -1:1:256j]
    vignette = light * (1 - 0.13 * (x**2 + y**2))
    grain = 2 * rng.standard_normal((192, 256))
    pixels = np.asarray(photo) * vignette[..., None] + grain[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
