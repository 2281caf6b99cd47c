"""Text from outside: cleaned before it is stored, and escaped before it is shown."""

from __future__ import annotations

import re

__all__ = ["escape_text", "remove_control_characters", "single_line"]

# Newline and tab stay. Lone surrogates go: they cannot be encoded as UTF-8.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def remove_control_characters(text: str) -> str:
    """Return text without control characters and lone surrogates; every line ends with a newline."""
    if text.isprintable():  # as most texts are, and much faster than the pattern
        return text
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def single_line(text: str) -> str:
    """Return text with every run of white space replaced by one blank."""
    return " ".join(text.split())


def escape_text(text: str, limit: int = 200) -> str:
    """Return text of at most `limit` characters, unprintable ones escaped, safe for terminals."""
    shown = ""
    for character in text[: limit + 1]:
        if not character.isprintable():
            character = character.encode("unicode_escape").decode("ascii")
        shown += character
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
