"""Dishes of Sample City that come in a bowl, pan or cup."""

from __future__ import annotations

from collections.abc import Callable

from mmrec.reviews.drawing.canvas import Canvas
from mmrec.reviews.drawing.tableware import GREENS, X, Y, cos, draw_bowl, draw_plate, sprinkle, strands

__all__ = ["BOWLS"]


def _noodles(canvas: Canvas) -> None:
    draw_bowl(canvas, X, Y, 76, canvas.any("23395b a3322c f4f1ea 2f2f33"), canvas.any("c98a3e a85a2a e0b56a"))
    strands(canvas, 62, "f4dc98 ecca78 fbe9b7")
    for x, y in ((X - 26, Y - 20), (X - 6, Y - 34)):
        canvas.disc(x, y, 15, "fdfaf2", 12)
        canvas.disc(x, y, 8, "f2a024", 6)
    for step in range(3):
        canvas.disc(X + 24 + 7 * step, Y - 14 + 15 * step, 16, "8f5138", 11)
        canvas.disc(X + 24 + 7 * step, Y - 14 + 15 * step, 12, "c58a6a", 7)
    canvas.poly([(X - 58, Y + 4), (X - 30, Y + 2), (X - 28, Y + 34), (X - 54, Y + 32)], "1f3b2c")
    sprinkle(canvas, X - 4, Y + 28, 26, 22, GREENS)


def _curry(canvas: Canvas) -> None:
    sauce = canvas.any("e08a1e c8501f 7a9a2f d9b13a a83a1c")
    draw_bowl(canvas, 98, Y, 66, canvas.any("b87333 3a2a22 f0ebe0"), sauce)
    for x, y in canvas.scatter(98, Y, 42, 9):
        canvas.disc(x, y, canvas.near(10, 2), canvas.any("c98d4b 8c4a25 f3e3c0"), 8)
    canvas.arc(98, Y, 28, 10, 210, "fff3dc", 3)
    canvas.arc(98, Y, 16, 180, 350, "fff3dc", 2)
    sprinkle(canvas, 98, Y, 34, 16, GREENS, 7)
    draw_bowl(canvas, 210, 118, 40, "f0ebe0", "fbf8f0")
    sprinkle(canvas, 210, 118, 30, 60, "ffffff efe9da f6f1e4", 5)


def _thali(canvas: Canvas) -> None:
    draw_plate(canvas, 84, "c9ccd0", "a3a8ad")
    for step, color in enumerate(("d98324", "7c9a33", "b23a22", "f3ead2", "6a3d24")):
        turn = canvas.near(step * 58, 3) - 150
        x, y = X + 52 * cos(turn), Y + 52 * cos(turn - 90)
        draw_bowl(canvas, x, y, 21, "e6e8ea", color)
        sprinkle(canvas, x, y, 9, 4, GREENS, 5)
    canvas.disc(X, Y + 14, 32, "e3c084", 24)
    for x, y in canvas.scatter(X, Y + 14, 20, 9):
        canvas.disc(x, y, 3, "b98445", 2)


def _dumplings(canvas: Canvas) -> None:
    draw_bowl(canvas, 116, Y, 80, "b98a4d", "e6cf9c")
    for ring in (74, 66):
        canvas.arc(116, Y, ring, 0, 360, "8f6a38", 1.5)
    for step in range(7):
        reach = 0 if step == 6 else 42
        x, y = 116 + reach * cos(step * 60), Y + reach * cos(step * 60 - 90)
        canvas.disc(x, y + 2, 19, "cdb98f", 17)
        canvas.disc(x, y, 18, "fbf3de", 16)
        for fold in range(0, 360, 45):
            canvas.line([(x, y), (x + 12 * cos(fold), y + 11 * cos(fold - 90))], "dccba4", 1.2)
        canvas.disc(x, y, 3, canvas.any("e07a3f 6fae4a dccba4"))
    draw_bowl(canvas, 220, 44, 24, "f4f1ea", "3a1a12")


