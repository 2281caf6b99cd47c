"""Dishes of Sample City that come on a plate or a board."""

from __future__ import annotations

from collections.abc import Callable

from mmrec.reviews.drawing.canvas import Canvas
from mmrec.reviews.drawing.tableware import GREENS, X, Y, draw_board, draw_bowl, draw_plate, sprinkle, strands

__all__ = ["PLATES"]


def _pasta(canvas: Canvas) -> None:
    draw_plate(canvas)
    strands(canvas, 58, "f3d27a e9bd55 f8e2a0", 150)
    sauce = canvas.any("c23b22 8f2d1e 5f8f3a f1e3c0")
    for x, y in canvas.scatter(X, Y, 20, 16):
        canvas.disc(x, y, canvas.near(10, 3), sauce)
    sprinkle(canvas, X, Y, 30, 14, "fff8e3 fdf1cc", 4)
    for angle in (20, 140, 260):
        canvas.leaf(X + 6, Y - 4, 22, 10, canvas.near(angle, 15), "3c8a37")


def _pizza(canvas: Canvas) -> None:
    draw_plate(canvas, 86)
    canvas.disc(X, Y, 78, "c98a45")
    canvas.disc(X, Y, 70, "cf4526")
    for x, y in canvas.scatter(X, Y, 62, 34):
        canvas.disc(x, y, canvas.near(9, 3), canvas.any("f7e2a1 fbeec2 f2d37f"), canvas.near(7, 2))
    topping = canvas.any("a8281f 2f2b33 6b4a2f")
    for x, y in canvas.scatter(X, Y, 58, 13):
        canvas.disc(x, y, 6, topping)
    sprinkle(canvas, X, Y, 60, 14, GREENS, 10)
    for dx, dy in ((78, 0), (39, 67), (39, -67)):
        canvas.line([(X - dx, Y - dy), (X + dx, Y + dy)], "9c5a26", 1)


def _main_course(canvas: Canvas) -> None:
    draw_plate(canvas, 84)
    sauce, meat = canvas.any("7a2f1c d9a63a 6b7f2f a8432f"), canvas.any("7b4526 c98d4b 5a2f20 e3a587")
    canvas.arc(X, Y, 50, canvas.near(120, 40), canvas.near(280, 30), sauce, 9)
    for step in range(4):
        canvas.leaf(X - 20 + step * 13, Y + step * 5, 40, 22, 70, "3f2418")
        canvas.leaf(X - 21 + step * 13, Y - 1 + step * 5, 37, 18, 70, meat)
    for x, y in canvas.scatter(X + 14, Y - 34, 14, 8):
        canvas.disc(x, y, 8, canvas.any("f2d58a e9c46a f7e7b4"))
    for angle in (-10, 10, 30):
        canvas.leaf(X + 26, Y + 34, 44, 6, angle, canvas.any("4f8a3c e8762c 6fae4a"))
    sprinkle(canvas, X, Y, 34, 9, GREENS, 6)


def _fish(canvas: Canvas) -> None:
    canvas.glow(X + 4, Y + 12, 112, "000000", 0.5)
    canvas.disc(X, Y, 104, "dfe6ea", 64)
    canvas.disc(X, Y, 100, "fbfcfc", 60)
    skin = canvas.any("e8835a c0895a 9fb0ba")
    canvas.poly([(X + 44, Y), (X + 84, Y - 26), (X + 78, Y), (X + 84, Y + 26)], skin)
    canvas.leaf(X - 8, Y, 132, 52, 0, skin)
    canvas.leaf(X - 8, Y - 4, 112, 26, 0, "f5c9a8" if skin != "9fb0ba" else "dbe4e8")
    for step in range(4):
        canvas.line([(X - 30 + 20 * step, Y - 18), (X - 40 + 20 * step, Y + 18)], "7a4a30", 2)
    canvas.disc(X - 58, Y - 5, 4, "1f1f22")
    for x in (X - 34, X - 8, X + 18):
        canvas.disc(x, Y + 34, 13, "f2cf2f")
        canvas.disc(x, Y + 34, 10, "fbec8a")
    sprinkle(canvas, X + 10, Y - 42, 16, 24, GREENS, 14)


def _dessert(canvas: Canvas) -> None:
    draw_plate(canvas, 80, canvas.any("fbfaf6 f6dfe0 dfeaf0"))
    cream, crumb = canvas.any("fff4e0 f7b7c5 5a2f1e b7cf7a"), canvas.any("c98d4b 7a4426 f0cf8a")
    canvas.poly([(80, 112), (164, 70), (164, 98), (80, 138)], crumb)
    canvas.poly([(164, 70), (178, 100), (178, 126), (164, 98)], cream)
    canvas.poly([(80, 138), (164, 98), (178, 126), (92, 142)], crumb)
    canvas.line([(82, 126), (170, 86)], cream, 4)
    canvas.poly([(80, 112), (164, 70), (178, 100)], cream)
    for x, y in canvas.scatter(150, 84, 14, 5):
        canvas.disc(x, y, 6, canvas.any("c8203c 4a3a8c d8434e"))
        canvas.disc(x - 2, y - 2, 1.6, "ffffff")
    for step in range(6):
        canvas.disc(92 + step * 16, 160 - abs(step - 2.5) * 2.5, 5 - step * 0.6, "8c1f35")
    canvas.leaf(160, 72, 18, 8, -40, "5aa04a")


