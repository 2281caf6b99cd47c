"""Photos of Sample City: tables of shapes, and the few functions that draw them with Pillow.

Colours and layout follow the scene (a dim bar, a white café, noodles in a bowl), so that a captioner that
only knows colours and shapes has something true to say.

A line of a table has a name and shapes, back to front. A shape is a form (an outline, a glow, another line),
its numbers (`size`, `width height`, `x y size` or `x y width height`, all from the middle) and a colour. `+`
throws a shadow, `@30` turns. `9~40` strews nine pieces over a disc of radius 40 (`9~40,20`: an ellipse),
`9*40` sets them around a circle, `9:13,0,20` in a row of steps (13, 0) that sags by 20. Of colours, `|`
separates what a photo chooses from and `/` what pieces take in turn; `its` is the colour asked of the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageEnhance

__all__ = ["SCENES", "draw_photo"]

Outline = npt.NDArray[np.complex128]

WIDTH, HEIGHT = 256, 192
SCALE = 2
"""Photos are drawn this much larger and then reduced, because Pillow's shapes have hard edges."""
SHADOW, EDGE = 8 + 12j, 2j  # where a shape's shadow and its darker edge lie, in these larger pixels
GLOW = Image.radial_gradient("L").point(lambda value: max(0, 255 - value * 1.42))
Y, X = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
VIGNETTE = (1 - 0.13 * (X**2 + Y**2)).astype(np.float32)[..., None]
LAYOUT = re.compile(r"(\d*)([@~*:])(\S+)")


def _table(text: str) -> dict[str, str]:
    """Shapes by name; an indented line goes on with the one before it."""
    return dict(line.split(": ", 1) for line in text.strip().replace("\n  ", " ").splitlines())


