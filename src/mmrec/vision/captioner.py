"""What a captioner does, which there are, and the builtin one, which names colours."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pkgutil import resolve_name
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist

from mmrec.cache.store import Failure, Provenance
from mmrec.config import Config, VisionConfig
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ConfigError
from mmrec.llm.cost import Budget
from mmrec.llm.factory import open_chat_client
from mmrec.llm.types import Answer

PhotoBlocks = Iterator[list[tuple[int, Image.Image]]]
"""RGB photos in blocks, each with its number."""


class Captioner(Protocol):
    """Describes RGB photos, upright, of up to 1,024 pixels a side, without a question (paper, 3.2)."""

    chunk_size: int  # photos in a block, whose captions are stored together
    status: Callable[[], str] = str  # what was used up so far, for `console.track`

    @property
    def provenance(self) -> Provenance:
        """What determines a caption besides the photo; its kind is `caption`."""

    def compute(self, photos: PhotoBlocks) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption photos in any order; a caption with a `caption_fault` is a failure."""


CAPTIONERS: dict[str, tuple[str, str | None]] = {
    "builtin": ("mmrec.vision.captioner:ColorCaptioner", None),
    "blip2": ("mmrec.vision.blip:BlipCaptioner", "Salesforce/blip2-opt-2.7b"),
    "blip": ("mmrec.vision.blip:BlipCaptioner", "Salesforce/blip-image-captioning-base"),
}
"""Class and default model, or None without weights, of captioners that run here.

To add one, write its class, a `Captioner`, in a file, its line here, and its name in the help.
"""


def open_captioner(
    config: Config, budget: Budget | None = None, placement: Placement | None = None
) -> Captioner:
    """Open the captioner of `config.vision`; a ConfigError says which ones there are."""
    name = config.vision.captioner
    kind, _, model = name.partition(":")
    path, default = CAPTIONERS.get(kind, ("", None))
    if default is not None:  # the class takes the model, its revision, a placement
        captioner_class: Callable[..., Captioner] = resolve_name(path)
        return captioner_class(model or default, config.vision.captioner_revision, placement)
    if path and not model:
        captioner: Captioner = resolve_name(path)()
        return captioner
    budget = budget or Budget(config.language.budget)
    if client := open_chat_client(name, config.language, budget):
        # By path, as in the table above, since captioners import this module.
        captioner = resolve_name("mmrec.vision.openai_captioner:OpenAICaptioner")(client)
        return captioner
    names = []
    for kind, (_, default) in CAPTIONERS.items():
        names.append(f"{kind}[:MODEL_OR_FOLDER]" if default else kind)
    choices = f"{', '.join(names)}, openai:MODEL[@URL], ollama:MODEL or a URL"
    raise ConfigError(
        f"--captioner {name.partition(':')[0]}: no such captioner; there are {choices}"
    )


def caption_fault(caption: str, max_characters: int = 800) -> str | None:
    """Why a caption is useless, as `kind: detail`; None for one that can be used."""
    words = re.findall(r"\w+", caption.lower())
    if not caption.strip():
        return "empty caption"
    if len(caption) > max_characters:
        return f"caption is too long: {len(caption)} characters"
    if re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd]", caption):
        return "caption holds control characters"
    special_token = r"<\|?/?[a-z_]+\|?>|\[(?:PAD|UNK|CLS|SEP|MASK|DEC|ENC)\]"
    if re.search(special_token, caption, re.IGNORECASE):
        return "caption holds special tokens"
    if not any(character.isalpha() for character in caption):
        return "caption has no words"
    empty_words = (
        "a an the this that it there here is are was shows showing of in on at by for from "
        "to and or with photo photograph picture image img view shot close up closeup caption"
    )
    if set(words) <= set(empty_words.split()):
        return f"caption says nothing: {caption[:60]}"
    loops = (
        r"([^\W\d_]{1,10}?)\1{5,}",  # "hahahahahaha"
        r"\b(\w+)(?: \1\b){3}",  # "very very very big" is still English
        r"\b(\w+(?: \w+){1,2})(?: \1\b){2}",
        r"\b(\w+(?: \w+){3,7}) \1\b",
        r"\b(\w+(?: \w+){3})\b(?:.* \1\b){2}",  # the same four words in three places
    )
    for loop in loops:
        if match := re.search(loop, " ".join(words)):
            return f"caption loops: {match[1][:60]}"
    # "a room with a table and a table with a room": nothing new is said after a while.
    if len(words) >= 10 and len(set(words)) < 0.45 * len(words):
        return f"caption loops: {' '.join(words[-6:])[:60]}"
    return None