def _sushi(canvas: Canvas) -> None:
    draw_board(canvas, canvas.any("2b2725 6b4a30 d9b27c"))
    for column in range(4):
        x = 62 + column * 34
        canvas.leaf(x, 78, 42, 19, 72, "fffdf6")
        canvas.leaf(x - 1, 75, 43, 16, 72, fish := canvas.any("f47c48 e8526a f9b59b c92f44"))
        for stripe in (-9, 1, 11):
            canvas.line(
                [(x - 6, 76 + stripe), (x + 6, 73 + stripe)], "fde0d2" if fish != "c92f44" else "e0667a", 1
            )
    for column in range(4):
        canvas.disc(64 + column * 30, 124, 13, "1c2622")
        canvas.disc(64 + column * 30, 124, 10, "fffdf6")
        canvas.disc(64 + column * 30, 124, 5, canvas.any("f47c48 7fb069 f2c14e"))
    canvas.disc(194, 128, 9, "9bc53d")
    for angle in (0, 50, 110):
        canvas.leaf(200, 90, 26, 12, angle, "f7b7b2")
    canvas.line([(40, 164), (214, 156)], "8a3324", 3)
    canvas.line([(40, 172), (214, 161)], "8a3324", 3)


def _tacos(canvas: Canvas) -> None:
    draw_board(canvas, canvas.any("e9dcc3 3f6f78 b0703e"))
    filling = canvas.any("8c4a25 c9652d f0e0b8")
    for column in range(3):
        x = 76.0 + column * 52
        canvas.disc(x, Y, 25, "e8c069", 42)
        canvas.disc(x, Y, 18, "f5dc9a", 36)
        for at_x, at_y in canvas.scatter(x, Y, 14, 26):
            at_y = Y + (at_y - Y) * 2
            canvas.leaf(
                at_x, at_y, 10, 6, canvas.near(0, 90), canvas.any(f"{filling} {filling} 6fae4a d8402f fdf6e0")
            )
        canvas.leaf(x, Y + 20, 15, 5, 30, "7cb342")
    canvas.slice(206, 150, 16, 200, 340, "a4cf4a")


def _burger(canvas: Canvas) -> None:
    draw_board(canvas, canvas.any("b98550 5d4634 d8d2c6"))
    layers = (
        (140.0, 16, "c67a32"),
        (130.0, 9, "5a3220"),
        (122.0, 7, "f4b52e"),
        (114.0, 7, "d63b2c"),
        (107.0, 8, "76b041"),
    )
    for y, tall, color in layers:
        canvas.rect(52, y - tall, 82, tall + 4, color, 5)
    canvas.slice(93, 104, 42, 180, 360, "d18a3d")
    canvas.glow(82, 80, 24, "ffe0a8", 0.5)
    for x, y in canvas.scatter(93, 82, 18, 14):
        canvas.leaf(x, y, 4, 2, canvas.near(0, 90), "fdf0cf")
    for _ in range(26):
        x = canvas.near(178, 18)
        canvas.line(
            [(x, 112), (canvas.near(x, 12), canvas.near(70, 14))], canvas.any("f5c542 eab02f fad96b"), 4
        )
    canvas.poly([(156, 96), (202, 96), (194, 142), (164, 142)], canvas.any("c8322f f4f1ea 3f6f78"))


def _ribs(canvas: Canvas) -> None:
    draw_board(canvas, canvas.any("8a5a33 3a2c26"))
    for column in range(6):
        x = 60.0 + column * 16
        canvas.leaf(x, 92, 76, 17, canvas.near(82, 4), "4a1d12")
        canvas.leaf(x - 2, 90, 68, 10, canvas.near(82, 4), "7e2f18")
        canvas.leaf(x - 3, 82, 30, 3, 82, "b8552c")
        canvas.disc(x - 5, 132, 4, "f1e2c8", 6)
    draw_bowl(canvas, 186, 76, 25, "f4f1ea", "dfe8c0")
    sprinkle(canvas, 186, 76, 18, 40, "f4f7e6 b8d08a e58b3a", 8)
    draw_bowl(canvas, 190, 124, 18, "2f2f33", "6e1f10")


def _mezze(canvas: Canvas) -> None:
    draw_board(canvas, canvas.any("a9713f c99a63 2f4858"))
    spots = (
        (68.0, 78.0, "ecd9ab"),
        (120.0, 72.0, "b5482a"),
        (172.0, 80.0, "f7f4e8"),
        (92.0, 122.0, "7d6b52"),
        (148.0, 122.0, "6b8f3a"),
    )
    for x, y, color in spots:
        draw_bowl(canvas, x, y, canvas.near(23, 2), canvas.any("2f6db0 f4f1ea c9764a"), color)
        canvas.arc(x, y, 10, 0, 270, "d9b13a", 2)
        sprinkle(canvas, x, y, 12, 6, GREENS, 4)
    for step in range(3):
        x = 186 + step * 9
        canvas.poly([(x, 110), (x + 24, 124), (x - 2, 142)], canvas.any("e3c084 d4a865"))
    for x, y in canvas.scatter(48, 128, 10, 7):
        canvas.disc(x, y, 4, canvas.any("3b4a1f 5c2a3a"))


PLATES: dict[str, Callable[[Canvas], None]] = {
    "burger": _burger,
    "dessert": _dessert,
    "fish": _fish,
    "plate": _main_course,
    "mezze": _mezze,
    "pasta": _pasta,
    "pizza": _pizza,
    "ribs": _ribs,
    "sushi": _sushi,
    "tacos": _tacos,
}
"""What draws each dish, by name."""
