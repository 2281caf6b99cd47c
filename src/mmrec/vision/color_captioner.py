"""A captioner without a model: what a photo's pixels say of its colours, light and layout, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmrec.llm.types import Answer

__all__ = ["ColorCaptioner"]

_Floats = NDArray[np.float64]
_Names = NDArray[np.uint8]

_SIDE: Final = 64
# fmt: off
_COLOURS: Final = {  # name: sRGB examples
    "black": "080808 1c1c1e 14100e 0c1016", "dark grey": "3a3a3c 4a4a4a", "grey": "666666 808080",
    "light grey": "a0a0a0 c0c0c0", "white": "e0e0e0 ffffff", "cream": "fbf0cd f0e6c8",
    "beige": "d8c8a8 c8b898", "tan": "c8a070 b08c68", "brown": "8b5a2b 7a5540 664838 844010",
    "dark brown": "3c2618 4a3020 30241c", "dark red": "5a0e10 7a1418 3c0c0c 4a1c1c",
    "red": "e01818 b41a1e f03c32 a00c10", "rust": "a8431c b4502c", "orange": "f07818 ff9a30 f08050",
    "amber": "d89020 b87a1c", "gold": "d8b840 c8a850", "yellow": "ffe000 f5dc50 fff080",
    "olive": "6b6b23 85803c 504c20", "dark green": "0c3c14 1e3820 2c4a30 006400",
    "green": "1e8c28 30b440 00ff00 50805a", "light green": "90d890 b4e080 a8c8a0",
    "turquoise": "40d8d0 80e0d8", "light blue": "80bff0 a8d0ec a0b8cc", "blue": "0000ff 1c60c8 3c8cd8 4870a0",
    "dark blue": "0c1450 101e38 1c3464 2c4058 000080", "purple": "6a1e96 8c4ab4 4c2460 6c5490",
    "teal": "0c7070 205050 3c8084", "lavender": "c0a8e0 b4a4c4", "magenta": "e010c0 b81c78",
    "pink": "ff8cb0 ffc0cc d87890", "peach": "f8b890 e0a080 f0c8b0",
}
# fmt: on
_NAMES: Final = tuple(_COLOURS)
_FORMATS: Final = ((0.45, "tall"), (0.9, "portrait"), (1.1, "square"), (2.2, "landscape"))
_LEVELS: Final = ((16.0, "dark"), (38.0, "dim"), (62.0, ""), (84.0, "bright"))
_DETAIL: Final = ((0.04, "few edges"), (0.15, "some detail"), (0.35, "much detail"))

_UNIT: Final = np.arange(256) / 255
_LINEAR: Final = np.where(_UNIT > 0.04045, ((_UNIT + 0.055) / 1.055) ** 2.4, _UNIT / 12.92)
_TO_XYZ: Final = np.array(
    [[0.4339, 0.2126, 0.0177], [0.3762, 0.7152, 0.1095], [0.1899, 0.0722, 0.8728]]
)


def _lab(rgb: NDArray[np.uint8]) -> _Floats:
    """CIELAB (D65) of sRGB pixels in the last axis."""
    xyz = _LINEAR[rgb] @ _TO_XYZ
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@cache
def _table() -> NDArray[np.uint8]:
    """Index into `_NAMES` of the example nearest to a colour, for colours cut to 5 bits a channel."""
    pairs = [
        (i, bytes.fromhex(code)) for i, name in enumerate(_NAMES) for code in _COLOURS[name].split()
    ]
    examples = _lab(np.array([list(code) for _, code in pairs], dtype=np.uint8))
    grid = np.stack(
        np.meshgrid(*[np.arange(4, 256, 8, dtype=np.uint8)] * 3, indexing="ij"), axis=-1
    )
    # |p|^2 is the same for every example, so the nearest needs only |e|^2 - 2 p.e
    distance = _lab(grid.reshape(-1, 3)) @ (-2 * examples.T) + (examples**2).sum(axis=1)
    owners = np.array([i for i, _ in pairs], dtype=np.uint8)
    return np.asarray(owners[distance.argmin(axis=1)]).reshape(32, 32, 32)


def _pick(value: float, steps: Sequence[tuple[float, str]], last: str) -> str:
    """The word of the first limit above the value."""
    return next((word for limit, word in steps if value < limit), last)


def _shares(names: _Names) -> _Floats:
    return np.bincount(names.ravel(), minlength=len(_NAMES)) / names.size


def _top(names: _Names) -> str:
    return _NAMES[int(_shares(names).argmax())]


def _palette(names: _Names) -> str:
    """Up to three names by share, as in `mostly black with red and touches of cream`."""
    shares = _shares(names)
    order = [int(i) for i in np.argsort(-shares, kind="stable")[:3]]
    order = [i for i in order if i == order[0] or shares[i] >= 0.03]
    if len(order) == 1:
        return f"almost all {_NAMES[order[0]]} with hardly any other colour"
    words = [_NAMES[i] for i in order]
    if shares[order[0]] >= 0.5:
        words[0] = f"mostly {words[0]}"
    # shares fall, so one "touches of" covers every name after it
    small = next((k for k, i in enumerate(order) if k and shares[i] < 0.15), None)
    if small is not None:
        words[small] = f"touches of {words[small]}"
    return f"{words[0]} with {' and '.join(words[1:])}"


def _mood(lab: _Floats) -> str:
    """Level and contrast of the light, warmth and saturation; one word at least."""
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    mean = float(chroma.mean())
    # warm hues lie around orange (about 60 degrees), cool ones opposite, around azure
    lean = float((0.5 * lab[..., 1] + 0.866 * lab[..., 2]).mean()) / max(mean, 1.0)
    warmth = "" if mean < 6 else _pick(lean, ((-0.3, "cool"), (0.45, "")), "warm")
    depth = "vivid" if mean > 32 else "muted" if np.quantile(chroma, 0.95) < 28 else ""
    if np.quantile(chroma, 0.98) < 9:
        warmth, depth = "", "black-and-white"
    level = _pick(float(lab[..., 0].mean()), _LEVELS, "very bright")
    contrast = _pick(float(lab[..., 0].std()), ((13.0, "soft"), (27.0, "")), "high-contrast")
    return ", ".join(w for w in (level, contrast, warmth, depth) if w) or "balanced"


def _texture(lab: _Floats) -> str:
    """How much of the photo is edges."""
    down, across = np.diff(lab, axis=0)[:, :-1], np.diff(lab, axis=1)[:-1]
    edges = float((np.sqrt((down**2 + across**2).sum(axis=-1)) > 14).mean())
    return _pick(edges, _DETAIL, "very busy")


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with holes closed: pixels that lie between others both along their row and their column."""
    reach = np.logical_or.accumulate
    rows = reach(mask, axis=1) & reach(mask[:, ::-1], axis=1)[:, ::-1]
    columns = reach(mask, axis=0) & reach(mask[::-1], axis=0)[::-1]
    return np.asarray(rows & columns)