PARTS = _table("""
dish: oval+; oval .77 #0001; oval 0 .01 .74
bowl: oval+; oval .89 #0003
board: slab+ 1 .56; box .98 .005 #0002 3:0,.3
herb: leaf 1 .5 #584|#7a4|#473|#8c5
dip: bowl; oval .85; hook .45 #fff5; herb .22 5~.5
coin: oval; oval .76 #fff8; oval .3
egg: oval 1 .9 white; oval .5 .47 #ea2; oval -.16 -.16 .14 .1 #fffb
heap: oval; leaf .5 .14 22~.9; leaf .45 .1 #fff7/#0003 14~.85
dumpling: oval+ 1 .93 #fed; box .34 .04 #cb8 9*.55; oval .2
steak: oval+; oval -.1 -.1 .75 .7 #fff3
nigiri: slab+ 1 .46 #ffe; oval -.04 -.05 1.08 .4; box 0 -.05 .04 .34 #fff9 4:.42,0 @20
maki: oval+ #222; oval .8 #ffe; oval .4
taco: oval+ .6 1 #db5; oval .47 .88 #ed9; leaf .2 .12 its/its/#7a4/#d43/#fed 36~.32,.72
rib: slab+ .19 1 #421; slab -.04 -.03 .12 .92 #731; box -.07 -.2 .03 .5 #b53; oval 0 1.05 .1 .14 #edc
croissant: moon #b62; moon 0 .1 .82 .7 #da5; box 0 .3 .03 .25 #b62 5:.32,0,.35
spoon: slab+ 0 14 1.7 44 #ccc; oval+ 0 -36 6 11 #ccc
check: box 8 96 9:32,0; box 128 8 7:0,32
cloth1: box 128 96 #eed; check #d545|#58c5|#5a65|#da45
cloth2: box 128 96 #a74|#b85|#853; box 128 .6 #4215 6:0,32; box 0 -9 128 .3 #4214 6:0,32
cloth3: box 128 96 #3c4146; glow -50 -40 110 80 #8895
cloth4: box 128 96 #eee; tri -114 -82 30 52 #ddd @-135; glow 110 -80 50 #fc7; oval 110 -80 8 #fec
window: box 0 -34 38 46; box 0 -34 35 43 #bde|#def|#fec; dome 12 8 18 12 #9c8; box 0 -34 1 43; box 0 -44 35 1
sky: box 0 -40 150 62 #7be|#e85|#8ce; glow 0 9 99 #fec; oval 30 -52 9 #feb; oval 0 12 19 16 #584 13:21,0
sea: box 0 -36 108 48; box 0 -64 104 18 #adf; box 0 -17 104 29 #27b; tri 6 -48 12 8 @-90; pot 4 -31 14 4 #732
arch: dome 0 -34 22 24 #ffe; box 0 -6 22 28 #ffe; dome 0 -32 18 20 #532; box 0 -5 18 27 #532
picture: box 0 -46 15 18 #ec8; box 0 -46 12 15 #366|#db4; oval 0 -46 6 #fec
mirror: oval+ 0 -38 27 33 #ca4; oval 0 -38 24 30 #bcc; leaf -8 -46 14 3 #eee @-55
curtains: box -111 -37 4 59 #724/#623 5:8,0; box 111 -37 4 59 #724/#623 5:8,0
bottle: slab 0 -8 3.4 8; box 0 -17 1.1 4
shelf: bottle #463/#a62/#ca6/#732/#468/#dcb 24:9.4,0
bottles: glow 130 60 #d83; box 0 -26 114 2 #853 2:0,36; shelf 0 -46 1; shelf 4 -10 1; box 0 14 128 9 #642
lattice: box 0 -28 46 42 #da4; box 0 -28 1.2 42 #211 9:11.5,0; box 0 -28 46 1.2 #211 8:0,12
paper: box 0 -36 98 50 #ffd; box 0 -36 1.6 50 #542 5:48,0; box 0 -36 98 1.6 #542 4:0,33; oval 0 -40 20 #c43
plant: leaf 0 -14 19 5 #474/#594/#363/#7b5 13*18; pot 0 14 12 13 #b64
notices: box 0 -42 36 24 #333; box -7 -42 20 1 #ddd 5:0,8; box 26 -42 4 1 #eb5 5:0,8
pendant: box 0 -80 .6 18 #222; glow 0 -50 44 #fd8; pot 0 -60 12 6 #322 @180; oval 0 -53 6 3 #ffc
lantern: box 0 -82 .6 16 #211; glow 0 -64 36 #f94; oval 0 -64 14 12 #e32|#f52|#ea2; oval 0 -64 6 11 #fc7
wire: oval 0 -92 .8 #443 56:1.65,0,24
lights: wire; glow 0 -90 11 #fd9 8:11,0,24; oval 0 -90 2.4 #fed 8:11,0,24
flags: wire; tri 0 -85 6 6.5 #e55/#fb3/#3a9/#85c/#f8b 7:12.6,0,22 @90
candle: glow 0 -42 44 #fc6; leaf 0 -42 5 2 #ffc @90; box 0 -34 2 4 #ca4
tubes: glow 0 -86 70 34 #eff 2:110,0; slab 0 -86 36 3 white 2:110,0
chair: slab 10 18 seat; box 0 26 1.5 11 #222 2:10,0
seats: glow 0 30 54 16 black; chair 2:90,0; box 0 20 3 18 #333; oval 0 3 35 9 #333; oval 35 9 wood; oval 9 3
  #ffe 2:32,0; oval 0 -1 5 1.6 #c52/#7a5 2:32,0; slab 0 -7 1.6 7 #fed|#6a5|#c43|#8bd
shell: box 0 59 150 37 floor; box 0 -40 150 .5 #0002 44*150; box 0 -37 150 59 wall; glow 20 -60 120 70 #fff6
front: box 0 23 150 2 wood; seats -58 42 .8; seats 54 62 1.1
""")

