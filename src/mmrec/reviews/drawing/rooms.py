"""Rooms of Sample City: walls, floors, lamps and furniture, from a table of looks."""

from __future__ import annotations

from dataclasses import dataclass

from mmrec.reviews.drawing.canvas import HEIGHT, WIDTH, Canvas
from mmrec.reviews.drawing.decor import FEATURES, LAMPS

__all__ = ["ROOMS", "Room", "draw_room"]


@dataclass(frozen=True)
class Room:
    """The looks of a room: colours (several to choose from, separated by spaces), lamps, walls."""

    wall: str
    floor: str
    wood: str
    seat: str
    lamps: str
    features: tuple[str, ...]
    tiles: bool = False
    light: float = 1.0


ROOMS = {
    "trattoria": Room(
        "e0b27c d9a066 cf8f5b", "8a5a3a", "6b4226", "a33b2e", "pendants", ("arches", "pictures")
    ),
    "fine": Room(
        "4a3b45 2f3d4a 5a4a3c", "3a2c26", "f2ece0", "6d2338", "candles", ("mirror", "curtains"), light=0.85
    ),
    "terrace": Room("9fd0ea f5b98a", "c9a57b", "7a5534", "3f7f6b", "bulbs", ("sky", "plants"), tiles=True),
    "cantina": Room(
        "e8743b d94f70 2f9c95", "a8623d", "e2b23a", "1f6f78", "bunting", ("arches", "plants"), tiles=True
    ),
    "lanterns": Room(
        "7c1f24 541a2c 8a2f1d", "3b1d18", "2a1512", "b3322c", "lanterns", ("lattice",), light=0.8
    ),
    "zen": Room("efe6d2 e6ddc8", "c7a26b", "9b7444", "4d5b46", "pendants", ("paper", "plants")),
    "bar": Room("3a2018 2b2233 25302c", "1f1512", "5c3620", "7a2e22", "pendants", ("bottles",), light=0.7),
    "canteen": Room("c3c8bd b9bfc4 cfc9ae", "8f918a", "b5aa94", "7d8a8c", "tubes", ("notices",), tiles=True),
    "garden": Room("cfe6c4 b7d9b8", "b98f62", "8a6238", "5b8c4a", "bulbs", ("window", "plants", "plants")),
    "saffron": Room(
        "d98a1f b5502a 8c2f5a", "6a2c22", "4a2418", "2f6d73", "lanterns", ("arches", "pictures"), light=0.9
    ),
    "diner": Room(
        "8fd1c8 f0d9c0 a9c9e8", "f4f1ea", "d9dde0", "c8322f", "tubes", ("window", "notices"), tiles=True
    ),
    "cafe": Room("fbf8f2 f3efe6 fdf3ec", "d8b98c", "c49a68", "f0ead8", "pendants", ("window", "plants")),
    "aegean": Room("fafcff eef6fb", "dfe9ee", "2a6db0", "2f7fc4", "bulbs", ("sea", "arches"), tiles=True),
}
"""The rooms by name."""


def draw_room(canvas: Canvas, room: Room) -> None:
    """Fill the canvas with a room of these looks."""
    wall, horizon = canvas.any(room.wall), canvas.near(118, 6)
    canvas.gradient(0, horizon, wall, wall)
    canvas.glow(canvas.near(128, 60), 40, 130, "ffffff", 0.18)
    _draw_floor(canvas, room, horizon)
    places = canvas.rng.permutation([50.0, 128.0, 206.0])
    for feature, x in zip(room.features, places, strict=False):
        FEATURES[feature](canvas, canvas.near(float(x), 8), horizon)
    for x, y, size in ((canvas.near(70, 18), 138.0, 0.8), (canvas.near(180, 18), 160.0, 1.1)):
        _draw_seats(canvas, room, x, y, size)
    LAMPS[room.lamps](canvas)


def _draw_floor(canvas: Canvas, room: Room, horizon: float) -> None:
    canvas.gradient(horizon, HEIGHT, room.floor, room.floor)
    canvas.rect(0, horizon - 3, WIDTH, 4, room.wood)
    for step in range(-9, 10):  # boards that meet far behind the wall
        canvas.line([(128 + step * 22, horizon + 1), (128 + step * 52, HEIGHT)], room.wood, 0.6)
    if room.tiles:
        for depth in (0.1, 0.25, 0.47, 0.75):
            y = horizon + depth * (HEIGHT - horizon)
            canvas.line([(0, y), (WIDTH, y)], room.wood, 0.6)


def _draw_seats(canvas: Canvas, room: Room, x: float, y: float, size: float) -> None:
    """A table with two chairs and what is on it."""
    canvas.glow(x, y + 30 * size, 48 * size, "000000", 0.35)
    for side in (-1, 1):
        canvas.rect(x + side * 44 * size - 9 * size, y - 18 * size, 18 * size, 34 * size, room.seat, 5)
        canvas.rect(x + side * 44 * size - 7 * size, y + 14 * size, 3 * size, 22 * size, "2a2320")
        canvas.rect(x + side * 44 * size + 5 * size, y + 14 * size, 3 * size, 22 * size, "2a2320")
    canvas.rect(x - 3 * size, y, 6 * size, 36 * size, "3a3028")
    canvas.disc(x, y + 2, 34 * size, "3a3028", 9 * size)
    canvas.disc(x, y, 34 * size, room.wood, 9 * size)
    for side in (-1, 1):
        canvas.disc(x + side * 16 * size, y, 9 * size, "f7f4ee", 3 * size)
        canvas.disc(
            x + side * 16 * size, y - 0.5, 5 * size, canvas.any("c4552d 7fa650 e0b040 8c5a3c"), 1.6 * size
        )
    canvas.rect(
        x - 1.5 * size, y - 12 * size, 3 * size, 11 * size, canvas.any("f5efe0 6fae5c c43c3c 88b7d5"), 1
    )