def _extent(profile: NDArray[np.int64]) -> tuple[int, int]:
    """First and one past the last position that holds more than stray pixels."""
    held = np.flatnonzero(profile > 0.1 * profile.max())
    return int(held[0]), int(held[-1]) + 1


def _place(x: float, y: float) -> str:
    """Where a point lies, in shares of width and height."""
    side = _pick(x, ((0.38, "left"), (0.62, "")), "right")
    level = _pick(y, ((0.38, "top"), (0.62, "")), "bottom")
    if level:
        return f"at {level} {side}" if side else f"at the {level}"
    return f"on the {side}" if side else "in the middle"


def _shape(lab: _Floats, names: _Names, ratio: float) -> str:
    """The one thing that stands out of a plain ground, or nothing."""
    border = np.concatenate(
        [lab[:3].reshape(-1, 3), lab[-3:].reshape(-1, 3), *lab[3:-3, [0, 1, -2, -1]]]
    )
    ground = np.median(border, axis=0)
    if np.quantile(np.linalg.norm(border - ground, axis=1), 0.9) > 14:
        return ""
    stands_out = np.linalg.norm(lab - ground, axis=2) > 20
    mask = _filled(stands_out)
    if not 0.02 <= mask.mean() <= 0.9:
        return ""
    (top, bottom), (left, right) = _extent(mask.sum(axis=1)), _extent(mask.sum(axis=0))
    box = mask[top:bottom, left:right]
    y, x = (np.mgrid[: bottom - top, : right - left] + 0.5) / np.reshape(
        box.shape, (2, 1, 1)
    ) * 2 - 1
    disc = x**2 + y**2 <= 1
    even = 0.75 < ratio * (right - left) / (bottom - top) < 1.33
    kind = "shape"
    if box.mean() >= 0.92:
        kind = "square shape" if even else "rectangular shape"
    elif (box & disc).sum() >= 0.85 * (box | disc).sum():
        kind = "round shape" if even else "oval shape"
    place = _place((left + right) / 2 / _SIDE, (top + bottom) / 2 / _SIDE)
    return f"{_top(names[stands_out & mask])} {kind} {place}, plain background"


