"""Models that compute on workers; the driver alone stores results and calls paid APIs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any, cast

import numpy as np
from PIL import Image

from mmrec.cache.store import Failure, Store
from mmrec.config import Config, EncoderConfig
from mmrec.distributed.workers import Job, Loaded, Rows, worker_pool
from mmrec.encoder.text_encoder import Encoder
from mmrec.encoder.weights import Placement
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.factory import open_language_model
from mmrec.llm.types import AnswerStream, LanguageModel, PromptBlocks, Task
from mmrec.vision.captioner import CAPTIONERS, Captioner, PhotoBlocks, open_captioner
from mmrec.vision.image_features import ImageEncoder

# Stands for every task of a language model, since one job serves them all.
_ANY_TASK = Task("answer", "", None, 0)


class RemoteEncoder(Encoder):
    """The sentence encoder on workers, with precision and backend of the driver."""

    chunk = 512

    def __init__(self, config: Config, store: Store) -> None:
        self._pool = worker_pool(config.engine)
        super().__init__(config.encoder, store, self._pool.placement)
        resolved = {"precision": self.provenance["precision"]}
        if self.backend_name != "sentence-transformers":
            resolved["encoder_backend"] = self.backend_name
        self.worker_config = config.encoder.model_copy(update=resolved)

    def encode_blocks(self, blocks: Iterator[Rows]) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 unit vectors of texts; one over which workers fail has none."""
        job = Job(self.provenance, partial(_load_encoder, self.worker_config))
        return self._pool.map_rows(job, blocks)


class _RemoteModel:
    """A model whose rows workers compute; the local one, never loaded, has all else."""

    def __init__(self, local: Any, config: Config, load: Callable[[], Loaded]) -> None:
        self._local, self._pool, self._load = local, worker_pool(config.engine), load

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)

    def generate(self, prompts: PromptBlocks) -> AnswerStream:
        return self._pool.map_rows(Job(self._local.provenance(_ANY_TASK), self._load), prompts)

    def compute(self, photos: PhotoBlocks) -> Iterator[tuple[int, Any]]:
        # Ray copies (h, w, 3) arrays once.
        arrays = ([(row, np.asarray(photo)) for row, photo in block] for block in photos)
        return self._pool.map_rows(Job(self._local.provenance, self._load), arrays)


class _RemoteExtractiveModel(ExtractiveModel):
    """The extractive model: notes on workers, with their vectors, and summaries here."""

    chunk_size = 256

    def __init__(self, config: Config, encoder: RemoteEncoder, store: Store) -> None:
        annotation = config.annotation
        super().__init__(encoder, annotation.item_kind, annotation.summary_tokens)
        self._store, self._pool = store, worker_pool(config.engine)
        worker_config = Config(annotation=annotation, encoder=encoder.worker_config)
        self._load = partial(_load_extractive_model, worker_config)

    def generate(self, prompts: PromptBlocks) -> AnswerStream:
        first = next(prompts)  # all are of one task
        task, prompts = first[0][1].task, chain([first], prompts)
        if task.name != "note":
            yield from super().generate(prompts)
            return
        job = Job(self.provenance(task), self._load)
        for number, result in self._pool.map_rows(job, prompts):
            if not isinstance(result, Failure):
                result, vectors = result
                if vectors:
                    self._store.put(self._encoder.provenance, vectors)
            yield number, result


def remote_language_model(
    local: LanguageModel, config: Config, encoder: RemoteEncoder, store: Store
) -> LanguageModel:
    """A language model on workers; one behind HTTP, which is paid for, stays here."""
    if isinstance(local, ExtractiveModel):
        return _RemoteExtractiveModel(config, encoder, store)
    if not config.language.llm.startswith("transformers:"):
        return local
    placement = worker_pool(config.engine).placement
    if placement.device == "cuda":
        placement = replace(placement, precision="bf16")  # some models overflow in fp16
    local = open_language_model(config, store, placement=placement)
    load = partial(_load_language_model, config, placement)
    return cast(LanguageModel, _RemoteModel(local, config, load))


def remote_captioner(local: Captioner, config: Config) -> Captioner:
    """A captioner on workers; one behind HTTP, and the builtin one, stay here."""
    _, model = CAPTIONERS.get(config.vision.captioner.partition(":")[0], ("", None))
    if model is None:
        return local
    placement = worker_pool(config.engine).placement
    open_model = partial(open_captioner, config, placement=placement)
    load = partial(_load_photo_model, open_model)
    return cast(Captioner, _RemoteModel(open_model(), config, load))


def remote_image_encoder(config: Config) -> ImageEncoder:
    """The image encoder on workers."""
    vision, placement = config.vision, worker_pool(config.engine).placement
    open_model = partial(ImageEncoder, vision.image_model, vision.image_revision, placement)
    load = partial(_load_photo_model, open_model)
    return cast(ImageEncoder, _RemoteModel(open_model(), config, load))


@cache
def _worker_encoder(config: EncoderConfig) -> tuple[Encoder, Store]:
    """A worker's only encoder of a configuration, for all jobs, and its store."""
    store = Store()
    return Encoder(config, store), store


def _load_encoder(config: EncoderConfig) -> Loaded:
    encoder, _ = _worker_encoder(config)
    return encoder.provenance, encoder.encode_blocks


def _load_extractive_model(config: Config) -> Loaded:
    encoder, store = _worker_encoder(config.encoder)
    annotation = config.annotation
    model = ExtractiveModel(encoder, annotation.item_kind, annotation.summary_tokens)

    def compute(blocks: PromptBlocks) -> Iterator[tuple[int, Any]]:
        for block in blocks:
            answers = list(model.generate(iter([block])))
            with store.transaction() as database:
                vectors = database.execute("SELECT key, value FROM results").fetchall()
                database.execute("DELETE FROM results")
            for number, answer in answers:
                yield number, (answer, vectors)
                vectors = []  # the first answer carries those of the block

    return model.provenance(replace(_ANY_TASK, name="note")), compute


def _load_language_model(config: Config, placement: Placement) -> Loaded:
    model = open_language_model(config, Store(), placement=placement)
    return model.provenance(_ANY_TASK), model.generate


def _load_photo_model(open_model: Callable[[], Captioner | ImageEncoder]) -> Loaded:
    model = open_model()

    def compute(blocks: Iterator[Rows]) -> Iterator[tuple[int, Any]]:
        for block in blocks:
            photos = [(number, Image.fromarray(array)) for number, array in block]
            yield from model.compute(iter([photos]))

    return model.provenance, compute