DISHES = _table("""
bibimbap: bowl 80 #222; oval 69 #eed; heap 22 #e73/#584/#eec/#742/#cd7/#835 6*45; egg 28
burger: board 96 #b85|#543|#ddc; slab+ -38 36 44 10 #c73; slab -38 24 42 6 #532; slab -38 16 45 4 #eb3; slab
  -38 10 43 4 #d33; slab -38 3 46 4 #7a4; dome -38 0 43 40 #c84; leaf -38 -20 2.6 1.4 #fec 16~26,10; box 52
  -12 2.2 30 #ea3/#fd6/#ec4 7:6,0,-6 @5; pot+ 52 22 25 24 #c33|#eee|#477
coffee: dish -16 0 64 white; slab 34 0 14 6 white|#6aa|#eb9|#344; bowl -16 0 43 white|#6aa|#eb9|#344; oval -16
  0 37 #742; oval -16 0 33 #853; oval -16 -6 11 #edb 2:17,0; tri -16 9 12 19 #edb @90; croissant 76 8 38 @-75
curry: bowl -30 0 68 #b73|#322|#eed; oval -30 0 59 #d82|#c52|#793|#da3; oval -30 0 10 8 #c84/#842 11~44; hook
  -30 0 28 #feda; herb -30 0 7 16~38; dish 80 22 44; leaf 80 22 5 2 #eed 60~29
dessert: dish 84 white|#edd|#dee; box+ 0 8 46 33 #fed|#fbc|#532|#cd9; box 0 16 46 7 #c84|#742|#eb7 3:0,19;
  slab 0 -24 47 6 #fed|#fbc|#532|#cd9; oval 0 -35 9 #c24/#438/#d45 4:19,0; oval 0 56 4 #823 7:13,0,6
dumplings: bowl -14 0 84 #db8; dumpling -14 0 20 #d74/#7a4 6*46; dumpling -14 0 20 #d74; dip 94 -54 26 #321
fish: oval+ 112 66 white; tri 70 0 -22 25 #e85|#b85; leaf 72 34 #e85|#b85; leaf 0 6 62 17 #fff6; hook -12 0 13
  8 #0003 6:14,0 @-90; oval -52 -4 3 #222; coin 0 45 12 #ec3 3:26,0; herb 10 -44 13 16~26,7
mezze: board 104 #a74|#c96|#ddc; dip -20 -24 25 #eda/#b42/#ffe 3:54,0; dip -22 28 25 #875/#683 2:56,0; tri 74
  14 24 15 #db8/#ca6 3:8,14 @20; oval -86 36 5 #342/#523 7~11
noodles: bowl 80 #235|#a33|#eee|#333; oval 69 #c84|#a52|#db6; hook 18 #ed9/#ec7/#feb 120~47; egg -16 -32 17
  2:30,-10; steak 34 14 17 #b76 3:5,15; box -44 16 13 18 #233 @8; herb -4 34 6 30~24
paella: box+ 98 9 #222; bowl 84 #222; oval 75 #da2; leaf 6 3 #eb4/#d92/#fc6 300~70; moon 14 #e74 7~50; leaf 14
  8 #223 7*48; leaf 10 5 #e95 7*48; dome 16 #fd4 3*60 @90; oval 3 #594/#b32 26~60
pasta: dish 82 white; hook 19 #ec7/#eb5/#fd9 170~40; oval 10 9 #b32|#832|#683|#edb 22~24; leaf 11 5 #483 3*11
pizza: oval+ 86 #c84; oval 76 #c42; oval 10 #fda 44~65; oval 7 #a22 14~58; herb 9 14~64; box 86 .6 #531 3*0
plate: dish 86 white; moon 0 6 60 58 #732|#da3|#673|#a43 @110; steak -8 6 23 #742|#c84|#532|#d97 4:13,5 @70;
  oval 20 -36 9 8 #ed8/#ec6 10~18; leaf 30 40 24 3.4 #584/#e73/#7a4 5:1,6 @-10
ribs: board 104 #853|#332; rib -34 -6 42 7:17,0 @7; bowl 68 -20 29; heap 68 -20 23 #bc8; dip 72 36 19 #621
salad: bowl 82 #b85|#eee|#787; oval 72 #dec; leaf 15 7 #584/#7a4/#9c6/#746 120~62; coin 10 #d32/#8b7 17~52
sushi: board 0 -6 104 #322|#643|#da7; nigiri -14 -26 23 #e74/#e56/#fb9/#c34 4:42,0 @-66; maki -24 22 15
  #e74/#7a6/#eb5 4:34,0; oval+ 72 24 10 9 #9c4; leaf 80 -22 13 6 #fba 5*6; box+ 0 62 100 2 #832 2:0,9
tacos: board 106 #edb|#477|#a74; taco -10 0 50 #842|#c63|#ed9 3:60,0 @8; coin 92 -34 11 #ac4
thali: dish 88 #ccc; dip 23 #d82/#793/#a32/#eec/#642 5*55; oval+ 0 2 30 26 #db8; oval 0 2 3 2 #b84 10~20
""")

