"""Models whose work is done by a crew: this process says what they are, workers what they say.

What is computed goes to workers; what is paid for, and what is told by rules, stays in this process. So the
death of a worker costs computing, and never a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

from mmrec.cache.store import Failure, Store
from mmrec.config import Config, EncoderConfig, VisionConfig
from mmrec.distributed.workers import Job, Work, WorkerPool
from mmrec.encoder.text_encoder import Encoder
from mmrec.encoder.weights import Placement
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.factory import open_language_model
from mmrec.llm.types import Answer, LanguageModel, Prompt, Task
from mmrec.vision.factory import open_captioner
from mmrec.vision.resnet import ImageEncoder
from mmrec.vision.types import Captioner

__all__ = [
    "RemoteCaptioner",
    "RemoteEncoder",
    "RemoteExtractiveModel",
    "RemoteImageEncoder",
    "RemoteLanguageModel",
]

Opened = tuple[dict[str, object], Work]
Photos = Iterator[list[tuple[int, Image.Image]]]
_SAMPLE = Task("answer", "", None, 0)  # all tasks of a language model are one job


class RemoteEncoder(Encoder):
    """The sentence encoder on workers, at the precision and on the runtime that were chosen here."""

    chunk = 512

    def __init__(self, config: EncoderConfig, store: Store, crew: WorkerPool) -> None:
        super().__init__(config, store, crew.placement)
        self._crew = crew

    @property
    def chosen(self) -> EncoderConfig:
        """The configuration, with the precision and the runtime that were chosen."""
        runtime = (
            self.config.encoder_backend
            if self.backend_name == "sentence-transformers"
            else self.backend_name
        )
        return self.config.model_copy(
            update={"precision": self.provenance["precision"], "encoder_backend": runtime}
        )

    def encode_blocks(
        self, texts: Iterator[list[tuple[int, str]]]
    ) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 unit vectors of texts; a text over which workers fail has none."""
        return self._crew.map_rows(Job(self.provenance, partial(_encoder, self.chosen)), texts)

    def keep(self, made: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep what workers have encoded on the way to something else: keys and vectors."""
        if made:
            self._store.put(self.provenance, made)


class RemoteExtractiveModel(ExtractiveModel):
    """The builtin reader: notes are made on workers, summaries here, of vectors that workers make.

    What a worker encodes for its notes comes back with them and is kept, so that it is not encoded again.
    """

    chunk_size = 256

    def __init__(self, config: Config, encoder: RemoteEncoder, crew: WorkerPool) -> None:
        profile = config.annotation
        super().__init__(encoder, profile.item_kind, profile.summary_tokens)
        self._sentences, self._crew = encoder, crew
        self._open = partial(_notes, Config(annotation=profile, encoder=encoder.chosen))

    def generate(
        self, prompts: Iterator[list[tuple[int, Prompt]]]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        """Answer asks, all of one task."""
        if (first := next(prompts, None)) is None:  # another process has them all under way
            return
        prompts = chain([first], prompts)
        if first[0][1].task.name != "note":
            yield from super().generate(prompts)
            return
        for at, answer in self._crew.map_rows(
            Job(self.provenance(first[0][1].task), self._open), prompts
        ):
            if isinstance(answer, Failure):
                yield at, answer
            else:
                said, made = answer
                self._sentences.keep(made)
                yield at, said


class RemoteLanguageModel:
    """An instruct model on workers.

    Args:
        own: the same model in this process, which counts tokens and is never loaded.
        config: names it.
        crew: works.
    """

    def __init__(
        self, own: LanguageModel, config: Config, place: Placement, crew: WorkerPool
    ) -> None:
        self._own, self._crew, self.chunk_size = own, crew, own.chunk_size
        self._open = partial(_language, config, place)

    @property
    def window(self) -> int | None:
        """Most tokens of texts in one ask."""
        return self._own.window

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts."""
        return self._own.provenance(task)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return self._own.count_tokens(texts)

    def status(self) -> str:
        """Nothing is counted here."""
        return ""

    def generate(
        self, prompts: Iterator[list[tuple[int, Prompt]]]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        """Answer asks in any order."""
        return self._crew.map_rows(Job(self.provenance(_SAMPLE), self._open), prompts)


class RemoteCaptioner:
    """A captioner on workers; photos are decoded, and checked, in this process.

    Args:
        own: the same captioner in this process, which is never loaded.
        config: names it.
        crew: works.
    """

    def __init__(self, own: Captioner, config: VisionConfig, crew: WorkerPool) -> None:
        self._own, self._crew, self.chunk = own, crew, own.chunk
        self._open = partial(_captioner, config, crew.placement)

    @property
    def provenance(self) -> dict[str, object]:
        """What determines a caption besides the photo."""
        return self._own.provenance

    def caption(self, photos: Photos) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption RGB photos in any order."""
        return self._crew.map_rows(Job(self.provenance, self._open), _pixels(photos))

    def status(self) -> str:
        """Nothing is counted here."""
        return ""


class RemoteImageEncoder(ImageEncoder):
    """Vectors of photos on workers; photos are decoded, and checked, in this process."""

    def __init__(self, config: VisionConfig, crew: WorkerPool) -> None:
        super().__init__(config, crew.placement)
        self._crew = crew

    def encode(self, photos: Photos) -> Iterator[tuple[int, np.ndarray | Failure]]:
        """(d,) float16 vectors of RGB photos in any order."""
        job = Job(self.provenance, partial(_features, self.config, self.placement))
        return self._crew.map_rows(job, _pixels(photos))


def _pixels(photos: Photos) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Photos as arrays: Ray copies them once, and nothing travels but what they show."""
    return ([(at, np.asarray(photo)) for at, photo in block] for block in photos)


def _photos(pixels: Iterator[list[tuple[int, np.ndarray]]]) -> Photos:
    return ([(at, Image.fromarray(array)) for at, array in block] for block in pixels)


class _Sentences(Encoder):
    """A worker's encoder, whose store holds one block's work."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, Store())

    def handed_over(self) -> list[tuple[bytes, bytes]]:
        """Keys and vectors of what was encoded since the last time."""
        made = self._store.db.execute("SELECT key, value FROM results").fetchall()
        self._store.close()
        self._store = Store()
        return made


@cache
def _own_encoder(config: EncoderConfig) -> _Sentences:
    """A worker's only encoder of a kind, whatever it is for."""
    return _Sentences(config)


def _encoder(config: EncoderConfig) -> Opened:
    own = _own_encoder(config)
    return own.provenance, own.encode_blocks


def _notes(config: Config) -> Opened:
    encoder, profile = _own_encoder(config.encoder), config.annotation
    own = ExtractiveModel(encoder, profile.item_kind, profile.summary_tokens)

    def work(blocks: Iterator[list[tuple[int, Any]]]) -> Iterator[tuple[int, Any]]:
        for block in blocks:
            answers = list(own.generate(iter([block])))
            made = encoder.handed_over()
            for at, answer in answers:
                yield at, (answer, made)
                made = []

    return own.provenance(replace(_SAMPLE, name="note")), work


def _language(config: Config, place: Placement) -> Opened:
    store = Store()
    own = open_language_model(config, Encoder(config.encoder, store), store, placement=place)
    return own.provenance(_SAMPLE), own.generate


def _captioner(config: VisionConfig, place: Placement) -> Opened:
    own = open_captioner(config, placement=place)
    return own.provenance, lambda blocks: own.caption(_photos(blocks))


def _features(config: VisionConfig, place: Placement) -> Opened:
    own = ImageEncoder(config, place)
    return own.provenance, lambda blocks: own.encode(_photos(blocks))
