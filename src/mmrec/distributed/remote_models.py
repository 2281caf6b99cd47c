"""Models that compute on workers; the driver states their provenance and stores their results.

Only the driver calls paid APIs, and results match those of a single-process run. So the death of a
worker costs computing time, and never a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

from mmrec.cache.store import Failure, Provenance, Store
from mmrec.config import Config, EncoderConfig, VisionConfig
from mmrec.distributed.workers import Job, RowFunction, WorkerPool, worker_pool
from mmrec.encoder.text_encoder import Encoder
from mmrec.encoder.weights import Placement
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.factory import open_language_model
from mmrec.llm.transformers_model import TransformersModel
from mmrec.llm.types import LanguageModel, NumberedAnswers, NumberedPrompts, Task
from mmrec.vision.blip import BlipCaptioner
from mmrec.vision.captioner import Captioner, PhotoBlocks
from mmrec.vision.factory import open_captioner
from mmrec.vision.resnet import ImageEncoder

__all__ = ["RemoteEncoder", "remote_captioner", "remote_image_encoder", "remote_language_model"]

Loaded = tuple[Provenance, RowFunction]
_ANY_TASK = Task("answer", "", None, 0)
"""Stands for every task of a language model, since one job serves them all."""


def remote_language_model(
    local: LanguageModel, config: Config, encoder: Encoder, store: Store
) -> LanguageModel:
    """A language model on workers; one behind HTTP, which is paid for, stays in this process.

    Args:
        local: as this process would run it.
        encoder: of the extractive model; a remote one.
        store: remembers batches.
    """
    pool = worker_pool(config.engine)
    if isinstance(local, ExtractiveModel) and isinstance(encoder, RemoteEncoder):
        return _RemoteExtractiveModel(config, encoder, pool)
    if isinstance(local, TransformersModel):
        placement = pool.placement
        if placement.device == "cuda":
            placement = replace(placement, precision="bf16")  # some models overflow in fp16
        local = open_language_model(config, encoder, store, placement=placement)
        return _RemoteLanguageModel(local, config, placement, pool)
    return local


def remote_captioner(local: Captioner, config: Config) -> Captioner:
    """A captioner on workers; one behind HTTP, and the builtin one, stay in this process."""
    if not isinstance(local, BlipCaptioner):
        return local
    pool = worker_pool(config.engine)
    captioner = open_captioner(config.vision, placement=pool.placement)
    return _RemoteCaptioner(captioner, config.vision, pool)


def remote_image_encoder(config: Config) -> ImageEncoder:
    """The image encoder on workers."""
    return _RemoteImageEncoder(config.vision, worker_pool(config.engine))


class RemoteEncoder(Encoder):
    """The sentence encoder on workers, at the precision and with the backend that the driver chose."""

    chunk = 512

    def __init__(self, config: Config, store: Store) -> None:
        self._pool = worker_pool(config.engine)
        super().__init__(config.encoder, store, self._pool.placement)
        resolved = {"precision": self.provenance["precision"]}
        if self.backend_name != "sentence-transformers":
            resolved["encoder_backend"] = self.backend_name
        self.worker_config = config.encoder.model_copy(update=resolved)

    def encode_blocks(
        self, blocks: Iterator[list[tuple[int, str]]]
    ) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 unit vectors of numbered texts; a text over which workers fail has none."""
        job = Job(self.provenance, partial(_load_encoder, self.worker_config))
        return self._pool.map_rows(job, blocks)

    def save(self, vectors: Sequence[tuple[bytes, bytes]]) -> None:
        """Store vectors that workers computed on the way to other results, by key."""
        if vectors:
            self._store.put(self.provenance, vectors)


class _RemoteExtractiveModel(ExtractiveModel):
    """The extractive model: notes on workers, summaries here, from vectors that workers compute.

    The vectors that a worker computes for its notes come back with them and are stored.
    """

    chunk_size = 256

    def __init__(self, config: Config, encoder: RemoteEncoder, pool: WorkerPool) -> None:
        annotation = config.annotation
        super().__init__(encoder, annotation.item_kind, annotation.summary_tokens)
        self._remote_encoder, self._pool = encoder, pool
        config = Config(annotation=annotation, encoder=encoder.worker_config)
        self._load = partial(_load_extractive_model, config)

    def generate(self, prompts: NumberedPrompts) -> NumberedAnswers:
        """Answer prompts, all of one task."""
        first = next(prompts)
        task, prompts = first[0][1].task, chain([first], prompts)
        if task.name != "note":
            yield from super().generate(prompts)
            return
        for number, result in self._pool.map_rows(Job(self.provenance(task), self._load), prompts):
            if isinstance(result, Failure):
                yield number, result
            else:
                answer, vectors = result
                self._remote_encoder.save(vectors)
                yield number, answer


