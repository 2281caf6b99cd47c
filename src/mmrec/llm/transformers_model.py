"""An instruct model on this machine: prompts in batches, always the likeliest token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mmrec.cache.store import Failure
from mmrec.encoder.weights import Placement, Weights, translate_loading_errors
from mmrec.errors import ModelError
from mmrec.llm.annotator import build_task
from mmrec.llm.prompts import chat_messages, prompt_digest
from mmrec.llm.types import Answer, AnswerStream, LanguageModel, Prompt, PromptBlocks, Task, Usage


class _TokenizedPrompt(NamedTuple):
    number: int
    tokens: list[int]
    max_new_tokens: int


class TransformersModel(LanguageModel):
    """A local instruct model; its weights are downloaded and loaded at the first prompt.

    In bf16 a near tie between two tokens may fall differently in a batch of another size. The
    source is a folder, or a model on the hub with its revision, by default that of the local cache,
    or the newest. A prompt has at most `window` tokens of reviews. The placement is by default the
    fastest of this machine, but not fp16: some models overflow.
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
        self._source, self._requested_revision = source, revision
        self._max_window, self._token_count = window, 0

    @cached_property
    def window(self) -> int | None:
        """Most tokens of reviews in a prompt: what else is in the context leaves them."""
        context_length = self._template.context_length
        if context_length is None:
            return self._max_window
        reserved = 0  # by the longest instructions and answer
        for name in ("note", "summary of item", "summary of user"):
            task = build_task(name, "restaurant", 11)
            instructions = self._template.encode(Prompt(task, ("",)))
            reserved = max(reserved, len(instructions) + task.max_tokens)
        if context_length - reserved < 64:
            need = f"instructions and answer alone have {reserved:,}"
            fault = f"{self._source} takes {context_length:,} tokens at once, but {need}"
            raise ModelError(f"{fault}; name a model with a longer context")
        return min(self._max_window, context_length - reserved)

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts: files or commit, and settings."""
        files = {"model": self._files.title, "revision": self._files.revision}
        settings = {"precision": self._placement.precision, "decoding": "greedy"}
        prompt = {"prompt": prompt_digest(task), "tokens": task.max_tokens}
        return {"kind": task.name, "provider": "transformers", **files, **settings, **prompt}

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's tokenizer; that needs no weights."""
        template = self._template
        return [len(template.tokenize(template.neutralize(text))) for text in texts]

    def status(self) -> str:
        """Tokens so far."""
        return f"{self._token_count:,} tokens" if self._token_count else ""

    def generate(self, prompts: PromptBlocks) -> AnswerStream:
        """Answer prompts, a block at a time; one that the model's context does not hold fails."""
        context_length = self._template.context_length
        for block in prompts:
            waiting = []
            for number, prompt in block:
                tokens, limit = self._template.encode(prompt), prompt.task.max_tokens
                if context_length is None or len(tokens) + limit <= context_length:
                    waiting.append(_TokenizedPrompt(number, tokens, limit))
                    continue
                length = f"{len(tokens):,} tokens and {limit:,} of the answer"
                window = f"the {context_length:,} that the model takes at once"
                yield number, Failure(f"{length} are more than {window}")
            waiting.sort(key=lambda prompt: (prompt.max_new_tokens, len(prompt.tokens)))
            while waiting:
                # As many as the budget of tokens holds, and at least one.
                batch, limit = waiting[:1], waiting[0].max_new_tokens
                for following in waiting[1:]:
                    tokens_in_all = (len(batch) + 1) * (len(following.tokens) + limit)
                    if tokens_in_all > self._max_batch_tokens or following.max_new_tokens != limit:
                        break
                    batch.append(following)
                answers: list[Answer] | list[Failure] = []
                with suppress(torch.OutOfMemoryError):
                    answers = self._answer_batch(batch)
                if not answers:  # The memory of a failed call is free by now.
                    torch.cuda.empty_cache()
                    if len(batch) > 1:  # halved, and so are later ones
                        self._max_batch_tokens = len(batch) // 2 * (len(batch[-1].tokens) + limit)
                        continue
                    reason = "one prompt alone is too much for the GPU's memory"
                    answers = [Failure(reason, final=False)]
                del waiting[: len(batch)]
                yield from zip([prompt.number for prompt in batch], answers, strict=True)

    @torch.inference_mode()
    def _answer_batch(self, batch: Sequence[_TokenizedPrompt]) -> list[Answer]:
        """Generate the answers of a batch, each up to its first end token."""
        settings, device = self._model.generation_config, self._placement.device
        width = max(len(prompt.tokens) for prompt in batch)
        # (batch, width), padded on the left, so that every answer begins right after its prompt.
        ids = torch.full((len(batch), width), settings.pad_token_id)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, prompt in enumerate(batch):
            ids[row, width - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
            mask[row, width - len(prompt.tokens) :] = 1
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        generated = self._model.generate(**inputs, max_new_tokens=batch[0].max_new_tokens)
        answers, end_tokens = [], settings.eos_token_id or ()
        for prompt, tokens in zip(batch, generated[:, width:].tolist(), strict=True):
            ends = (index for index, token in enumerate(tokens) if token in end_tokens)
            end = next(ends, len(tokens))
            finish = "length" if end == len(tokens) else "stop"
            usage = Usage(input=len(prompt.tokens), output=end + (finish == "stop"))
            self._token_count += usage.input + usage.output
            text = self._template.tokenizer.decode(tokens[:end], skip_special_tokens=True)
            answers.append(Answer(text=text.strip(), usage=usage, finish=finish))
        return answers

    @cached_property
    def _files(self) -> Weights:
        return Weights.find_or_download(self._source, self._requested_revision, tensors=False)

    @cached_property
    def _template(self) -> _ChatTemplate:
        return _ChatTemplate(self._files)

    @cached_property
    def _model(self) -> Any:
        weights = Weights.find_or_download(self._source, self._files.commit)
        model = weights.load("AutoModelForCausalLM", self._placement)
        # End tokens of model and tokenizer may differ; either ends an answer.
        configured = model.generation_config.eos_token_id
        end_tokens = set(configured) if isinstance(configured, list) else {configured}
        end_tokens = (end_tokens | {self._template.tokenizer.eos_token_id}) - {None}
        config: Any = GenerationConfig
        greedy = config(do_sample=False, eos_token_id=sorted(end_tokens) or None)
        greedy.pad_token_id = min(end_tokens, default=0)
        model.generation_config = greedy
        return model


class _ChatTemplate:
    """Prompts in the tokens of an instruct model; texts cannot break out of its chat template."""

    def __init__(self, files: Weights) -> None:
        files.require_type(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "one that writes texts")
        config = files.load_part("AutoConfig")
        text_config = config.get_text_config()
        self.context_length: int | None = getattr(text_config, "max_position_embeddings", None)
        # Without a warning of lengths, which the caller checks.
        self.tokenizer = files.load_part("AutoTokenizer", config=config, model_max_length=10**9)
        template = self.tokenizer.chat_template
        if not template:
            raise ModelError(f"{files.name} has no chat template; name an instruct (chat) model")
        controls = set()
        for token in self.tokenizer.added_tokens_decoder.values():
            is_control = token.special or token.content in str(template)
            if is_control and len(token.content.strip()) > 1:
                controls.add(re.escape(token.content))
        alternatives = "|".join(sorted(controls, key=len, reverse=True))
        self._control_tokens = re.compile(alternatives or r"(?!)")
        user = {"role": "user", "content": "probe"}
        with translate_loading_errors(files.name):
            self._render([user])
            # Templates without a system role refuse it, or drop its message.
            self._has_system_role = False
            with suppress(TemplateError):
                rendered = self._render([{**user, "role": "system"}, {**user, "content": "?"}])
                self._has_system_role = "probe" in rendered

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, up to where the answer begins."""
        chat = []
        for message in chat_messages(prompt):
            chat.append({**message, "content": self.neutralize(message["content"])})
        if not self._has_system_role:
            system, user, *rest = chat
            content = f"{system['content']}\n\n{user['content']}"
            chat = [{"role": "user", "content": content}, *rest]
        return self.tokenize(self._render(chat))

    def tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def neutralize(self, text: str) -> str:
        """Split control tokens, so that a text with `<|end|>` cannot end its message."""
        # A tokenizer takes no lone surrogates.
        text = text.encode("utf-8", "replace").decode()
        return self._control_tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def _render(self, chat: list[dict[str, str]]) -> str:
        # Without a date, Llama 3's template writes that of today, and answers change with it.
        options = {"enable_thinking": False, "date_string": "01 Jan 2025", "tokenize": False}
        render = self.tokenizer.apply_chat_template
        return str(render(chat, add_generation_prompt=True, **options))
