"""Captions by BLIP-2 (the paper's, section 3.2) or its smaller sister BLIP, from a folder or from the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import torch
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from mmrec.llm.types import Answer
from mmrec.vision.caption_quality import caption_fault

__all__ = ["BLIP_TYPES", "BlipCaptioner"]

BLIP_TYPES: Final = ("blip-2", "blip")
"""Kinds of models, by the `model_type` of their configuration."""
_VERSION: Final = 1
_AT_ONCE: Final = {"cpu": 8, "cuda": 32}
_LONGEST: Final = {"max_new_tokens": 30, "do_sample": False}
_GREEDY: Final[dict[str, object]] = {**_LONGEST, "num_beams": 1}
_AGAIN: Final[dict[str, object]] = {
    **_LONGEST,
    "num_beams": 3,
    "min_new_tokens": 5,
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.5,
}


class BlipCaptioner:
    """Captions without a prompt, the most likely word each time, photos in batches.

    A caption that says nothing (see `faults`) is asked for once more, by a search that may not repeat
    itself; when that says nothing either, the photo has none. Photos of a batch do not touch each other,
    but in bf16 a near tie between two words may fall otherwise in a batch of another size.

    Args:
        model: name on the hub, or folder.
        revision: commit of a model on the hub; that of the local cache, or the newest one, by default.
        placement: where it runs and how exact; the fastest of this machine by default.
    """

    def __init__(
        self, model: str, revision: str | None = None, placement: Placement | None = None
    ) -> None:
        self._model = model
        self._revision = revision
        self.placement = placement or Placement.choose()
        self.chunk = _AT_ONCE[self.placement.device]
        self._again = 0

    @property
    def provenance(self) -> dict[str, object]:
        """What determines a caption besides the photo; of a folder its weights, of a model its commit.

        Raises:
            ModelError: the weights are not here and cannot be downloaded.
        """
        return {
            "kind": "caption",
            "model": self._weights.title,
            "revision": self._weights.revision,
            "precision": self.placement.precision,
            "decoding": [_GREEDY, _AGAIN],
            "version": _VERSION,
        }

    def caption(
        self, photos: Iterator[list[tuple[int, Image.Image]]]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption RGB photos, a block at a time.

        Raises:
            ModelError: the model cannot be loaded, or not even one photo fits into the GPU's memory.
        """
        for block in photos:
            said = self._say([photo for _, photo in block], _GREEDY)
            poor = [at for at, caption in enumerate(said) if caption_fault(caption)]
            if poor:
                self._again += len(poor)
                again = self._say([block[at][1] for at in poor], _AGAIN)
                for at, caption in zip(poor, again, strict=True):
                    said[at] = caption
            for (number, _), caption in zip(block, said, strict=True):
                why = caption_fault(caption)
                yield number, Failure(f"{why} (twice)") if why else Answer(text=caption)

    def status(self) -> str:
        """How many captions had to be asked for again."""
        return f"{self._again:,} asked again" if self._again else ""

    @cached_property
    def _weights(self) -> Weights:
        return Weights.find_or_download(self._model, self._revision)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        self._weights.require_type(BLIP_TYPES, " or ".join(BLIP_TYPES))
        model = self._weights.load("AutoModelForImageTextToText", self.placement)
        if getattr(model.config, "image_token_index", 0) is None:
            raise ModelError(
                f"{self._model} is of the time before transformers 4.46; bring its files again"
            )
        # By Pillow, so that torchvision is not needed.
        images = self._weights.load_part("AutoImageProcessor", backend="pil")
        return model, images, self._weights.load_part("AutoTokenizer")

    @torch.inference_mode()
    def _say(self, photos: Sequence[Image.Image], how: dict[str, object]) -> list[str]:
        (model, images, tokenizer), place = self._loaded, self.placement
        pixels = images(images=list(photos), return_tensors="pt")["pixel_values"]
        try:
            ids = model.generate(pixel_values=pixels.to(place.device, place.dtype), **how)
        except torch.OutOfMemoryError as error:
            half = len(photos) // 2
            if not half:
                raise ModelError(
                    f"{self._model}: one photo is too much for the GPU's memory"
                ) from error
            return self._say(photos[:half], how) + self._say(photos[half:], how)
        # BLIP-2 gives back the places that the photo took among the words.
        photo = getattr(model.config, "image_token_index", None)
        rows = [[token for token in row if token != photo] for row in ids.tolist()]
        said = tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [" ".join(caption.split()) for caption in said]
