"""Captions by BLIP-2 (the paper's captioner, section 3.2) or the smaller BLIP."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL import Image

from mmrec.cache.store import Failure, Provenance
from mmrec.console import single_line
from mmrec.errors import ModelError
from mmrec.llm.types import Answer
from mmrec.vision.captioner import PhotoBlocks, caption_fault
from mmrec.vision.image_features import LocalPhotoModel


class BlipCaptioner(LocalPhotoModel):
    """Captions by greedy search without a prompt, useless ones anew by a beam search."""

    kind, auto_class = "caption", "AutoModelForImageTextToText"
    model_types, chunk_sizes = ("blip-2", "blip"), (8, 32)
    greedy: ClassVar = {"max_new_tokens": 30, "do_sample": False, "num_beams": 1}
    second_try: ClassVar = {
        **{"max_new_tokens": 30, "do_sample": False, "num_beams": 3},
        **{"min_new_tokens": 5, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
    }

    @property
    def provenance(self) -> Provenance:
        """What determines a caption besides the photo; it needs the weights."""
        return {**super().provenance, "decoding": [self.greedy, self.second_try]}

    def compute(self, photos: PhotoBlocks) -> Iterator[tuple[int, Answer | Failure]]:
        """Caption photos by block; a ModelError if one exceeds the memory of the GPU."""
        for block in photos:
            useless = []
            captions = self._generate([photo for _, photo in block], self.greedy)
            for (number, photo), caption in zip(block, captions, strict=True):
                if caption_fault(caption):
                    useless.append((number, photo))
                else:
                    yield number, Answer(text=caption)
            captions = self._generate([photo for _, photo in useless], self.second_try)
            for (number, _), caption in zip(useless, captions, strict=True):
                fault = caption_fault(caption)
                yield number, Failure(f"{fault} (twice)") if fault else Answer(text=caption)

    @cached_property
    def _tokenizer(self) -> Any:
        return self._weights.load_part("AutoTokenizer")

    @torch.inference_mode()
    def _generate(self, photos: Sequence[Image.Image], options: dict[str, Any]) -> list[str]:
        if not photos:
            return []
        # BLIP-2 also returns the places which the photo takes among the words.
        image_token = getattr(self._model.config, "image_token_index", -1)
        if image_token is None:
            raise ModelError(f"{self.name} was saved before transformers 4.46; download it again")
        try:
            tokens = self._model.generate(pixel_values=self._pixels(photos), **options)
        except torch.OutOfMemoryError as error:
            if not (half := len(photos) // 2):
                message = f"{self.name}: one photo exceeds the memory of the GPU"
                raise ModelError(message) from error
            return self._generate(photos[:half], options) + self._generate(photos[half:], options)
        rows = [row[row != image_token].tolist() for row in tokens.cpu()]
        captions = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        return list(map(single_line, captions))
