"""Error responses as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

__all__ = ["ErrorResponse", "ValidationErrorResponse", "error_responses"]


class ErrorResponse(BaseModel):
    """Why a request failed."""

    error: str
    request_id: str


class ValidationIssue(BaseModel):
    """A part of a request that is not valid: where it stands, and why."""

    type: str
    loc: list[str | int]
    msg: str


class ValidationErrorResponse(BaseModel):
    """A request that does not fit the OpenAPI document."""

    detail: list[ValidationIssue]
    request_id: str


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The argument `responses` of a route that may answer with these statuses."""
    descriptions = {
        400: "The body cannot be read.",
        401: "An API key is required, if the service was started with keys.",
        404: "The item or page does not exist.",
        409: "The item exists already.",
        413: "The body is too large.",
        422: "Validation error.",
        429: "Too many requests.",
        503: "The database of live reviews or a language or vision model cannot be reached.",
    }
    return {
        status: {
            "model": ValidationErrorResponse if status == 422 else ErrorResponse,
            "description": descriptions[status],
        }
        for status in statuses
    }
