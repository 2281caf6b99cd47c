"""Prompts in the tokens of a local model; texts cannot break out of its chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mmrec.encoder.weights import Weights, translate_loading_errors
from mmrec.errors import ModelError
from mmrec.llm.prompts import chat_messages
from mmrec.llm.types import Prompt

__all__ = ["ChatTemplate"]


class ChatTemplate:
    """The tokenizer and the chat template of an instruct model.

    Args:
        files: the model's files; its tensors may be missing.

    Attributes:
        context_length: most tokens of prompt and answer together; None where there is no limit.
        end_token: the token that ends an answer.

    Raises:
        ModelError: it generates no text, or has no tokenizer or no chat template that works.
    """

    def __init__(self, files: Weights) -> None:
        files.require_type(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "one that writes texts")
        config = files.load_part("AutoConfig")
        text_config = config.get_text_config()
        self.context_length: int | None = getattr(text_config, "max_position_embeddings", None)
        # Lengths are checked by the caller, so the tokenizer need not warn of them.
        self._tokenizer = files.load_part("AutoTokenizer", config=config, model_max_length=10**9)
        template = self._tokenizer.chat_template
        if not template:
            raise ModelError(f"{files.name} has no chat template; name an instruct (chat) model")
        self.end_token: int | None = self._tokenizer.eos_token_id
        self._control_tokens = _control_tokens(self._tokenizer, str(template))
        with translate_loading_errors(files.name):
            self._render([{"role": "user", "content": "probe"}])
            self._has_system_role = self._accepts_system_role()

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, up to where the answer begins."""
        chat = []
        for message in chat_messages(prompt):
            chat.append({**message, "content": self._neutralize(message["content"])})
        if not self._has_system_role:
            system, user, *rest = chat
            content = f"{system['content']}\n\n{user['content']}"
            chat = [{"role": "user", "content": content}, *rest]
        ids: list[int] = self._tokenizer(self._render(chat), add_special_tokens=False)["input_ids"]
        return ids

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        if not texts:
            return []
        harmless = list(map(self._neutralize, texts))
        ids = self._tokenizer(harmless, add_special_tokens=False)["input_ids"]
        return list(map(len, ids))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of an answer."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def _render(self, chat: list[dict[str, str]]) -> str:
        # Reasoning is switched off. Without a date, Llama 3's template writes that of today, and
        # answers change with it.
        variables: dict[str, Any] = {"enable_thinking": False, "date_string": "01 Jan 2025"}
        rendered = self._tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, **variables
        )
        return str(rendered)

    def _accepts_system_role(self) -> bool:
        """Whether the template has a system role; those without refuse it, or drop its message."""
        system = {"role": "system", "content": "probe"}
        try:
            return "probe" in self._render([system, {"role": "user", "content": "?"}])
        except TemplateError:
            return False

    def _neutralize(self, text: str) -> str:
        """Split control tokens, so that a text with `<|end|>` does not end its message."""
        text = text.encode("utf-8", "replace").decode()  # a tokenizer takes no lone surrogates
        return self._control_tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def _control_tokens(tokenizer: Any, template: str) -> re.Pattern[str]:
    """Matches what a tokenizer would read as a control token, the longest first."""
    contents = set()
    for token in tokenizer.added_tokens_decoder.values():
        is_control = token.special or token.content in template
        if is_control and len(token.content.strip()) > 1:
            contents.add(token.content)
    alternatives = "|".join(map(re.escape, sorted(contents, key=len, reverse=True)))
    return re.compile(alternatives or r"(?!)")  # the latter matches nothing
