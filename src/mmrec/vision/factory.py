"""From settings to captioners, and what of them this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mmrec.config import VisionConfig
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ConfigError
from mmrec.vision.color_captioner import ColorCaptioner
from mmrec.vision.types import Captioner

__all__ = ["cached_models", "open_captioner", "vision_checks"]

_BLIPS: Final = {  # spelling: kind of model, and the one by default
    "blip2": ("blip-2", "Salesforce/blip2-opt-2.7b"),
    "blip": ("blip", "Salesforce/blip-image-captioning-base"),
}
_SERVERS: Final = ("openai", "ollama", "http", "https")
_KNOWN: Final = (
    "builtin, blip2[:MODEL_OR_FOLDER], blip[:MODEL_OR_FOLDER], "
    "openai:MODEL[@URL], ollama:MODEL or a URL"
)


def open_captioner(
    config: VisionConfig,
    open_remote: Callable[[VisionConfig], Captioner] | None = None,
    placement: Placement | None = None,
) -> Captioner:
    """The captioner that is named; weights are loaded when the first photo comes.

    Args:
        config: names it.
        open_remote: opens one behind HTTP: `openai:...`, `ollama:...`, or a URL.
        placement: where a model runs and how exact; the fastest of this machine by default.

    Raises:
        ConfigError: no such captioner.
    """
    kind, _, model = config.captioner.partition(":")
    if config.captioner == "builtin":
        return ColorCaptioner()
    if kind in _BLIPS:
        from mmrec.vision.blip import BlipCaptioner

        return BlipCaptioner(model or _BLIPS[kind][1], config.captioner_revision, placement)
    if kind in _SERVERS and model and open_remote is not None:
        return open_remote(config)
    raise ConfigError(f"--captioner {config.captioner}: no such captioner; there are {_KNOWN}")


def cached_models() -> Iterator[tuple[str, str]]:
    """Names and types of the models in the hub's local cache, as far as they are whole."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in sorted(Path(HF_HUB_CACHE).glob("models--*")):
        name = folder.name.removeprefix("models--").replace("--", "/")
        if here := Weights.find(name):
            yield name, here.model_type


def vision_checks() -> dict[str, tuple[str, str]]:
    """State and detail of captioners and of the image baseline, for `mmrec doctor`."""
    cached = list(cached_models())
    checks = {"captions": ("ok", "builtin (palette and layout in words, no vision model)")}
    for spelling, (kind, default) in _BLIPS.items():
        ready = ", ".join(
            f"--captioner {spelling}:{name}" for name, found in cached if found == kind
        )
        need = f"--captioner {spelling}:FOLDER, or bring it with `hf download {default}`"
        checks[f"captions by {spelling}"] = ("ok", ready) if ready else ("missing", need)
    resnet = VisionConfig().image_model
    names = [name for name, found in cached if found == "resnet"]
    ready = f"{', '.join(names)}, weights are here"
    need = f"no images without --image-model FOLDER, or bring it with `hf download {resnet}`"
    checks["image baseline"] = ("ok", ready) if resnet in names else ("missing", need)
    return checks
