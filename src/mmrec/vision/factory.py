"""Captioners from settings, and the vision models that this machine has."""

from __future__ import annotations

from mmrec.config import LanguageConfig, VisionConfig
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ConfigError
from mmrec.llm.cost import Budget
from mmrec.llm.factory import open_chat_client
from mmrec.vision.captioner import Captioner
from mmrec.vision.color_captioner import ColorCaptioner

__all__ = ["BLIP_MODELS", "open_captioner", "vision_checks"]

BLIP_MODELS = {
    "blip2": "Salesforce/blip2-opt-2.7b",
    "blip": "Salesforce/blip-image-captioning-base",
}
"""Captioners that run here, by the beginning of their name, with their default models."""


def open_captioner(
    config: VisionConfig,
    language: LanguageConfig | None = None,
    budget: Budget | None = None,
    placement: Placement | None = None,
) -> Captioner:
    """Open the captioner that `config` names; it is loaded or called with the first photo.

    Args:
        config: names it.
        language, budget: calls in flight, price and budget of a model behind HTTP.
        placement: of a local model; by default the fastest of this machine.

    Raises:
        ConfigError: there is no such captioner.
    """
    name = config.captioner
    kind, _, model = name.partition(":")
    if name == "builtin":
        return ColorCaptioner()
    if kind in BLIP_MODELS:
        from mmrec.vision.blip import BlipCaptioner

        return BlipCaptioner(model or BLIP_MODELS[kind], config.captioner_revision, placement)
    if language and budget and (client := open_chat_client(name, language, budget)):
        from mmrec.vision.openai_captioner import OpenAICaptioner

        return OpenAICaptioner(client)
    raise ConfigError(
        f"--captioner {name}: no such captioner; there are builtin, blip2[:MODEL_OR_FOLDER], "
        "blip[:MODEL_OR_FOLDER], openai:MODEL[@URL], ollama:MODEL or a URL"
    )


def vision_checks() -> dict[str, tuple[str, str]]:
    """State and detail of captioners and of the image baseline, for `mmrec doctor`."""
    checks = {"captions": ("ok", "builtin (brightness and colours in words, no vision model)")}
    models = []
    for kind, name in BLIP_MODELS.items():
        models.append((f"captions by {kind}", name, f"--captioner {kind}"))
    models.append(("image baseline", VisionConfig().image_model, "--image-model"))
    for subject, name, option in models:
        if Weights.find(name):
            checks[subject] = ("ok", f"{name}, the weights are here")
        else:
            detail = f"download it with `hf download {name}`, or name another one by {option}"
            checks[subject] = ("missing", detail)
    return checks
