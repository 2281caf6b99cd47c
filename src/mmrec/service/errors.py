"""What the service answers instead of what was asked for, as the OpenAPI document describes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

__all__ = ["error_responses"]


class Refused(BaseModel):
    """Why there is no answer."""

    error: str
    request_id: str


class Wrong(BaseModel):
    """A part of a request that cannot be, where it stands, and why."""

    type: str
    loc: list[str | int]
    msg: str


class Invalid(BaseModel):
    """A request that does not fit this document."""

    detail: list[Wrong]
    request_id: str


_SAID: dict[int, str] = {
    400: "The body cannot be read.",
    401: "An API key is wanted; only where the service was started with keys.",
    404: "Nobody has spoken of it, or no id looks like that.",
    409: "The item is known already.",
    413: "The body is too long.",
    422: "Something in the request cannot be.",
    429: "Too many requests; wait a little.",
    503: "The database of live reviews, or a model that reads, cannot be reached.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """As `responses` of a route."""
    return {
        status: {"model": Invalid if status == 422 else Refused, "description": _SAID[status]}
        for status in statuses
    }
