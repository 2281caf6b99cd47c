"""Captions by BLIP-2 (the paper's captioner, section 3.2) or the smaller BLIP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.console import single_line
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from mmrec.llm.types import Answer
from mmrec.vision.captioner import PhotoBlocks, caption_fault

__all__ = ["BlipCaptioner"]


class BlipCaptioner:
    """Captions without a prompt by greedy search, photos in batches.

    A useless caption is generated once more by a beam search that may not repeat itself; if that
    is useless too, the photo has none. In bf16, a near tie between two words may fall differently
    in a batch of another size.

    Args:
        model: name on the hub, or folder.
        revision: commit of a model on the hub; by default that of the local cache, or the newest.
        placement: by default the fastest of this machine.
    """

    greedy: ClassVar = {"max_new_tokens": 30, "do_sample": False, "num_beams": 1}
    second_try: ClassVar = {
        **{"max_new_tokens": 30, "do_sample": False, "num_beams": 3},
        **{"min_new_tokens": 5, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
    }

    def __init__(
        self, model: str, revision: str | None = None, placement: Placement | None = None
    ) -> None:
        self._model = model
        self._revision = revision
        self.placement = placement or Placement.choose()
        self.chunk_size = 32 if self.placement.device == "cuda" else 8
        self._second_tries = 0

    @property
    def provenance(self) -> dict[str, object]:
        """What determines a caption besides the photo; needs the weights, else a ModelError."""
        return {
            "kind": "caption",
            "model": self._weights.title,
            "revision": self._weights.revision,
            "precision": self.placement.precision,
            "decoding": [self.greedy, self.second_try],
            "version": 1,
        }

    def caption(self, photos: PhotoBlocks) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption RGB photos, a block at a time.

        Raises:
            ModelError: the model cannot be loaded, or a single photo exceeds the GPU's memory.
        """
        for block in photos:
            useless = []
            captions = self._generate([photo for _, photo in block], self.greedy)
            for (number, photo), caption in zip(block, captions, strict=True):
                if caption_fault(caption):
                    useless.append((number, photo))
                else:
                    yield number, Answer(text=caption)
            if useless:
                self._second_tries += len(useless)
                captions = self._generate([photo for _, photo in useless], self.second_try)
                for (number, _), caption in zip(useless, captions, strict=True):
                    fault = caption_fault(caption)
                    yield number, Failure(f"{fault} (twice)") if fault else Answer(text=caption)

    def status(self) -> str:
        """How many captions had to be generated again."""
        return f"{self._second_tries:,} asked again" if self._second_tries else ""

    @cached_property
    def _weights(self) -> Weights:
        return Weights.find_or_download(self._model, self._revision)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        """Model, image processor and tokenizer."""
        self._weights.require_type(("blip-2", "blip"), "blip-2 or blip")
        model = self._weights.load("AutoModelForImageTextToText", self.placement)
        if getattr(model.config, "image_token_index", 0) is None:
            message = "was saved before transformers 4.46; download it again"
            raise ModelError(f"{self._model} {message}")
        # With Pillow as its backend, the processor works without torchvision.
        processor = self._weights.load_part("AutoImageProcessor", backend="pil")
        return model, processor, self._weights.load_part("AutoTokenizer")

    @torch.inference_mode()
    def _generate(self, photos: Sequence[Image.Image], options: dict[str, Any]) -> list[str]:
        model, processor, tokenizer = self._loaded
        pixels = processor(images=list(photos), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.placement.device, self.placement.dtype)
        try:
            tokens = model.generate(pixel_values=pixels, **options)
        except torch.OutOfMemoryError as error:
            half = len(photos) // 2
            if not half:
                raise ModelError(
                    f"{self._model}: one photo exceeds the memory of the GPU"
                ) from error
            return self._generate(photos[:half], options) + self._generate(photos[half:], options)
        # BLIP-2 also returns the places which the photo takes among the words.
        image_token = getattr(model.config, "image_token_index", -1)
        rows = [row[row != image_token].tolist() for row in tokens.cpu()]
        captions = tokenizer.batch_decode(rows, skip_special_tokens=True)
        return list(map(single_line, captions))