class _RemoteLanguageModel:
    """An instruct model on workers; its tokens are counted here, by a model that is never loaded."""

    def __init__(
        self, local: LanguageModel, config: Config, placement: Placement, pool: WorkerPool
    ) -> None:
        self._local, self._pool = local, pool
        self.provenance, self.count_tokens = local.provenance, local.count_tokens
        self.chunk_size, self.status = local.chunk_size, local.status
        self._load = partial(_load_language_model, config, placement)

    @property
    def window(self) -> int | None:
        """Most tokens of texts in one prompt."""
        return self._local.window

    def generate(self, prompts: NumberedPrompts) -> NumberedAnswers:
        """Answer prompts in any order."""
        return self._pool.map_rows(Job(self.provenance(_ANY_TASK), self._load), prompts)


class _RemoteCaptioner:
    """A captioner on workers; photos are decoded and checked here."""

    def __init__(self, local: Captioner, config: VisionConfig, pool: WorkerPool) -> None:
        self._local, self._pool = local, pool
        self.chunk_size, self.status = local.chunk_size, local.status
        self._load = partial(_load_captioner, config, pool.placement)

    @property
    def provenance(self) -> Provenance:
        """What determines a caption besides the photo."""
        return self._local.provenance

    def caption(self, photos: PhotoBlocks) -> NumberedAnswers:
        """Caption RGB photos in any order."""
        return self._pool.map_rows(Job(self.provenance, self._load), _as_arrays(photos))


class _RemoteImageEncoder(ImageEncoder):
    """The image encoder on workers; photos are decoded and checked here."""

    def __init__(self, config: VisionConfig, pool: WorkerPool) -> None:
        super().__init__(config, pool.placement)
        self._pool = pool

    def encode(self, photos: PhotoBlocks) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 vectors of RGB photos in any order."""
        job = Job(self.provenance, partial(_load_image_encoder, self.config, self.placement))
        return self._pool.map_rows(job, _as_arrays(photos))


class _WorkerEncoder(Encoder):
    """A worker's encoder, whose store holds what it computed for one block."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, Store())

    def take_vectors(self) -> list[tuple[bytes, bytes]]:
        """Keys and vectors of all texts since the last call."""
        vectors = self._store.db.execute("SELECT key, value FROM results").fetchall()
        self._store.close()
        self._store = Store()
        return vectors


# A worker's only encoder of a configuration, so that all jobs share it.
_worker_encoder = cache(_WorkerEncoder)


def _load_encoder(config: EncoderConfig) -> Loaded:
    encoder = _worker_encoder(config)
    return encoder.provenance, encoder.encode_blocks


def _load_extractive_model(config: Config) -> Loaded:
    encoder, annotation = _worker_encoder(config.encoder), config.annotation
    model = ExtractiveModel(encoder, annotation.item_kind, annotation.summary_tokens)

    def compute(blocks: NumberedPrompts) -> Iterator[tuple[int, Any]]:
        for block in blocks:
            answers = list(model.generate(iter([block])))
            vectors = encoder.take_vectors()
            for number, answer in answers:
                yield number, (answer, vectors)
                vectors = []  # the first answer carries those of the block

    return model.provenance(replace(_ANY_TASK, name="note")), compute


def _load_language_model(config: Config, placement: Placement) -> Loaded:
    store = Store()
    encoder = Encoder(config.encoder, store)
    model = open_language_model(config, encoder, store, placement=placement)
    return model.provenance(_ANY_TASK), model.generate


def _load_captioner(config: VisionConfig, placement: Placement) -> Loaded:
    captioner = open_captioner(config, placement=placement)
    return captioner.provenance, lambda blocks: captioner.caption(_as_photos(blocks))


def _load_image_encoder(config: VisionConfig, placement: Placement) -> Loaded:
    encoder = ImageEncoder(config, placement)
    return encoder.provenance, lambda blocks: encoder.encode(_as_photos(blocks))


def _as_arrays(photos: PhotoBlocks) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Photos as (h, w, 3) arrays, which Ray copies only once."""
    for block in photos:
        yield [(number, np.asarray(photo)) for number, photo in block]


def _as_photos(blocks: Iterator[list[tuple[int, np.ndarray]]]) -> PhotoBlocks:
    for block in blocks:
        yield [(number, Image.fromarray(array)) for number, array in block]