def _sides(light: _Floats, names: _Names, start: str, end: str, bands: str) -> str:
    """Bands, or how the first rows differ from the last ones; pass transposed arrays for columns."""
    profile, third = light.mean(axis=1), _SIDE // 3
    step = float(profile[-third:].mean() - profile[:third].mean())
    if light.var() > 25 and profile.var() > 0.6 * light.var() and abs(step) < 0.5 * np.ptp(profile):
        return f"{bands} bands of light"
    excess = _shares(names[:third]) - _shares(names[-third:])
    if min(excess.max(), -excess.min()) > 0.25:
        return f"{_NAMES[int(excess.argmax())]} {start}, {_NAMES[int(excess.argmin())]} {end}"
    bright, dark = (end, start) if step > 0 else (start, end)
    return f"brighter {bright} than {dark}" if abs(step) > 14 else ""


def _centre(light: _Floats) -> str:
    core = slice(_SIDE // 4, -_SIDE // 4)
    inner = float(light[core, core].mean())
    outer = float((light.mean() - inner / 4) / 0.75)
    if abs(inner - outer) < 10:
        return ""
    lit = inner > outer
    if min(inner, outer) < 45 < max(inner, outer):
        return "bright centre on a dark ground" if lit else "dark centre on a bright ground"
    return "brightest in the middle" if lit else "darkest in the middle"


def _layout(lab: _Floats, names: _Names, ratio: float) -> str:
    """The first of these that holds: a shape, sides that differ, a lit or dark centre."""
    light = lab[..., 0]
    return (
        _shape(lab, names, ratio)
        or _sides(light, names, "above", "below", "horizontal")
        or _sides(light.T, names.T, "left", "right", "vertical")
        or _centre(light)
        or "colours spread evenly"
    )


class ColorCaptioner:
    """Says of a photo what its pixels show: colours, light, warmth, layout and detail; not what is in it.

    It needs no model and no network, and the same pixels always give the same sentence. It is no
    vision-language model: two dishes in the same colours on the same plate read alike.
    """

    chunk = 64

    @property
    def provenance(self) -> dict[str, object]:
        """What determines a caption besides the photo."""
        return {"kind": "caption", "model": "builtin", "revision": "2"}

    def caption(
        self, photos: Iterator[list[tuple[int, Image.Image]]]
    ) -> Iterator[tuple[int, Answer]]:
        """One sentence of some 12 to 30 words a photo; a caption never depends on the photos next to it."""
        for block in photos:
            for number, photo in block:
                yield number, Answer(text=_caption(photo))

    def status(self) -> str:
        """Nothing is used up."""
        return ""


def _caption(photo: Image.Image) -> str:
    rgb = photo if photo.mode == "RGB" else photo.convert("RGB")
    small = np.asarray(rgb.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0))
    lab = _lab(small)
    names = _table()[tuple(np.moveaxis(small >> 3, 2, 0))]
    shape = _pick(photo.width / photo.height, _FORMATS, "panoramic")
    head = f"A {_mood(lab)} {shape} photo"
    if np.ptp(lab.reshape(-1, 3), axis=0).max() < 2:
        return f"{head}, all {_top(names)}; one flat colour, no edges, nothing in it."
    tail = [_layout(lab, names, photo.width / photo.height), _texture(lab)]
    swing = lab[..., 0] - lab[..., 0].mean()
    if (swing * swing[:, ::-1]).sum() > 0.8 * (swing * swing).sum() > 0:
        tail.append("symmetric")
    return f"{head}, {_palette(names)}; {', '.join(tail)}."