ROOMS = _table("""
trattoria: #da7|#d96|#c85 #853 #642 #a33; arch -66 0 1 2:60,0; picture 60 0 1 2:40,8; pendant 3:78,0
fine: #433|#234|#443 #322 #ccb #523; mirror -46 0 1; curtains; candle 3:92,0
terrace: white #ca7 #753 #476; sky; plant -64 0 1; lights 3:92,0
cantina: #e73|#d57|#399 #a64 #da3 #277; arch -70 0 1 2:60,0; plant 64 0 1; flags 3:92,0
lanterns: #612|#412|#621 #311 #211 #822; lattice -56 0 1; lattice 56 0 1; lantern 5:48,0
zen: #eec|#edc #ca6 #974 #554; paper; plant -92 0 1; pendant 3:78,0
bar: #211|#212|#122 #111 #421 #521; bottles; pendant 3:78,0
canteen: #bcb|#bbc|#cca #898 #ba9 #788; notices 62 0 1; tubes
garden: #cec|#bdb #b86 #863 #584; window 62 0 1; plant -80 0 1; plant -24 0 1; lights 3:92,0
saffron: #b72|#a42|#725 #622 #421 #266; arch -66 0 1 2:60,0; picture 66 0 1 2:40,8; lantern 5:48,0
diner: #8cc|#edb|#ace #eee #ddd #c33; window -72 0 1; notices 40 0 1; tubes
cafe: #ffe|#eee|#fee #db8 #c96 #eed; window -66 0 1; plant 66 0 1; pendant 3:78,0
aegean: #fff|#eef #dee #26a #37c; sea; arch 66 0 1 2:60,0; lights 3:92,0
""")
"""The colours of wall, floor, wood and seats; then what is in the room."""

SCENES = (*ROOMS, *DISHES)
"""What `draw_photo` can draw: rooms, then dishes."""

TURN = np.exp(1j * np.linspace(0, np.pi, 19))
ROUND = np.concatenate([TURN, TURN.conj()[::-1]])
OUTLINES = {
    "box": np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]),
    "dome": TURN.conj(),
    "glow": ROUND,
    "hook": np.concatenate([TURN, 0.88 * TURN[::-1]]),
    "leaf": ROUND.real + 1j * ROUND.imag * abs(ROUND.imag),
    "moon": np.concatenate([TURN, TURN[::-1].real + 0.3j * TURN[::-1].imag]),
    "oval": ROUND,
    "pot": np.array([-1 - 1j, 1 - 1j, 0.72 + 1j, -0.72 + 1j]),
    "slab": ROUND / np.maximum(abs(ROUND.real), abs(ROUND.imag)) ** 0.8,
    "tri": np.array([1, -1 - 1j, -1 + 1j]),
}
"""Corners of every form in -1..1, as complex numbers."""


