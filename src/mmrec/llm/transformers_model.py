"""An instruct model on this machine: many asks at once, always the most likely word."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import torch
from transformers import GenerationConfig

from mmrec.cache.store import Failure
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from mmrec.llm.chat_template import ChatTemplate
from mmrec.llm.cost import Budget, CostTracker
from mmrec.llm.prompts import note_task, prompt_digest, summary_task
from mmrec.llm.types import Answer, Prompt, Task, Usage

__all__ = ["TransformersModel"]

_CHUNK: Final = {"cpu": 8, "cuda": 32}
_TOKENS_AT_ONCE: Final = {"cpu": 16_384, "cuda": 65_536}
_LEAST_WINDOW: Final = 64


class _Prompt(NamedTuple):
    """An ask in tokens, with its number and the most tokens of its answer."""

    at: int
    tokens: list[int]
    most: int

    @property
    def width(self) -> int:
        return len(self.tokens) + self.most


class TransformersModel:
    """A local instruct model as a reader of reviews; its weights are brought and loaded at the first ask.

    Asks of a batch do not touch each other, but in bf16 a near tie between two words may fall otherwise in a
    batch of another size.

    Args:
        source: folder, or name of a model on the hub.
        revision: commit of a model on the hub; that of the local cache, or the newest one, by default.
        window: most tokens of reviews in one ask, where the model's context holds that much.
        placement: where it runs and how exact; the fastest by default, except fp16, where
            some models overflow.
    """

    def __init__(
        self, source: str, revision: str | None, window: int, placement: Placement | None = None
    ) -> None:
        gpu = torch.cuda.is_available()
        self._placement = placement or (Placement("cuda", "bf16") if gpu else Placement.choose())
        self.chunk_size = _CHUNK[self._placement.device]
        self._max_batch_tokens = _TOKENS_AT_ONCE[self._placement.device]
        self._source = source
        self._requested_revision = revision
        self._most = window
        self._spend = CostTracker(None, Budget(None))

    @cached_property
    def window(self) -> int | None:
        """Most tokens of reviews in one ask: what instructions and answer leave of the model's context.

        Raises:
            ModelError: that is hardly anything, or the model's files are not right.
        """
        template, context = self._template, self._template.context_length
        if context is None:
            return self._most
        tasks = [summary_task(of, "restaurant", 11) for of in ("user", "item")]
        tasks.append(note_task("restaurant"))
        taken = max(len(template.encode(Prompt(task, ("",)))) + task.max_tokens for task in tasks)
        if context - taken < _LEAST_WINDOW:
            raise ModelError(
                f"{self._source} takes {context:,} tokens at once, but instructions and answer "
                f"alone have {taken:,}; name a model with a longer context"
            )
        return min(self._most, context - taken)

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts; of a folder its files, of a hub's model its commit.

        Raises:
            ModelError: the model is not here and cannot be downloaded.
        """
        return {
            "kind": task.name,
            "provider": "transformers",
            "model": self._files.title,
            "revision": self._files.revision,
            "precision": self._placement.precision,
            "prompt": prompt_digest(task),
            "tokens": task.max_tokens,
            "decoding": "greedy",
        }

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's tokenizer; the weights are not loaded for that."""
        return self._template.count_tokens(texts)

    def status(self) -> str:
        """Tokens so far."""
        return str(self._spend)

    def generate(
        self, prompts: Iterator[list[tuple[int, Prompt]]]
    ) -> Generator[tuple[int, Answer | Failure]]:
        """Answer asks, a block at a time; one that the model's context does not hold is a failure.

        Raises:
            ModelError: the model cannot be loaded.
        """
        for block in prompts:
            tokenized = [
                _Prompt(at, self._template.encode(ask), ask.task.max_tokens) for at, ask in block
            ]
            context = self._template.context_length or max(
                (one.width for one in tokenized), default=0
            )
            for one in tokenized:
                if one.width > context:
                    yield one.at, _too_long(one, context)
            waiting = [one for one in tokenized if one.width <= context]
            waiting.sort(key=lambda one: (one.most, len(one.tokens)))
            while waiting:
                batch = self._batch(waiting)
                del waiting[: len(batch)]
                yield from zip((one.at for one in batch), self._said(batch), strict=True)

    def _batch(self, waiting: Sequence[_Prompt]) -> Sequence[_Prompt]:
        """The first of sorted prompts: as many as the token budget holds, and at least one."""
        size = 1
        for one in waiting[1:]:
            if one.most != waiting[0].most or (size + 1) * one.width > self._max_batch_tokens:
                break
            size += 1
        return waiting[:size]

    def _said(self, batch: Sequence[_Prompt]) -> list[Answer | Failure]:
        """Answers of a batch; where the GPU's memory does not hold it, it and all later ones are halved."""
        try:
            rows = self._generate(batch)
        except torch.OutOfMemoryError:
            pass  # What the call held is free only once the error is gone.
        else:
            return [self._answer(one, row) for one, row in zip(batch, rows, strict=True)]
        torch.cuda.empty_cache()
        half = len(batch) // 2
        if not half:
            return [Failure("one ask alone is too much for the GPU's memory", final=False)]
        self._max_batch_tokens = half * batch[-1].width
        return self._said(batch[:half]) + self._said(batch[half:])

    @torch.inference_mode()
    def _generate(self, batch: Sequence[_Prompt]) -> list[list[int]]:
        """Tokens that the model says to each prompt, padded after the end."""
        width = max(len(one.tokens) for one in batch)
        gaps = [width - len(one.tokens) for one in batch]
        pad = self._model.generation_config.pad_token_id
        # Padded on the left, so that every answer begins right after its prompt.
        ids = torch.tensor([[pad] * gap + one.tokens for gap, one in zip(gaps, batch, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
        to = self._placement.device
        said = self._model.generate(
            input_ids=ids.to(to), attention_mask=mask.to(to), max_new_tokens=batch[0].most
        )
        return said[:, width:].tolist()

    def _answer(self, prompt: _Prompt, row: list[int]) -> Answer:
        ends = self._model.generation_config.eos_token_id or ()
        end = next((at for at, token in enumerate(row) if token in ends), None)
        usage = Usage(input=len(prompt.tokens), output=len(row) if end is None else end + 1)
        self._spend.settle(0, usage)
        text = self._template.decode(row[:end])
        return Answer(text=text, usage=usage, finish="length" if end is None else "stop")

    @cached_property
    def _files(self) -> Weights:
        """All of the model's files but its tensors, at least."""
        return Weights.find_or_download(self._source, self._requested_revision, tensors=False)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._files)

    @cached_property
    def _model(self) -> Any:
        """The model itself, which says the most likely word, whatever its own settings are."""
        model = Weights.find_or_download(self._source, self._files.commit).load(
            "AutoModelForCausalLM", self._placement
        )
        # Models and tokenizers name different ends.
        own = model.generation_config.eos_token_id
        ends = sorted(
            {*(own if isinstance(own, list) else [own]), self._template.end_token} - {None}
        )
        greedy: Any = GenerationConfig
        model.generation_config = greedy(
            do_sample=False, eos_token_id=ends or None, pad_token_id=min(ends, default=0)
        )
        return model


def _too_long(prompt: _Prompt, context: int) -> Failure:
    return Failure(
        f"{len(prompt.tokens):,} tokens and {prompt.most:,} of the answer are more than the {context:,} that "
        "the model takes at once"
    )
