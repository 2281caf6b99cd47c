"""Asks in the tokens of a local model: its chat template, filled with texts that cannot break out of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from jinja2 import TemplateError
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mmrec.encoder.weights import Weights, translate_loading_errors
from mmrec.errors import ModelError
from mmrec.llm.prompts import chat_messages
from mmrec.llm.types import Prompt

__all__ = ["ChatTemplate"]

_PROBE: Final = "probe"
# Thinking models are told not to. Llama 3's template else writes today's date, and answers change with it.
_VARIABLES: Final[dict[str, Any]] = {"enable_thinking": False, "date_string": "01 Jan 2025"}


class ChatTemplate:
    """The tokenizer and the chat template of an instruct model.

    Args:
        words: the model's files; its tensors may be missing.

    Attributes:
        context_length: most tokens of prompt and answer together; None where there is no limit.
        end_token: the token that ends an answer.

    Raises:
        ModelError: it writes no texts, or has no tokenizer or no chat template that works.
    """

    def __init__(self, words: Weights) -> None:
        words.require_type(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "one that writes texts")
        config = words.load_part("AutoConfig")
        self.context_length: int | None = getattr(
            config.get_text_config(), "max_position_embeddings", None
        )
        # The context is minded elsewhere, so that the tokenizer need not warn of it.
        self._tokenizer = words.load_part("AutoTokenizer", config=config, model_max_length=10**9)
        template = self._tokenizer.chat_template
        if not template:
            raise ModelError(f"{words.name} has no chat template; name an instruct (chat) model")
        self.end_token: int | None = self._tokenizer.eos_token_id
        added = self._tokenizer.added_tokens_decoder.values()
        control = {one.content for one in added if one.special or one.content in str(template)}
        control = {one for one in control if len(one.strip()) > 1}
        self._control = re.compile(
            "|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)"
        )
        with translate_loading_errors(words.name):
            self._rendered([{"role": "user", "content": _PROBE}])
            self._has_system = self._takes_system()

    def encode(self, prompt: Prompt) -> list[int]:
        """An ask, up to where the answer begins."""
        chat = [{**one, "content": self._harmless(one["content"])} for one in chat_messages(prompt)]
        if not self._has_system:
            told, asked, *rest = chat
            chat = [{"role": "user", "content": f"{told['content']}\n\n{asked['content']}"}, *rest]
        ids: list[int] = self._tokenizer(self._rendered(chat), add_special_tokens=False)[
            "input_ids"
        ]
        return ids

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        harmless = [self._harmless(text) for text in texts]
        if not harmless:
            return []
        return [
            len(ids) for ids in self._tokenizer(harmless, add_special_tokens=False)["input_ids"]
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        """An answer in words."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def _rendered(self, chat: list[dict[str, str]]) -> str:
        rendered = self._tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, **_VARIABLES
        )
        return str(rendered)

    def _takes_system(self) -> bool:
        """Whether instructions have a role of their own; templates without it refuse them, or drop them."""
        try:
            return _PROBE in self._rendered(
                [{"role": "system", "content": _PROBE}, {"role": "user", "content": "?"}]
            )
        except TemplateError:
            return False

    def _harmless(self, text: str) -> str:
        """A text whose `<|end|>` does not end the message; a lone surrogate is no text to a tokenizer."""
        text = text.encode("utf-8", "replace").decode()
        return self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