def _paella(canvas: Canvas) -> None:
    canvas.rect(36, Y - 8, 184, 16, "1c1c1e", 8)
    draw_bowl(canvas, X, Y, 82, "26262a", "e5a823")
    sprinkle(canvas, X, Y, 70, 300, "f0bd3f d99a1c f8d36b c9821a", 6)
    for x, y in canvas.scatter(X, Y, 50, 6):
        start = canvas.near(180, 180)
        canvas.arc(x, y, 12, start, start + 220, "f2764b", 7)
    for x, y in canvas.scatter(X, Y, 54, 6):
        angle = canvas.near(0, 180)
        canvas.leaf(x, y, 24, 12, angle, "1d2330")
        canvas.leaf(x, y, 17, 7, angle, "f0a05a")
    for angle in (30, 150, 270):
        canvas.slice(X + 58 * cos(angle), Y + 58 * cos(angle - 90), 16, angle, angle + 130, "f8e24b")
    sprinkle(canvas, X, Y, 60, 30, "5c9a3d c23b22", 6)


def _salad(canvas: Canvas) -> None:
    draw_bowl(canvas, X, Y, 80, canvas.any("b98550 f4f1ea 6f8f7a"), "dfe8c8")
    sprinkle(canvas, X, Y, 62, 110, "4f8a3c 6fae4a 3d7434 9ccc65 7b3f6b", 26)
    for x, y in canvas.scatter(X, Y, 52, 9):
        canvas.disc(x, y, 9, "d8352a")
        canvas.disc(x, y, 6, "ef6a55")
    for x, y in canvas.scatter(X, Y, 52, 7):
        canvas.disc(x, y, 9, "a8d08a")
        canvas.disc(x, y, 7, "e6f3d2")
    sprinkle(canvas, X, Y, 54, 24, "f7b731 fff5dd e07a2f", 7)


def _bibimbap(canvas: Canvas) -> None:
    draw_bowl(canvas, X, Y, 78, "26262a", "f3ead6")
    colors = ("e8762c", "4f8a3c", "f4ecd2", "7a4326", "c8d96f", "8d2f57")
    turn = canvas.near(180, 180)
    for step, color in enumerate(colors):
        canvas.slice(X, Y, 64, turn + step * 60, turn + step * 60 + 60, color)
        angle = turn + step * 60 + 30
        x, y = X + 42 * cos(angle), Y + 42 * cos(angle - 90)
        sprinkle(canvas, x, y, 13, 18, f"{color} {color} fff3d6", 12)
    canvas.disc(X, Y, 26, "fffdf4", 24)
    canvas.disc(X, Y, 13, "f6a81c")
    canvas.glow(X - 4, Y - 5, 8, "ffffff", 0.6)
    sprinkle(canvas, X, Y, 60, 20, "fff7df 2a2a2a", 3)


def _coffee(canvas: Canvas) -> None:
    draw_plate(canvas, 62)
    cup = canvas.any("ffffff 5fa8a3 e8b4a0 2f3d4a")
    canvas.disc(X + 44, Y, 14, cup, 9)
    draw_bowl(canvas, X, Y, 42, cup, "8a5430")
    for x in (X - 8, X + 8):
        canvas.disc(x, Y - 5, 11, "f3dfc0")
    canvas.poly([(X - 18, Y - 1), (X + 18, Y - 1), (X, Y + 24)], "f3dfc0")
    for step in range(5):  # a croissant beside it
        size = 15 - 3.5 * abs(step - 2)
        canvas.leaf(
            208 + 5 * abs(step - 2) ** 1.4, 62 + step * 15, size * 2.4, size * 1.7, 20 - 20 * step, "b9702c"
        )
        canvas.leaf(
            206 + 5 * abs(step - 2) ** 1.4, 60 + step * 15, size * 1.8, size * 0.9, 20 - 20 * step, "e0a050"
        )


BOWLS: dict[str, Callable[[Canvas], None]] = {
    "bibimbap": _bibimbap,
    "coffee": _coffee,
    "curry": _curry,
    "dumplings": _dumplings,
    "noodles": _noodles,
    "paella": _paella,
    "salad": _salad,
    "thali": _thali,
}
"""What draws each dish, by name."""
