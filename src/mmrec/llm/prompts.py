"""Prompts: what is asked of a language model, and how untrusted texts are put into a message."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from itertools import count
from typing import Literal

from pydantic import BaseModel

from mmrec.data.schema import EntityKind
from mmrec.llm.sanitize import sanitize
from mmrec.llm.types import Note, Prompt, Summary, Task

__all__ = [
    "chat_messages",
    "frame_text",
    "note_task",
    "paper_tasks",
    "prompt_digest",
    "reason_task",
    "summary_task",
]

_TEXTS: dict[str, str] = tomllib.loads(
    resources.files("mmrec.llm").joinpath("prompts.toml").read_text("utf-8")
)


def note_task(item_kind: str) -> Task:
    """Read one review of an item of that kind."""
    fields = _TEXTS["fields"].format(
        points=5, sorts=f"sorts of {item_kind} it is", max_categories=5
    )
    rules = _TEXTS["rules"].format(texts="The review stands")
    instructions = _TEXTS["note"].format(kind=item_kind, fields=fields, rules=rules)
    return Task("note", instructions, _schema_of(Note), max_tokens=600)


def summary_task(entity_kind: EntityKind, item_kind: str, max_categories: int) -> Task:
    """Sum up the reviews of one user or item, with at most `max_categories` (the paper: 11)."""
    sorts = "this person goes to" if entity_kind == "user" else "it is"
    fields = _TEXTS["fields"].format(
        points=8, sorts=f"sorts of {item_kind} {sorts}", max_categories=max_categories
    )
    rules = _TEXTS["rules"].format(texts="Each review, or summary of several reviews, stands")
    template = _TEXTS[f"{entity_kind}_summary"]
    instructions = template.format(kind=item_kind, fields=fields, rules=rules)
    return Task(f"summary of {entity_kind}", instructions, _schema_of(Summary), max_tokens=1000)


def reason_task(item_kind: str) -> Task:
    """Say in one sentence why somebody may like an item of that kind."""
    rules = _TEXTS["rules"].format(texts="Each sentence stands")
    instructions = _TEXTS["reason"].format(kind=item_kind, rules=rules)
    return Task("reason", instructions, _schema({"sentence": {"type": "string"}}), max_tokens=200)


def paper_tasks(
    entity_kind: EntityKind, item_kind: str
) -> dict[Literal["text", "price", "categories"], Task]:
    """The paper's separate calls: a summary, and of an item its price tag and its categories."""

    def task(name: str, template: str, max_tokens: int) -> Task:
        return Task(name, _TEXTS[template].format(kind=item_kind), None, max_tokens)

    text = task(f"paper's summary of {entity_kind}", f"paper_{entity_kind}_summary", 400)
    if entity_kind == "user":
        return {"text": text}
    return {
        "text": text,
        "price": task("paper's price", "paper_price", 50),
        "categories": task("paper's categories", "paper_categories", 100),
    }


def _schema_of(model: type[BaseModel]) -> dict[str, object]:
    """JSON schema of a model's fields, without titles and defaults."""
    fields = {}
    for name, field in model.model_json_schema()["properties"].items():
        fields[name] = {key: field[key] for key in ("type", "items", "enum") if key in field}
    return _schema(fields)


def _schema(fields: dict[str, dict[str, object]]) -> dict[str, object]:
    """JSON schema in OpenAI's strict form: every field required, no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def prompt_digest(task: Task) -> str:
    """Version of a prompt; it changes with every letter, and with how texts are framed."""
    # With texts and a rejected answer, so that frames and the repair count too.
    sample = chat_messages(Prompt(task, ("", ""), '["", ""]'))
    return hashlib.sha256(json.dumps([sample, task.schema]).encode()).hexdigest()[:16]


def chat_messages(prompt: Prompt) -> list[dict[str, str]]:
    """Chat messages of a prompt: the instructions first and always the same, the texts last."""
    messages = [
        {"role": "system", "content": prompt.task.instructions},
        {"role": "user", "content": _frame_texts(prompt.texts)},
    ]
    if prompt.rejected is not None:
        answer, reason = json.loads(prompt.rejected)
        form = "just what was asked for"
        if prompt.task.schema is not None:
            form = "one JSON object of just the fields asked for"
        repair = _TEXTS["repair"].format(reason=reason, form=form)
        messages.append({"role": "assistant", "content": sanitize(answer)})
        messages.append({"role": "user", "content": repair})
    return messages


def _frame_texts(texts: Sequence[str]) -> str:
    """Texts between marked lines. No text holds the mark, so that none can end itself."""
    joined = "\0".join(texts)
    marks = (_mark(f"{attempt} {joined}") for attempt in count())
    # The mark is a hash of the texts, so nobody can write it into one of them beforehand.
    mark = next(mark for mark in marks if mark not in joined)
    return "\n".join(frame_text(text, number, mark) for number, text in enumerate(texts, 1))


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def frame_text(text: str, number: int, mark: str) -> str:
    """A text between the lines which show where it begins and ends."""
    return f"[review {number} {mark} begins]\n{text}\n[review {number} {mark} ends]"
