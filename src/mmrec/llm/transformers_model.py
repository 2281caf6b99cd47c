"""An instruct model on this machine: many prompts at once, always the most likely token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple, get_args

import torch
from transformers import GenerationConfig

from mmrec.cache.store import Failure
from mmrec.data.schema import EntityKind
from mmrec.encoder.weights import Placement, Weights
from mmrec.errors import ModelError
from mmrec.llm.chat_template import ChatTemplate
from mmrec.llm.cost import Budget, CostTracker
from mmrec.llm.prompts import note_task, prompt_digest, summary_task
from mmrec.llm.types import Answer, NumberedAnswers, NumberedPrompts, Prompt, Task, Usage

__all__ = ["TransformersModel"]


class _TokenizedPrompt(NamedTuple):
    """A prompt in tokens, its number, and the most tokens of its answer."""

    number: int
    tokens: list[int]
    max_new_tokens: int

    @property
    def width(self) -> int:
        return len(self.tokens) + self.max_new_tokens


class TransformersModel:
    """A local instruct model; its weights are downloaded and loaded at the first prompt.

    Prompts of a batch do not influence each other. In bf16, though, a near tie between two tokens
    may fall differently in a batch of another size.

    Args:
        source: folder, or name of a model on the hub.
        revision: commit of a model on the hub; by default that of the local cache, or the newest.
        window: most tokens of reviews in one prompt, where the model's context holds that much.
        placement: by default the fastest of this machine, but not fp16: some models overflow.
    """

    def __init__(
        self, source: str, revision: str | None, window: int, placement: Placement | None = None
    ) -> None:
        if placement is None:
            has_gpu = torch.cuda.is_available()
            placement = Placement("cuda", "bf16") if has_gpu else Placement.choose()
        self._placement = placement
        on_gpu = placement.device == "cuda"
        self.chunk_size = 32 if on_gpu else 8
        self._max_batch_tokens = 65_536 if on_gpu else 16_384
        self._source = source
        self._requested_revision = revision
        self._max_window = window
        self._costs = CostTracker(None, Budget(None))

    @cached_property
    def window(self) -> int | None:
        """Most tokens of reviews in one prompt: what instructions and answer leave of the context.

        Raises:
            ModelError: that is hardly anything, or the model's files are not right.
        """
        context_length = self._template.context_length
        if context_length is None:
            return self._max_window
        tasks = [note_task("restaurant")]
        tasks += [summary_task(kind, "restaurant", 11) for kind in get_args(EntityKind)]
        reserved = 0  # by the longest instructions and answer
        for task in tasks:
            instructions = self._template.encode(Prompt(task, ("",)))
            reserved = max(reserved, len(instructions) + task.max_tokens)
        if context_length - reserved < 64:
            raise ModelError(
                f"{self._source} takes {context_length:,} tokens at once, but instructions and "
                f"answer alone have {reserved:,}; name a model with a longer context"
            )
        return min(self._max_window, context_length - reserved)

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts; a folder's files, or a hub model's commit, do.

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
        """Tokens of each text by the model's tokenizer; that needs no weights."""
        return self._template.count_tokens(texts)

    def status(self) -> str:
        """Tokens so far."""
        return str(self._costs)

    def generate(self, prompts: NumberedPrompts) -> NumberedAnswers:
        """Answer prompts, a block at a time; one that the model's context does not hold fails.

        Raises:
            ModelError: the model cannot be loaded.
        """
        for block in prompts:
            waiting = []
            for number, prompt in block:
                tokens = self._template.encode(prompt)
                tokenized = _TokenizedPrompt(number, tokens, prompt.task.max_tokens)
                context_length = self._template.context_length
                if context_length is not None and tokenized.width > context_length:
                    yield (
                        number,
                        Failure(
                            f"{len(tokens):,} tokens and {tokenized.max_new_tokens:,} of the answer "
                            f"are more than the {context_length:,} that the model takes at once"
                        ),
                    )
                else:
                    waiting.append(tokenized)
            # Prompts of a batch have the same limit, and similar lengths: little is padding.
            waiting.sort(key=lambda prompt: (prompt.max_new_tokens, len(prompt.tokens)))
            while waiting:
                batch = self._first_batch(waiting)
                answers: list[Answer] | list[Failure] = []
                with suppress(torch.OutOfMemoryError):
                    answers = self._answer_batch(batch)
                if not answers:  # The memory of a failed call is free by now.
                    torch.cuda.empty_cache()
                    if len(batch) > 1:
                        # This batch is halved, and so are later ones.
                        self._max_batch_tokens = len(batch) // 2 * batch[-1].width
                        continue
                    reason = "one prompt alone is too much for the GPU's memory"
                    answers = [Failure(reason, final=False)]
                del waiting[: len(batch)]
                yield from zip([prompt.number for prompt in batch], answers, strict=True)

    def _first_batch(self, waiting: Sequence[_TokenizedPrompt]) -> Sequence[_TokenizedPrompt]:
        """The first of sorted prompts: as many as the token budget holds, and at least one."""
        size = 1
        for prompt in waiting[1:]:
            fits = (size + 1) * prompt.width <= self._max_batch_tokens
            if not fits or prompt.max_new_tokens != waiting[0].max_new_tokens:
                break
            size += 1
        return waiting[:size]

    @torch.inference_mode()
    def _answer_batch(self, batch: Sequence[_TokenizedPrompt]) -> list[Answer]:
        """Generate the answers of a batch."""
        width = max(len(prompt.tokens) for prompt in batch)
        pad = self._model.generation_config.pad_token_id
        # (batch, width), padded on the left, so that every answer begins right after its prompt.
        ids = torch.full((len(batch), width), pad)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, prompt in enumerate(batch):
            ids[row, width - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
            mask[row, width - len(prompt.tokens) :] = 1
        device = self._placement.device
        generated = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=batch[0].max_new_tokens,
        )
        answers = generated[:, width:].tolist()  # padded after the end
        return [self._to_answer(*pair) for pair in zip(batch, answers, strict=True)]

    def _to_answer(self, prompt: _TokenizedPrompt, tokens: list[int]) -> Answer:
        """The answer up to the first end token."""
        end_tokens = self._model.generation_config.eos_token_id or ()
        end = 0
        while end < len(tokens) and tokens[end] not in end_tokens:
            end += 1
        is_cut = end == len(tokens)
        usage = Usage(input=len(prompt.tokens), output=end if is_cut else end + 1)
        self._costs.settle(0, usage)
        text = self._template.decode(tokens[:end])
        return Answer(text=text, usage=usage, finish="length" if is_cut else "stop")

    @cached_property
    def _files(self) -> Weights:
        """All of the model's files except its tensors, at least."""
        return Weights.find_or_download(self._source, self._requested_revision, tensors=False)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._files)

    @cached_property
    def _model(self) -> Any:
        """The model itself, with greedy decoding whatever its own settings are."""
        weights = Weights.find_or_download(self._source, self._files.commit)
        model = weights.load("AutoModelForCausalLM", self._placement)
        # The end tokens of the model and of its tokenizer may differ; either ends an answer.
        configured = model.generation_config.eos_token_id
        end_tokens = set(configured) if isinstance(configured, list) else {configured}
        end_tokens = (end_tokens | {self._template.end_token}) - {None}
        greedy_config: Any = GenerationConfig
        model.generation_config = greedy_config(
            do_sample=False,
            eos_token_id=sorted(end_tokens) or None,
            pad_token_id=min(end_tokens, default=0),
        )
        return model
