"""From models of this process to those of a crew: what is computed is dealt out, the rest stays as it is."""

from __future__ import annotations

from dataclasses import replace

from mmrec.cache.store import Store
from mmrec.config import Config
from mmrec.distributed.remote_models import CrewCaptioner, CrewEncoder, CrewFeatures, CrewLanguage, CrewReader
from mmrec.distributed.workers import crew_of
from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.extractive import BuiltinLanguage
from mmrec.llm.factory import open_language
from mmrec.llm.transformers_model import LocalLanguage
from mmrec.llm.types import LanguageModel
from mmrec.vision.blip import BlipCaptioner
from mmrec.vision.factory import open_captioner
from mmrec.vision.resnet import PhotoFeatures
from mmrec.vision.types import Captioner

__all__ = ["dealt_captioner", "dealt_encoder", "dealt_features", "dealt_language"]


def dealt_encoder(config: Config, store: Store) -> CrewEncoder:
    """The sentence encoder, on workers."""
    return CrewEncoder(config.encoder, store, crew_of(config.engine))


def dealt_language(own: LanguageModel, config: Config, encoder: Encoder, store: Store) -> LanguageModel:
    """A reader on workers; one behind HTTP, which is paid for, stays in this process.

    Args:
        own: as this process would run it.
        config: names it, and the cluster.
        encoder: of the builtin reader; one of a crew.
        store: remembers batches.
    """
    crew = crew_of(config.engine)
    if isinstance(own, BuiltinLanguage) and isinstance(encoder, CrewEncoder):
        return CrewReader(config, encoder, crew)
    if isinstance(own, LocalLanguage):
        # Some instruct models overflow in fp16.
        place = replace(crew.place, precision="bf16") if crew.place.device == "cuda" else crew.place
        own = open_language(config, encoder, store, place=place)
        return CrewLanguage(own, config, place, crew)
    return own


def dealt_captioner(own: Captioner, config: Config) -> Captioner:
    """A captioner on workers; one behind HTTP, and the builtin one, stay in this process."""
    if not isinstance(own, BlipCaptioner):
        return own
    crew = crew_of(config.engine)
    return CrewCaptioner(open_captioner(config.vision, place=crew.place), config.vision, crew)


def dealt_features(config: Config) -> PhotoFeatures:
    """The image model on workers."""
    return CrewFeatures(config.vision, crew_of(config.engine))
