"""From models of this process to those of a crew: what is computed is dealt out, the rest stays as it is."""

from __future__ import annotations

from dataclasses import replace

from mmrec.cache.store import Store
from mmrec.config import Config
from mmrec.distributed.remote_models import (
    RemoteCaptioner,
    RemoteEncoder,
    RemoteExtractiveModel,
    RemoteImageEncoder,
    RemoteLanguageModel,
)
from mmrec.distributed.workers import worker_pool
from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.factory import open_language_model
from mmrec.llm.transformers_model import TransformersModel
from mmrec.llm.types import LanguageModel
from mmrec.vision.blip import BlipCaptioner
from mmrec.vision.factory import open_captioner
from mmrec.vision.resnet import ImageEncoder
from mmrec.vision.types import Captioner

__all__ = ["remote_captioner", "remote_encoder", "remote_image_encoder", "remote_language_model"]


def remote_encoder(config: Config, store: Store) -> RemoteEncoder:
    """The sentence encoder, on workers."""
    return RemoteEncoder(config.encoder, store, worker_pool(config.engine))


def remote_language_model(
    own: LanguageModel, config: Config, encoder: Encoder, store: Store
) -> LanguageModel:
    """A reader on workers; one behind HTTP, which is paid for, stays in this process.

    Args:
        own: as this process would run it.
        config: names it, and the cluster.
        encoder: of the builtin reader; one of a crew.
        store: remembers batches.
    """
    crew = worker_pool(config.engine)
    if isinstance(own, ExtractiveModel) and isinstance(encoder, RemoteEncoder):
        return RemoteExtractiveModel(config, encoder, crew)
    if isinstance(own, TransformersModel):
        # Some instruct models overflow in fp16.
        place = (
            replace(crew.placement, precision="bf16")
            if crew.placement.device == "cuda"
            else crew.placement
        )
        own = open_language_model(config, encoder, store, placement=place)
        return RemoteLanguageModel(own, config, place, crew)
    return own


def remote_captioner(own: Captioner, config: Config) -> Captioner:
    """A captioner on workers; one behind HTTP, and the builtin one, stay in this process."""
    if not isinstance(own, BlipCaptioner):
        return own
    crew = worker_pool(config.engine)
    return RemoteCaptioner(
        open_captioner(config.vision, placement=crew.placement), config.vision, crew
    )


def remote_image_encoder(config: Config) -> ImageEncoder:
    """The image model on workers."""
    return RemoteImageEncoder(config.vision, worker_pool(config.engine))
