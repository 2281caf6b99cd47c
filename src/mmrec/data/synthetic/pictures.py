"""Photos of the synthetic city, drawn with Pillow: rooms, and dishes seen from above.

Colours and light follow the scene, so that a captioner that knows only colours has something true to
report. Positions and sizes are pixels of the finished photo from its middle, x to the right and y
down; sizes reach from the middle of a shape to its edge. A colour is one that Pillow knows, or several
with blanks between, of which each shape draws one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partialmethod

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageEnhance, ImageFilter

__all__ = ["SCENES", "draw_photo"]

_SCALE = 2  # Pillow's shapes have hard edges, so photos are drawn larger and then reduced

Floats = npt.NDArray[np.float64]
_Places = Iterator[tuple[float, float, float]]  # positions x and y, and angles in degrees


class Outline:
    """Corners (k, 2) of shapes, in -1..1."""

    _turn = np.linspace(0, 2 * np.pi, 41)[:-1]
    oval = np.stack([np.cos(_turn), np.sin(_turn)], axis=1)
    leaf = oval * np.stack([np.ones(40), abs(oval[:, 1])], axis=1)
    box = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    rounded = oval / abs(oval).max(axis=1, keepdims=True) ** 0.9
    strand = np.concatenate([oval[:21], 0.88 * oval[20::-1]])


class Canvas:
    """A picture being drawn, and a mask of what its topmost layer covers."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = Image.new("RGB", (256 * _SCALE, 192 * _SCALE))
        self.mask = Image.new("L", self.image.size)

    def choose(self, colors: str) -> str:
        """Return one of the colours."""
        names = colors.split()
        return names[int(self.rng.integers(len(names)))]

    def shape(
        self, form: Floats, x: float, y: float, w: float, h: float, color: str, turn: float = 0
    ) -> None:
        """Fill an outline, turned clockwise by degrees; an opaque one has a darker lower edge."""
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        matrix = np.array([[w * cos, w * sin], [-h * sin, h * cos]])
        corners = ((form @ matrix + (x + 128, y + 96)) * _SCALE).ravel().tolist()
        red, green, blue, alpha = (*ImageColor.getrgb(self.choose(color)), 255)[:4]
        if alpha < 255:  # blending is slow, so opaque shapes are not blended
            ImageDraw.Draw(self.image, "RGBA").polygon(corners, (red, green, blue, alpha))
            return
        ImageDraw.Draw(self.mask).polygon(corners, 255)
        draw = ImageDraw.Draw(self.image)
        draw.polygon(corners, (red * 3 // 4, green * 3 // 4, blue * 3 // 4))
        corners[1::2] = [down - _SCALE for down in corners[1::2]]
        draw.polygon(corners, (red, green, blue))

    oval = partialmethod(shape, Outline.oval)
    leaf = partialmethod(shape, Outline.leaf)
    box = partialmethod(shape, Outline.box)
    rounded = partialmethod(shape, Outline.rounded)

    def strew(self, form: Floats, places: _Places, width: float, height: float, color: str) -> None:
        """Fill an outline at many places."""
        for x, y, turn in places:
            self.shape(form, x, y, width, height, color, turn)

    def ring(self, count: int, x: float, y: float, radius: float) -> _Places:
        """Yield places on a circle, turned outwards."""
        for step in range(count):
            turn = 2 * math.pi * step / count
            yield x + radius * math.cos(turn), y + radius * math.sin(turn), math.degrees(turn)

    def scatter(self, count: int, x: float, y: float, radius: float) -> _Places:
        """Yield places spread evenly over a disc, turned at random."""
        for share, direction, angle in self.rng.random((count, 3)).tolist():
            # The root, because the area grows with the square of the distance.
            distance, turn = radius * math.sqrt(share), 2 * math.pi * direction
            yield x + distance * math.cos(turn), y + distance * math.sin(turn), 360 * angle

    def glow(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Draw soft light, or soft darkness, on what is there."""
        left, top = (x - width + 128) * _SCALE, (y - height + 96) * _SCALE
        red, green, blue, alpha = (*ImageColor.getrgb(color), 255)[:4]
        fading = [max(0, 180 - distance) * alpha // 255 for distance in range(256)]
        light = Image.radial_gradient("L").point(fading)
        size = int(2 * width * _SCALE), int(2 * height * _SCALE)
        self.image.paste((red, green, blue), (int(left), int(top)), light.resize(size))

    @contextmanager
    def raised(self, height: int, angle: float = 0) -> Iterator[None]:
        """Draw into a layer that is turned and throws a shadow on what was drawn before."""
        below, below_mask = self.image, self.mask
        self.image, self.mask = below.copy(), Image.new("L", below.size)
        yield
        layer, mask = self.image.rotate(angle), self.mask.rotate(angle)
        shadow = mask.reduce(4).filter(ImageFilter.BoxBlur(height / 4))
        shadow = shadow.point([shade * 3 // 5 for shade in range(256)])
        shadow = shadow.resize(mask.size, Image.Resampling.BILINEAR)
        box = shadow.getbbox() or (0, 0, 1, 1)  # the rest has not changed
        below.paste("black", (box[0] + height, box[1] + height), shadow.crop(box))
        below.paste(layer.crop(box), box, mask.crop(box))
        below_mask.paste(255, box, mask.crop(box))
        self.image, self.mask = below, below_mask


class Table(Canvas):
    """A dish on checked cloth, wood, slate or linen, as the price level says; see the methods."""

    def __init__(self, rng: np.random.Generator, price_level: int, dish: str) -> None:
        super().__init__(rng)
        self.box(0, 0, 130, 99, ("#eed", "#a74 #b85 #853", "#445", "#eee")[price_level - 1])
        if price_level == 1:
            check = self.choose("#d545 #58c5 #5a65 #da45")
            for line in range(-128, 129, 32):
                self.box(line, 0, 8, 99, check)
                self.box(0, line, 130, 8, check)
        elif price_level == 2:
            for y in range(-90, 96, 16):
                self.box(0, y, 130, 0.6, "#4216 #4213")
        else:
            self.glow(-80, -60, 110, 80, "#889" if price_level == 3 else "#fc7")
        with self.raised(3):  # a spoon
            self.rounded(-116, 14, 1.7, 44, "#ccc")
            self.oval(-116, -36, 6, 11, "#ccc")
        with self.raised(6, angle=float(rng.normal(0, 5))):
            getattr(self, f"_{dish}")()

    def _herbs(self, count: int, x: float, y: float, radius: float) -> None:
        places = self.scatter(count, x, y, radius)
        self.strew(Outline.leaf, places, 6, 3, "#584 #7a4 #473 #8c5")

    def _plate(self, colors: str) -> None:
        color = self.choose(colors)
        self.oval(0, 0, 85, 85, color)
        self.oval(0, 0, 66, 66, "#0001")
        self.oval(0, 1, 64, 64, color)

    def _bowl(self, x: float, y: float, radius: float, rims: str, fillings: str) -> None:
        with self.raised(4):
            self.oval(x, y, radius, radius, rims)
            self.oval(x, y, 0.9 * radius, 0.9 * radius, "#0003")
            self.oval(x, y + 1, 0.85 * radius, 0.85 * radius, fillings)

    def _meat(self, x: float, y: float, color: str) -> None:
        for step in range(0, 40, 10):
            with self.raised(2):
                self.oval(x + step, y + step / 2, 18, 16, color)
                self.oval(x + step, y + step / 2, 13, 11, "#fff3")

    def _curry(self) -> None:
        self._bowl(-30, 0, 68, "#b73 #322 #eed", "#d82 #c52 #793 #da3")
        self.strew(Outline.rounded, self.scatter(13, -30, 0, 44), 10, 8, "#c84 #842")
        self._herbs(18, -30, 0, 40)
        self._bowl(82, 24, 42, "white", "#f5f5ee")
        self.strew(Outline.leaf, self.scatter(80, 82, 24, 31), 5, 2, "#eed white")

    def _dessert(self) -> None:
        self._plate("white #edd #dee")
        sponge, cream = self.choose("#c84 #742 #eb7"), self.choose("#fed #fbc #532 #cd9")
        with self.raised(5):
            self.box(0, 8, 46, 32, sponge)
            for y, height in ((-24, 8), (-2, 4), (18, 4)):
                self.box(0, y, 46, height, cream)
            for x in (-30, -10, 10, 30):
                self.oval(x, -35, 9, 9, "#c24 #438 #d45")

    def _mezze(self) -> None:
        self._plate("#ccc white #a74")
        fillings = ("#d82", "#793", "#a32", "#eec", "#642")
        for (x, y, _), filling in zip(self.ring(5, 0, 0, 55), fillings, strict=True):
            self._bowl(x, y, 24, "white #765 #321", filling)
            self._herbs(5, x, y, 9)
        with self.raised(3):
            self.oval(0, 2, 28, 25, "#db8")
        self.strew(Outline.oval, self.scatter(12, 0, 2, 18), 3, 2, "#b84")

    def _noodles(self) -> None:
        self._bowl(0, 0, 82, "#235 #a33 #eee #333", "#c84 #a52 #db6")
        self.strew(Outline.strand, self.scatter(120, 0, 0, 48), 17, 17, "#ed9 #ec7 #feb")
        for x in (-36, -4):
            self.oval(x, -34, 17, 16, "white")
            self.oval(x, -34, 8, 8, "#ea2")
        self._meat(12, 8, "#b76")
        self._herbs(34, -16, 36, 20)

    def _pasta(self) -> None:
        self._plate("white")
        with self.raised(3):
            self.strew(Outline.strand, self.scatter(170, 0, 0, 40), 18, 18, "#ec7 #eb5 #fd9")
        self.strew(
            Outline.oval, self.scatter(24, 0, 0, 23), 10, 9, self.choose("#b32 #832 #683 #edb")
        )
        self.strew(Outline.leaf, self.ring(3, 0, 0, 11), 11, 5, "#483")

    def _pizza(self) -> None:
        self.oval(0, 0, 86, 86, "#c84")
        self.oval(0, 0, 76, 76, "#c42")
        self.strew(Outline.oval, self.scatter(44, 0, 0, 65), 11, 10, "#fda #feb")
        self.strew(Outline.oval, self.scatter(14, 0, 0, 60), 8, 8, "#a22")
        self._herbs(22, 0, 0, 62)
        self.strew(Outline.box, self.ring(3, 0, 0, 0), 86, 0.7, "#531")

    def _salad(self) -> None:
        self._bowl(0, 0, 84, "#b85 #eee #787", "#dec")
        self.strew(Outline.leaf, self.scatter(120, 0, 0, 60), 15, 7, "#584 #7a4 #9c6 #746")
        for x, y, _ in self.scatter(16, 0, 0, 52):
            self.oval(x, y, 10, 10, "#d32 #8b7")
            self.oval(x, y, 7.5, 7.5, "#efe")

    def _steak(self) -> None:
        self._plate("white")
        self.oval(-22, 6, 38, 50, "#732 #da3 #673 #a43", 20)
        self._meat(-28, 0, self.choose("#742 #c84 #532 #d97"))
        self.strew(Outline.oval, self.scatter(18, 24, -36, 18), 9, 8, "#ed8 #ec6")
        for step in range(6):
            self.leaf(24 + 2 * step, 34 + 5 * step, 24, 3.5, "#584 #e73 #7a4", -10)


class Room(Canvas):
    """A dining room with two tables; its floor begins 22 below the middle."""

    def __init__(
        self, rng: np.random.Generator, colors: Sequence[str], things: dict[str, list[int]]
    ) -> None:
        super().__init__(rng)
        wall, floor, wood, seats = colors
        self.box(0, -40, 130, 70, wall)
        self.glow(30, -70, 150, 90, "#fff6")
        self.box(0, 70, 130, 48, floor)
        # Gaps between boards, towards a point behind the wall.
        for x in range(-280, 281, 35):
            gap = np.array([[0.25 * x, 22], [x - 1, 98], [x + 1, 98]])
            self.shape(gap, 0, 0, 1, 1, "#0003")
        for thing, places in things.items():
            for x in places:
                getattr(self, f"_{thing}")(x)
        self.box(0, 23, 130, 2, wood)
        for x, y, size in ((-58, 42, 0.8), (54, 62, 1.1)):
            self.glow(x, y + 30 * size, 54 * size, 16 * size, "black")
            for side in (-45, 45):
                for leg in (side - 8, side + 8):
                    self.box(x + leg * size, y + 22 * size, 1.5 * size, 14 * size, "#222")
                self.rounded(x + side * size, y, 10 * size, 18 * size, seats)
            self.box(x, y + 20 * size, 3 * size, 18 * size, "#333")
            self.oval(x, y, 35 * size, 9 * size, wood)
            for side in (-16, 16):
                self.oval(x + side * size, y - 1, 9 * size, 3 * size, "#ffe")
                self.oval(x + side * size, y - 2, 5 * size, 1.6 * size, "#c52 #7a5")
            self.rounded(x, y - 7 * size, 1.8 * size, 7 * size, "#fed #6a5 #c43 #8bd")

    def _arch(self, x: float) -> None:
        for width, color in ((23, "#ffe"), (18, "#532")):
            self.oval(x, -28, width, width, color)
            self.box(x, -3, width, 26, color)

    def _bottles(self, x: float) -> None:
        self.glow(x, -30, 130, 70, "#d83")
        for shelf in (-26, 10):
            self.box(x, shelf, 114, 2, "#853")
            for across in range(-108, 109, 9):
                self.box(x + across, shelf - 19, 1.2, 4, "#cb9")
                self.rounded(x + across, shelf - 10, 3.4, 8, "#463 #a62 #ca6 #732 #468 #dcb")

    def _lamp(self, x: float) -> None:
        color = self.choose("#e52 #ea2 #fd8")
        self.box(x, -82, 0.6, 16, "#211")
        self.glow(x, -64, 44, 44, color)
        self.oval(x, -64, 14, 12, color)
        self.oval(x, -64, 6, 11, "#fec")

    def _plant(self, x: float) -> None:
        self.strew(Outline.leaf, self.ring(15, x, -14, 18), 19, 5, "#474 #594 #363 #7b5")
        self.rounded(x, 14, 12, 13, "#b64")

    def _view(self, x: float, width: float = 104) -> None:
        self.box(x, -36, width, 50, "white")
        self.box(x, -36, width - 4, 46, "#7be #9ce #fc9")
        self.glow(x, 8, width - 4, 46, "#fec")
        self.box(x, 0, width - 4, 11, "#27b #695")

    def _window(self, x: float) -> None:
        self._view(x, 38)
        self.box(x, -36, 1.4, 48, "white")
        self.box(x, -48, 36, 1.4, "white")


# Colours of wall, floor, wood and seats; things, which are methods of `Room`, with the x of each.
_ROOMS: dict[str, tuple[Sequence[str], dict[str, list[int]]]] = {
    "trattoria": (("#da7 #d96", "#853", "#642", "#a33"), {"arch": [-106, -46], "plant": [52]}),
    "fine": (("#433 #234", "#322", "#ccb", "#523"), {"plant": [-98], "lamp": [-40, 0, 40]}),
    "terrace": (("#eee", "#ca7", "#753", "#476"), {"view": [0], "plant": [-94, 94]}),
    "cantina": (("#e73 #399", "#a64", "#da3", "#277"), {"arch": [-92], "plant": [-32, 60]}),
    "lanterns": (("#612 #412", "#311", "#211", "#822"), {"lamp": [-96, -48, 0, 48, 96]}),
    "zen": (("#eec #edc", "#ca6", "#974", "#554"), {"window": [0], "lamp": [-66, 66]}),
    "bar": (("#211 #122", "#111", "#421", "#521"), {"bottles": [0], "lamp": [-78, 0, 78]}),
    "canteen": (("#bcb #bbc", "#898", "#ba9", "#788"), {"window": [-72, 72]}),
    "garden": (("#cec #bdb", "#b86", "#863", "#584"), {"window": [62], "plant": [-80, -24]}),
    "saffron": (("#b72 #725", "#622", "#421", "#266"), {"arch": [-96, 96], "lamp": [-40, 40]}),
    "diner": (("#8cc #ace", "#eee", "#ddd", "#c33"), {"window": [-72, 10], "lamp": [84]}),
    "cafe": (("#ffe #fee", "#db8", "#c96", "#eed"), {"window": [-66], "plant": [66]}),
    "aegean": (("#fff #eef", "#dee", "#26a", "#37c"), {"view": [0], "arch": [70]}),
}
SCENES = (*_ROOMS, *("curry", "dessert", "mezze", "noodles", "pasta", "pizza", "salad", "steak"))
"""What `draw_photo` can draw: rooms, then dishes."""


def draw_photo(
    scene: str, price_level: int, ambience: int, rng: np.random.Generator
) -> Image.Image:
    """Draw a photo of one of the `SCENES`, 256 x 192 pixels.

    Args:
        price_level: 1..4; sets the table that a dish stands on.
        ambience: -1 grey and flat light, 0 plain, 1 warm and rich.
    """
    canvas = Room(rng, *_ROOMS[scene]) if scene in _ROOMS else Table(rng, price_level, scene)
    saturation, light = {-1: (0.55, 0.9), 0: (0.95, 1.0), 1: (1.15, 1.0)}[ambience]
    photo = ImageEnhance.Color(canvas.image.reduce(_SCALE)).enhance(saturation)
    if rng.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    y, x = np.mgrid[-1:1:192j, -1:1:256j]
    vignette = light * (1 - 0.13 * (x**2 + y**2))
    grain = 2 * rng.standard_normal((192, 256))
    pixels = np.asarray(photo) * vignette[..., None] + grain[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
