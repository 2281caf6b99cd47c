"""A captioner without a model: the brightness and the main colours of a photo, in words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist

from mmrec.llm.types import Answer
from mmrec.vision.captioner import PhotoBlocks

__all__ = ["ColorCaptioner"]

# fmt: off
_PALETTE = {  # name: sRGB examples
    "black": "080808 1c1c1e 14100e 0c1016", "dark grey": "3a3a3c 4a4a4a",
    "grey": "666666 808080", "light grey": "a0a0a0 c0c0c0", "white": "e0e0e0 ffffff",
    "cream": "fbf0cd f0e6c8", "beige": "d8c8a8 c8b898", "tan": "c8a070 b08c68",
    "brown": "8b5a2b 7a5540 664838 844010", "dark brown": "3c2618 4a3020 30241c",
    "dark red": "5a0e10 7a1418 3c0c0c 4a1c1c", "red": "e01818 b41a1e f03c32 a00c10",
    "rust": "a8431c b4502c", "orange": "f07818 ff9a30 f08050", "amber": "d89020 b87a1c",
    "gold": "d8b840 c8a850", "yellow": "ffe000 f5dc50 fff080",
    "olive": "6b6b23 85803c 504c20", "dark green": "0c3c14 1e3820 2c4a30 006400",
    "green": "1e8c28 30b440 00ff00 50805a", "light green": "90d890 b4e080 a8c8a0",
    "turquoise": "40d8d0 80e0d8", "teal": "0c7070 205050 3c8084",
    "lavender": "c0a8e0 b4a4c4", "light blue": "80bff0 a8d0ec a0b8cc",
    "blue": "0000ff 1c60c8 3c8cd8 4870a0",
    "dark blue": "0c1450 101e38 1c3464 2c4058 000080",
    "purple": "6a1e96 8c4ab4 4c2460 6c5490", "magenta": "e010c0 b81c78",
    "pink": "ff8cb0 ffc0cc d87890", "peach": "f8b890 e0a080 f0c8b0",
}
# fmt: on


class ColorCaptioner:
    """Describes how bright a photo is and which colours it has, not what can be seen in it.

    It needs no model and no network, and the same pixels always give the same caption. Its
    captions are features of the ranker only, and are not displayed.
    """

    chunk_size = 64

    @property
    def provenance(self) -> dict[str, object]:
        """What determines a caption besides the photo."""
        return {"kind": "caption", "model": "builtin", "revision": "3"}

    def caption(self, photos: PhotoBlocks) -> Iterator[tuple[int, Answer]]:
        """Caption photos one by one."""
        for block in photos:
            for number, photo in block:
                yield number, Answer(text=_describe(photo))

    def status(self) -> str:
        """Nothing is used up."""
        return ""


def _describe(photo: Image.Image, side: int = 64, min_share: float = 0.03) -> str:
    """`A dim photo, mostly black with red and touches of cream.`"""
    small = photo.convert("RGB").resize((side, side), Image.Resampling.BOX, reducing_gap=2.0)
    lab = _to_lab(np.asarray(small).reshape(-1, 3))
    names, examples = _examples()
    nearest = cdist(lab, examples).argmin(axis=1)
    # Sorted by name, so that the stable sort below breaks ties in the same way everywhere.
    colors, counts = np.unique(names[nearest], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    words: list[str] = []
    for color, share in zip(colors[order], counts[order] / len(lab), strict=True):
        if not words:
            words.append(f"mostly {color}" if share >= 0.5 else color)
        elif share >= min_share:
            words.append(color if share >= 0.15 else f"a touch of {color}")
    if len(words) == 1:
        return f"A {_brightness(lab)} photo, almost all {colors[order[0]]}."
    return f"A {_brightness(lab)} photo, {words[0]} with {' and '.join(words[1:])}."


def _brightness(lab: np.ndarray) -> str:
    """A word for the mean lightness, which is 0 for black and 100 for white."""
    words = ("dark", "dim", "balanced", "bright", "very bright")
    return words[int(np.digitize(lab[:, 0].mean(), (16, 38, 62, 84)))]


@cache
def _examples() -> tuple[np.ndarray, np.ndarray]:
    """Names (n,) and CIELAB coordinates (n, 3) of the palette's examples."""
    names = np.repeat(list(_PALETTE), [len(codes.split()) for codes in _PALETTE.values()])
    rgb = np.frombuffer(bytes.fromhex(" ".join(_PALETTE.values())), dtype=np.uint8)
    return names, _to_lab(rgb.reshape(-1, 3))


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB pixels (n, 3) uint8; equal distances look equally different there."""
    value = rgb / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    # The matrix of IEC 61966-2-1, each column divided by the white point.
    to_xyz = [[0.4339, 0.2126, 0.0177], [0.3762, 0.7152, 0.1095], [0.1899, 0.0722, 0.8728]]
    xyz = linear @ np.array(to_xyz)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
