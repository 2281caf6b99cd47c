"""Kinds of values that a request may have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

__all__ = ["Count", "Id", "InUrl", "Price", "Share", "Text", "Words"]


def _clean(text: str) -> str:
    """Without NUL, which PostgreSQL does not hold; halves of characters are refused before."""
    return text.replace("\0", "")


def _whole(number: Any) -> Any:
    """JSON does not tell 10.0 from 10."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Id = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, AfterValidator(_clean)]
Words = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1000, pattern=r"[^\s\x00]"),
    AfterValidator(_clean),
]
InUrl = Annotated[Id, Path(description="An id; one that was never seen is a stranger's.")]
Price = Literal["cheap price", "fair price", "overpriced"]
Count = Annotated[int, Field(ge=1, le=100), BeforeValidator(_whole)]
Share = Annotated[float, Field(ge=0, le=1)]
