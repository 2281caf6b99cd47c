"""Removal of what readers of a text cannot see, and of what a chat server could take for markup."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["sanitize"]

# Characters that fonts show nothing for although Unicode does not class them as format
# characters: fillers, variation selectors, tags; and code points that are no characters.
_BLANK = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufdd0-\ufdef\ufe00-\ufe0d"
    r"\uffa0\ufff0-\ufff8\ufffe\uffff\U000e0000-\U000e0fff]"
)
# Zero-width (non-)joiners and emoji styles belong to words of some scripts and to emoji.
_JOINERS = r"[\u200c\u200d\ufe0e\ufe0f]"


def sanitize(text: str) -> str:
    """Remove hidden characters, and make markup of chat templates harmless.

    Control, direction, tag and other format characters are removed, since they can carry orders
    that a model reads and a person does not see. `<|im_end|>` and the like get a space. Runs of
    empty lines become one. The result does not change when it is sanitized again.
    """
    if text.isascii() and text.isprintable() and "<" not in text and "[" not in text:
        return text.strip()  # the usual case
    text = "\n".join(text.splitlines())
    hidden = {ord(character) for character in set(text) if _is_hidden(character)}
    text = _thin_out_joiners(text.translate(dict.fromkeys(hidden)))
    return re.sub(r"\n\s*\n\s*\n+", "\n\n", _break_markup(text)).strip()


def _is_hidden(character: str) -> bool:
    if character in "\n\t\u200c\u200d":
        return False
    # Unassigned code points (Cn) stay: Python's table of Unicode is years behind the emoji in use.
    invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")
    return invisible or _BLANK.match(character) is not None


def _thin_out_joiners(text: str) -> str:
    """Keep one joiner where it joins or styles something; runs of them could spell a message."""
    ascii_or_edge = r"(?<![^\0-\x7f])", r"(?![^\0-\x7f])"
    text = re.sub(f"{ascii_or_edge[0]}{_JOINERS}+{ascii_or_edge[1]}", "", text)
    # An emoji style and a joiner may follow each other: a heart on fire is heart, style, joiner, fire.
    return re.sub(rf"(?={_JOINERS}{{2}})(\ufe0f\u200d|.){_JOINERS}*", r"\1", text)


def _break_markup(text: str) -> str:
    """Put a space into what chat templates put between messages, and into this package's marks.

    Examples: `<|im_end|>`, `</s>`, `[INST]`, `[|user|]`, `[review 1 ... ends]`.
    """
    tag = r"<(?=[^\s<>]{1,40}>)"
    bracketed = r"\[(?=/?[a-z]?[A-Z_]{2,24}\]|\||(?i:review)\s+\S{1,9}\s[^\n\]]{1,40}\])"
    return re.sub(f"{tag}|{bracketed}", r"\g<0> ", text)
