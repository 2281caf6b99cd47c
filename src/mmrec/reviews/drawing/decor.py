"""What hangs in the rooms of Sample City: what is at the wall, and the lamps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmrec.reviews.drawing.canvas import WIDTH, Canvas

__all__ = ["FEATURES", "LAMPS"]


def _window(canvas: Canvas, x: float, horizon: float) -> None:
    canvas.rect(x - 38, 18, 76, horizon - 46, "ffffff")
    canvas.rect(x - 35, 21, 70, horizon - 52, canvas.any("bfe3f5 d8eefc f7e3c4"))
    canvas.disc(x + 12, horizon - 36, 14, "9cc58b", 6)
    canvas.rect(x - 1, 21, 2, horizon - 52, "ffffff")
    canvas.rect(x - 35, 50, 70, 2, "ffffff")


def _sky(canvas: Canvas, x: float, horizon: float) -> None:
    canvas.gradient(0, horizon - 24, canvas.any("6fb7e6 f08a5d 8ec9ef"), "fdeccb")
    canvas.disc(x, 46, 11, "fff3b8")
    for at in range(-10, 260, 22):
        canvas.disc(at, horizon - 14, canvas.near(18, 4), "4f8a4c", canvas.near(15, 4))
    canvas.rect(0, horizon - 14, WIDTH, 14, "a98558")


def _sea(canvas: Canvas, x: float, horizon: float) -> None:
    canvas.rect(20, 20, 216, horizon - 44, "ffffff")
    canvas.rect(24, 24, 208, 30, "a9dcf7")
    canvas.rect(24, 54, 208, horizon - 82, "1f7fbf")
    canvas.poly([(x, 34), (x, 56), (x + 14, 56)], "ffffff")
    canvas.poly([(x - 8, 58), (x + 18, 58), (x + 12, 63), (x - 4, 63)], "7a3b22")


def _arches(canvas: Canvas, x: float, horizon: float) -> None:
    for at in (x - 30, x + 30):
        canvas.disc(at, 58, 22, "fff6e6")
        canvas.rect(at - 22, 58, 44, horizon - 61, "fff6e6")
        canvas.disc(at, 60, 18, "5b3a2a")
        canvas.rect(at - 18, 60, 36, horizon - 63, "5b3a2a")


def _pictures(canvas: Canvas, x: float, horizon: float) -> None:
    for at, width in ((x - 26, 22), (x + 2, 30)):
        top = canvas.near(38, 8)
        canvas.rect(at, top, width, 28, "e8c987")
        canvas.rect(at + 2, top + 2, width - 4, 24, canvas.any("37606b 9c3d2e d9b44a 56713f"))
        canvas.disc(at + width / 2, top + 14, 5, canvas.any("f4e8cf e58c4f 22333b"))


def _mirror(canvas: Canvas, x: float, horizon: float) -> None:
    canvas.disc(x, 58, 27, "c9a44c", 33)
    canvas.disc(x, 58, 24, "b9c6cf", 30)
    canvas.leaf(x - 8, 48, 26, 6, -55, "e6eef2")


def _curtains(canvas: Canvas, x: float, horizon: float) -> None:
    for side in (0, WIDTH - 34):
        for fold in range(5):
            canvas.rect(side + fold * 7, 0, 7, horizon, "7c2740" if fold % 2 else "5e1b30")


def _bottles(canvas: Canvas, x: float, horizon: float) -> None:
    for shelf in (48, 80):
        canvas.glow(128, shelf, 120, "d98a3a", 0.25)
        canvas.rect(16, shelf, 224, 4, "8a5a30")
        for at in range(20, 236, 9):
            tall = canvas.near(19, 5)
            color = canvas.any("3f6b3a a8642a c9b26a 7a2f2a 4a6d80 d9d2bd")
            canvas.rect(at, shelf - tall + 6, 6, tall - 6, color, 1)
            canvas.rect(at + 2, shelf - tall, 2, 8, color)
    canvas.rect(0, horizon - 14, WIDTH, 16, "6b3d20")
    canvas.rect(0, horizon - 17, WIDTH, 4, "a8683a")


def _lattice(canvas: Canvas, x: float, horizon: float) -> None:
    canvas.rect(x - 44, 40, 88, horizon - 48, "d9a441")
    for step in range(0, 89, 11):
        canvas.rect(x - 44 + step, 40, 2, horizon - 48, "2a1512")
    for y in range(40, int(horizon) - 8, 11):
        canvas.rect(x - 44, y, 89, 2, "2a1512")


def _paper(canvas: Canvas, x: float, horizon: float) -> None:
    canvas.rect(30, 22, 196, horizon - 26, "5a4026")
    for column in range(4):
        for row in range(3):
            canvas.rect(33 + column * 48, 25 + row * 30, 45, 27, "fdf7e4")
    canvas.disc(x, 60, 20, "c8453a")


def _plants(canvas: Canvas, x: float, horizon: float) -> None:
    for angle in np.linspace(-165, -15, 11):
        reach = canvas.near(24, 6)
        tip = x + reach * np.cos(np.deg2rad(angle)), horizon - 22 + reach * np.sin(np.deg2rad(angle))
        canvas.leaf(*tip, reach, 8, angle, canvas.any("3f7d3c 56994a 2f6636 7ab55c"))
    canvas.poly(
        [(x - 12, horizon - 20), (x + 12, horizon - 20), (x + 9, horizon + 4), (x - 9, horizon + 4)], "b5643c"
    )


def _notices(canvas: Canvas, x: float, horizon: float) -> None:
    canvas.rect(x - 34, 34, 68, 46, "2f3b36")
    for row in range(5):
        canvas.rect(x - 28, 40 + row * 8, canvas.near(36, 12), 2, "dfe3d8")
        canvas.rect(x + 20, 40 + row * 8, 8, 2, "e8c35a")


def _pendants(canvas: Canvas) -> None:
    for x in (52, 128, 204):
        drop, at = canvas.near(34, 8), canvas.near(x, 10)
        canvas.line([(at, 0), (at, drop)], "2a2320", 1)
        canvas.glow(at, drop + 8, 46, "ffd98a", 0.65)
        canvas.poly(
            [(at - 4, drop - 6), (at + 4, drop - 6), (at + 12, drop + 6), (at - 12, drop + 6)], "2f2a28"
        )
        canvas.disc(at, drop + 7, 5, "fff4cf", 3)


def _lanterns(canvas: Canvas) -> None:
    for x in (36, 82, 128, 174, 220):
        at, y, color = canvas.near(x, 6), canvas.near(28, 10), canvas.any("e23b2e f0572f e8a12f")
        canvas.line([(at, 0), (at, y)], "1f1210", 1)
        canvas.glow(at, y, 38, "ff9a4a", 0.55)
        canvas.disc(at, y, 13, color, 11)
        canvas.disc(at, y, 6, "ffc27a", 10)
        canvas.rect(at - 5, y - 12, 10, 3, "c9a13a")
        canvas.rect(at - 1, y + 10, 2, 9, "c9a13a")


def _string(canvas: Canvas, flags: bool) -> None:
    for left in (-30, 60, 150):
        sag = canvas.near(26, 8)
        points = [(left + 13.0 * step, 8 + sag * (1 - ((step - 5) / 5) ** 2)) for step in range(11)]
        canvas.line(points, "4a4038", 1)
        for x, y in points[1:-1]:
            if flags:
                canvas.poly(
                    [(x - 6, y), (x + 6, y), (x, y + 13)], canvas.any("f25c54 f7b733 3ba99c 8e5bd0 f78fb3")
                )
            else:
                canvas.glow(x, y + 3, 12, "ffe39a", 0.8)
                canvas.disc(x, y + 3, 2.4, "fff6d8")


def _candles(canvas: Canvas) -> None:
    for x, y in ((70, 124), (180, 140), (128, 60), (30, 70)):
        canvas.glow(x, y, 44, "ffc66b", 0.6)
        canvas.leaf(x, y, 7, 3, 90, "fff3c4")


def _tubes(canvas: Canvas) -> None:
    for x in (40, 150):
        canvas.glow(x + 35, 10, 60, "f4fff8", 0.6)
        canvas.rect(x, 6, 70, 6, "f8fffb", 2)


FEATURES: dict[str, Callable[[Canvas, float, float], None]] = {
    "window": _window,
    "sky": _sky,
    "sea": _sea,
    "arches": _arches,
    "pictures": _pictures,
    "mirror": _mirror,
    "curtains": _curtains,
    "bottles": _bottles,
    "lattice": _lattice,
    "paper": _paper,
    "plants": _plants,
    "notices": _notices,
}
"""What draws each feature of a wall around x, above a floor that begins at `horizon`."""
LAMPS: dict[str, Callable[[Canvas], None]] = {
    "pendants": _pendants,
    "lanterns": _lanterns,
    "bulbs": lambda canvas: _string(canvas, flags=False),
    "bunting": lambda canvas: _string(canvas, flags=True),
    "candles": _candles,
    "tubes": _tubes,
}
"""What draws each kind of lamps."""