def draw_photo(
    scene: str, price_level: int, ambience: int, rng: np.random.Generator
) -> Image.Image:
    """A photo of 256 x 192 pixels.

    Args:
        scene: one of `SCENES`.
        price_level: 1..4; sets the table that a dish stands on.
        ambience: -1 grey and flat light, 0 plain, 1 warm and rich.
        rng: source of all choices.
    """
    canvas = Canvas(Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE)), rng)
    middle = complex(WIDTH, HEIGHT) * SCALE / 2
    if scene in ROOMS:
        looks, things = ROOMS[scene].split(";", 1)
        named = dict(zip(("wall", "floor", "wood", "seat"), looks.split(), strict=True))
        for shapes in ("shell", things, "front"):
            canvas.paint(middle + rng.uniform(-16, 16), SCALE, shapes, **named)
    else:
        canvas.paint(
            middle, SCALE, f"cloth{price_level}" + "; spoon -114 0 1" * (rng.random() < 0.6)
        )
        canvas.paint(middle, SCALE * np.exp(1j * rng.normal(0, 0.1)), DISHES[scene])
    colour, light = {-1: (0.55, 0.9), 0: (0.95, 1.0), 1: (1.15, 1.0)}[ambience]
    photo = ImageEnhance.Color(canvas.photo.reduce(SCALE)).enhance(colour)
    if rng.random() < 0.5:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(photo) * (light * VIGNETTE) + 2 * rng.standard_normal(
        (HEIGHT, WIDTH, 1), np.float32
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Canvas:
    """A large photo in the making. Points are complex numbers, in pixels from the upper left corner."""

    photo: Image.Image
    rng: np.random.Generator

    def paint(self, middle: complex, scale: complex, shapes: str, **named: str) -> None:
        """Draw shapes whose point z lies at `scale * z + middle`; `named` are colours that go by a name."""
        luck = int(
            self.rng.integers(60)
        )  # one for all, so that shapes with equal choices of colours match
        for shape in shapes.split(";"):
            form, *words = LAYOUT.sub("", shape).split()
            numbers = [float(word) for word in words if word[0] in "-.0123456789"]
            x, y, *size = numbers if len(numbers) > 2 else (0.0, 0.0, *numbers)
            width, height = (*size, *size, 1.0, 1.0)[:2]
            colour = words[-1] if len(words) > len(numbers) else named.get("its", "white")
            choices = re.sub(r"\w+", lambda name: named.get(name[0], name[0]), colour).split("|")
            tints = cycle(choices[luck % len(choices)].split("/"))
            for (at, turn), tint in zip(self.layout(shape), tints, strict=False):
                spot, axis = middle + scale * (complex(x, y) + at), scale * turn
                if form in PARTS:
                    self.paint(spot, axis * width, PARTS[form], **{**named, "its": tint})
                else:
                    outline = OUTLINES[form.rstrip("+")]
                    outline = axis * (width * outline.real + 1j * height * outline.imag)
                    self.stamp(form, spot, outline, tint)

    def layout(self, shape: str) -> Iterator[tuple[complex, complex]]:
        """Where each piece of a shape lies, and how it is turned, as a complex number of length 1."""
        at, turns = np.zeros(1), np.ones(1)
        for number, kind, values in LAYOUT.findall(shape):
            a, b, sag = map(float, [*values.split(","), "0", "0"][:3])
            count = int(number or 1)
            if kind == "@":
                turns = turns * np.exp(1j * np.deg2rad(a))
            elif kind == "*":
                turns = np.exp(2j * np.pi * np.arange(count) / count)
                at = a * turns
            elif kind == "~":
                turns, at = np.exp(2j * np.pi * self.rng.random((2, count)))
                at = (a * at.real + 1j * (b or a) * at.imag) * np.sqrt(self.rng.random(count))
            else:
                along = np.linspace(-1, 1, count)
                at = (a + 1j * b) * along * (count - 1) / 2 + 1j * sag * (1 - along**2)
        at, turns = np.broadcast_arrays(at, turns)
        return zip(at.tolist(), turns.tolist(), strict=True)

    def stamp(self, form: str, spot: complex, outline: Outline, tint: str) -> None:
        """One shape around a spot, with a darker edge below; soft for a glow."""
        red, green, blue, alpha = (*ImageColor.getrgb(tint), 255)[:4]
        if form == "glow":
            width, height = int(np.ptp(outline.real)) + 1, int(np.ptp(outline.imag)) + 1
            mask = GLOW.resize((width, height)).point(
                [value * alpha // 360 for value in range(256)]
            )
            corner = int(spot.real - width / 2), int(spot.imag - height / 2)
            self.photo.paste((red, green, blue), corner, mask)
            return
        if form.endswith("+"):
            self.stamp("glow", spot + SHADOW, 1.3 * outline, "black")
        draw = ImageDraw.Draw(self.photo, "RGB" if alpha == 255 else "RGBA")  # blending is slow
        for at, shade in ((spot + EDGE, 0.75), (spot, 1)):
            ink = int(red * shade), int(green * shade), int(blue * shade), alpha
            draw.polygon((at + outline).view(np.float64).tolist(), ink)
