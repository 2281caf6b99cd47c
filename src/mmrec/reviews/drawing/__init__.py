"""Photos of Sample City, drawn with Pillow.

Colours and layout follow the scene (a dim bar, a white café, noodles in a bowl), so that a captioner that
only knows colours and shapes has something true to say.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

from mmrec.reviews.drawing.bowls import BOWLS
from mmrec.reviews.drawing.canvas import HEIGHT, SCALE, WIDTH, Canvas
from mmrec.reviews.drawing.plates import PLATES
from mmrec.reviews.drawing.rooms import ROOMS, draw_room
from mmrec.reviews.drawing.tableware import draw_table

__all__ = ["SCENES", "draw_photo"]

DISHES = BOWLS | PLATES
SCENES = (*ROOMS, *DISHES)
"""What `draw_photo` can draw: rooms, then dishes."""


def draw_photo(scene: str, price_level: int, ambience: int, rng: np.random.Generator) -> Image.Image:
    """A photo of 256 x 192 pixels.

    Args:
        scene: one of `SCENES`.
        price_level: 1..4; sets the table that a dish stands on.
        ambience: -1 grey and flat light, 0 plain, 1 warm and rich.
        rng: source of all choices.
    """
    canvas = Canvas(rng)
    if scene in ROOMS:
        draw_room(canvas, ROOMS[scene])
    else:
        draw_table(canvas, price_level)
        DISHES[scene](canvas)
    photo = ImageEnhance.Color(canvas.image.reduce(SCALE)).enhance({-1: 0.55, 0: 0.95, 1: 1.15}[ambience])
    if rng.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    light = (ROOMS[scene].light if scene in ROOMS else 1.0) * (0.9 if ambience < 0 else 1.0)
    y = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    corners = light * (1 - 0.13 * (x**2 + y**2))
    grain = 2 * rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32)
    pixels = np.asarray(photo, dtype=np.float32) * corners[..., None] + grain[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
