"""The canvas that photos of Sample City are drawn on: a few shapes and light, in colours by hex code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["HEIGHT", "SCALE", "WIDTH", "Canvas"]

WIDTH, HEIGHT = 256, 192
"""Pixels of a finished photo."""
SCALE = 2
"""Photos are drawn this much larger and then reduced, because Pillow's shapes have hard edges."""

AROUND = np.linspace(0, 2 * np.pi, 18)
Point = tuple[float, float]
RGB = tuple[int, int, int]


def rgb(color: str) -> RGB:
    """Red, green and blue in 0..255 of a colour such as `c94f3a`."""
    return int(color[:2], 16), int(color[2:4], 16), int(color[4:], 16)


@lru_cache(maxsize=64)
def _spot(size: int, strength: float) -> Image.Image:
    """A mask of size x size pixels that is bright in the middle and fades out."""
    small = (
        Image.radial_gradient("L").reduce(4).point(lambda value: int(max(0.0, 255 - value * 1.42) * strength))
    )
    return small.resize((size, size), Image.Resampling.BILINEAR)


class Canvas:
    """A photo in the making. Coordinates are pixels of the finished photo; colours are hex, as `c94f3a`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
        self._draw = ImageDraw.Draw(self.image)

    def gradient(self, top: float, bottom: float, above: str, below: str) -> None:
        """A band over the full width, from one colour down to another."""
        size = (WIDTH * SCALE, round((bottom - top) * SCALE))
        band = Image.composite(
            Image.new("RGB", size, rgb(below)),
            Image.new("RGB", size, rgb(above)),
            Image.linear_gradient("L").resize(size),
        )
        self.image.paste(band, (0, round(top * SCALE)))

    def rect(self, x: float, y: float, width: float, height: float, color: str, round_by: float = 0) -> None:
        """A rectangle from its upper left corner."""
        box = [x * SCALE, y * SCALE, (x + width) * SCALE, (y + height) * SCALE]
        self._draw.rounded_rectangle(box, round_by * SCALE, fill=rgb(color))

    def disc(self, x: float, y: float, rx: float, color: str, ry: float | None = None) -> None:
        """A disc or upright ellipse around its centre."""
        ry = rx if ry is None else ry
        self._draw.ellipse(
            [(x - rx) * SCALE, (y - ry) * SCALE, (x + rx) * SCALE, (y + ry) * SCALE], fill=rgb(color)
        )

    def slice(self, x: float, y: float, r: float, start: float, end: float, color: str) -> None:
        """A slice of a disc between two angles in degrees, clockwise from three o'clock."""
        box = [(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE]
        self._draw.pieslice(box, start, end, fill=rgb(color))

    def arc(
        self, x: float, y: float, r: float, start: float, end: float, color: str, width: float = 2
    ) -> None:
        """A stroke along a circle, angles as in `slice`."""
        box = [(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE]
        self._draw.arc(box, start, end, fill=rgb(color), width=round(width * SCALE))

    def line(self, points: Sequence[Point], color: str, width: float = 2) -> None:
        """A stroke through the points."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=rgb(color), width=round(width * SCALE), joint="curve")

    def poly(self, points: Sequence[Point], color: str) -> None:
        """A filled polygon."""
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=rgb(color))

    def leaf(self, x: float, y: float, length: float, width: float, angle: float, color: str) -> None:
        """An ellipse of this length and width, turned by an angle in degrees."""
        turn = np.deg2rad(angle)
        along, across = np.cos(AROUND) * length / 2, np.sin(AROUND) * width / 2
        xs, ys = (
            x + along * np.cos(turn) - across * np.sin(turn),
            y + along * np.sin(turn) + across * np.cos(turn),
        )
        self.poly(list(zip(xs.tolist(), ys.tolist(), strict=True)), color)

    def glow(self, x: float, y: float, r: float, color: str, strength: float = 0.7) -> None:
        """Light (or, with a dark colour, shadow) that fades out from a centre."""
        size = round(2 * r * SCALE)
        self.image.paste(rgb(color), (round((x - r) * SCALE), round((y - r) * SCALE)), _spot(size, strength))

    def scatter(self, x: float, y: float, r: float, count: int) -> list[Point]:
        """Random points in a disc."""
        radius = r * np.sqrt(self.rng.random(count))
        angle = 2 * np.pi * self.rng.random(count)
        xs, ys = x + radius * np.cos(angle), y + radius * np.sin(angle)
        return list(zip(xs.tolist(), ys.tolist(), strict=True))

    def any(self, colors: str) -> str:
        """One of several colours, separated by spaces."""
        options = colors.split()
        return options[int(self.rng.integers(len(options)))]

    def near(self, value: float, by: float) -> float:
        """The value, moved at random by at most this much."""
        return value + float(self.rng.uniform(-by, by))
