"""Table tops and what dishes of Sample City are served on, seen from above."""

from __future__ import annotations

import numpy as np

from mmrec.reviews.drawing.canvas import Canvas

__all__ = [
    "GREENS",
    "X",
    "Y",
    "cos",
    "draw_board",
    "draw_bowl",
    "draw_plate",
    "draw_table",
    "sprinkle",
    "strands",
]

X, Y = 128.0, 98.0
"""The middle of a dish."""
GREENS = "4f8a3c 6fae4a 3d7434 8cc152"
"""Herbs."""


def draw_table(canvas: Canvas, price_level: int) -> None:
    """The table top: plastic cloth, wood, slate or white linen, from cheap to expensive."""
    base = {1: "f4ece0", 2: canvas.any("a8703f c08a55 8f5e38"), 3: "3c4146", 4: "f3f1ec"}[price_level]
    canvas.rect(0, 0, 256, 192, base)
    if price_level == 1:
        check = canvas.any("d9534a 4f86c6 5aa469 e0a83c")
        for column in range(0, 256, 32):
            for row in range(0, 192, 32):
                canvas.rect(column, row, 16, 16, check)
                canvas.rect(column + 16, row + 16, 16, 16, check)
    elif price_level == 2:
        for row in range(0, 192, 32):
            canvas.line([(0, row), (256, canvas.near(row, 1))], "6b4426", 1.2)
            canvas.line([(0, row + canvas.near(14, 6)), (256, row + canvas.near(14, 6))], "7d5230", 0.5)
    elif price_level == 4:
        canvas.poly([(0, 0), (60, 0), (0, 60)], "e2ded5")
        canvas.glow(238, 16, 46, "ffc873", 0.7)
        canvas.disc(238, 16, 8, "fff1c9")
    if canvas.rng.random() < 0.6:
        canvas.rect(20, 50, 4, 100, "c9ccd0", 2)
        canvas.disc(22, 52, 5, "c9ccd0", 9)


def draw_plate(canvas: Canvas, r: float = 76, color: str = "fbfaf6", rim: str = "e4e0d6") -> None:
    """A round plate with a rim, in the middle."""
    canvas.glow(X + 5, Y + 8, r * 1.25, "000000", 0.55)
    canvas.disc(X, Y, r, rim)
    canvas.disc(X, Y, r - 2, color)
    canvas.disc(X, Y, r * 0.74, rim)
    canvas.disc(X, Y + 1, r * 0.73, color)


def draw_bowl(canvas: Canvas, x: float, y: float, r: float, rim: str, inside: str) -> None:
    """A bowl of this outer radius and its filling."""
    canvas.glow(x + 4, y + 6, r * 1.3, "000000", 0.5)
    canvas.disc(x, y, r, rim)
    canvas.disc(x, y, r * 0.87, inside)
    canvas.glow(x - r * 0.3, y - r * 0.35, r * 0.5, "ffffff", 0.22)


def draw_board(canvas: Canvas, color: str) -> None:
    """A wooden or stone board, in the middle."""
    canvas.glow(X + 4, Y + 10, 112, "000000", 0.5)
    canvas.rect(36, 48, 184, 100, color, 8)


def sprinkle(canvas: Canvas, x: float, y: float, r: float, count: int, colors: str, size: float = 5) -> None:
    """Small leaves or flakes."""
    for at_x, at_y in canvas.scatter(x, y, r, count):
        canvas.leaf(at_x, at_y, canvas.near(size, 1), size * 0.5, canvas.near(0, 180), canvas.any(colors))


def strands(canvas: Canvas, r: float, colors: str, count: int = 90) -> None:
    """Noodles: short arcs, crossing each other."""
    for x, y in canvas.scatter(X, Y, r * 0.62, count):
        start = canvas.near(180, 180)
        canvas.arc(x, y, canvas.near(r * 0.3, r * 0.09), start, start + 170, canvas.any(colors), 1.7)


def cos(degrees: float) -> float:
    """Cosine of an angle in degrees."""
    return float(np.cos(np.deg2rad(degrees)))
