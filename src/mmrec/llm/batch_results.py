"""What comes back of a batch: lines of results as answers or failures, and how far it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mmrec.cache.store import Failure
from mmrec.llm.openai_protocol import parse_completion
from mmrec.llm.types import Answer
from mmrec.text import escape_text

if TYPE_CHECKING:
    from openai.types import Batch

__all__ = ["describe_progress", "describe_refusal", "parse_result_line", "restore_answer"]

_PASSING = (401, 403, 404, 408, 409, 429)
"""Refusals of a line that are about the account, or the moment, and not about what was asked."""


def parse_result_line(line: bytes) -> tuple[str, str] | None:
    """Name and stored form of one line of results; None for what is worth another try."""
    try:
        result = json.loads(line)
        response = result.get("response") or {}
        status, body = response.get("status_code", 0), response.get("body") or {}
        if status == 200:
            return result["custom_id"], parse_completion(body).model_dump_json()
        if 400 <= status < 500 and status not in _PASSING:
            said = str((body.get("error") or {}).get("message") or json.dumps(body))
            return result["custom_id"], json.dumps(
                {"failure": f"the server refused: {escape_text(said, 300)}"}
            )
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    return None


def restore_answer(stored: str) -> Answer | Failure:
    """An answer or a failure out of its stored form."""
    fields = json.loads(stored)
    return Failure(fields["failure"]) if "failure" in fields else Answer.model_validate(fields)


def describe_progress(batch: Batch) -> str:
    """How far a batch is."""
    done = batch.request_counts
    return f", {done.completed:,} of {done.total:,} done" if done and done.total else ""


def describe_refusal(batch: Batch, lost: int) -> str:
    """Why a batch of so many asks was refused as a whole."""
    errors = (batch.errors.data if batch.errors else None) or []
    said = (
        "; ".join(list(dict.fromkeys(str(one.message) for one in errors))[:3]) or "no reason given"
    )
    return (
        f"the server refused batch {batch.id} of {lost:,} asks: {escape_text(said, 500)}. The next run hands "
        "them in again; --budget hands in less at a time"
    )