def vision_checks() -> dict[str, tuple[str, str]]:
    """State and detail of captioners and of the image baseline, for `mmrec doctor`."""
    checks = {"captions": ("ok", "builtin (brightness and colours in words, no vision model)")}
    models = [("image baseline", VisionConfig().image_model, "--image-model")]
    for kind, (_, default) in reversed(CAPTIONERS.items()):
        if default is not None:
            models.insert(0, (f"captions by {kind}", default, f"--captioner {kind}"))
    for subject, model, option in models:
        checks[subject] = ("ok", f"{model}, the weights are here")
        if Weights.find(model) is None:
            detail = f"download it with `hf download {model}`, or name another one by {option}"
            checks[subject] = ("missing", detail)
    return checks


class ColorCaptioner(Captioner):
    """Names brightness and colours of a photo; for the ranker only, never displayed."""

    chunk_size = 64
    provenance: ClassVar = {"kind": "caption", "model": "builtin", "revision": "3"}

    def compute(self, photos: PhotoBlocks) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption photos one by one."""
        for block in photos:
            for number, photo in block:
                yield number, Answer(text=_describe_colors(photo))


def _describe_colors(photo: Image.Image, side: int = 64, min_share: float = 0.03) -> str:
    """`A dim photo, mostly black with red and touches of cream.`"""
    small = photo.convert("RGB").resize((side, side), Image.Resampling.BOX, reducing_gap=2.0)
    lab = _to_lab(np.asarray(small).reshape(-1, 3))
    words = ("dark", "dim", "balanced", "bright", "very bright")
    brightness = words[int(np.digitize(lab[:, 0].mean(), (16, 38, 62, 84)))]
    names, examples = _palette()
    nearest = cdist(lab, examples).argmin(axis=1)
    # Sorted by name, so that the stable sort below breaks ties everywhere alike.
    colors, counts = np.unique(names[nearest], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    main, *minor = zip(colors[order], counts[order] / len(lab), strict=True)
    accents: list[str] = []
    for color, share in minor:
        if share >= min_share:
            accents.append(color if share >= 0.15 else f"a touch of {color}")
    if not accents:
        return f"A {brightness} photo, almost all {main[0]}."
    mostly = "mostly " if main[1] >= 0.5 else ""
    return f"A {brightness} photo, {mostly}{main[0]} with {' and '.join(accents)}."


@cache
def _palette() -> tuple[np.ndarray, np.ndarray]:
    """Names (n,) and CIELAB coordinates (n, 3) of examples of colours."""
    # Name -> sRGB examples.
    content = resources.files("mmrec.vision").joinpath("palette.json").read_text("utf-8")
    palette: dict[str, str] = json.loads(content)
    names = np.repeat(list(palette), [len(codes.split()) for codes in palette.values()])
    rgb = np.frombuffer(bytes.fromhex(" ".join(palette.values())), dtype=np.uint8)
    return names, _to_lab(rgb.reshape(-1, 3))


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB pixels (n, 3) uint8; distances there are as eyes see them."""
    value = rgb / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    # The matrix of IEC 61966-2-1, each column divided by the white point.
    to_xyz = [[0.4339, 0.2126, 0.0177], [0.3762, 0.7152, 0.1095], [0.1899, 0.0722, 0.8728]]
    xyz = linear @ np.array(to_xyz)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
