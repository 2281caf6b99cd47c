"""Reviews split into sentences, at contrasts too: "nice food, but slow service" makes two points."""

from __future__ import annotations

import re
from itertools import chain

__all__ = ["split_query", "split_sentences"]

_MAX_WORDS = 60
_MAX_CHARACTERS = 600
_SENTENCE_END = re.compile(
    r"(?<=[.!?…][\"'”’)\]])\s+"  # "like this." next
    r"|(?<=[.!?…।])\s+"
    r"|(?<=[。！？])(?![。！？])"
    r"|(?<=[!?])(?=\w)"  # no space after the mark
    r"|(?<=[.\s]\.)(?=[^\W\d_])"
    r"|(?<=[^\W\d_A-Z]{2}\.)(?=[A-Z][a-z])"  # no space after the full stop
)
_CONTRAST = re.compile(
    r"(?:(?<=,)\s*|\s+)(?=but\s(?!also\b))"
    r"|(?<=,)\s*(?=(?:however|although|though|yet|whereas)\b)"
    r"|(?<=;)\s+"
    r"|\s+(?=however\s)",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """Split a review into sentences, in order, each verbatim but for runs of white space.

    Line breaks, bullets, sentence ends and contrasts (", but", "however", ";") separate; a mark,
    number or emoji that stands alone joins its neighbour. No sentence has more than 60 words or
    600 characters.
    """
    unprintable = r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]"
    bullet = r"^\s*(?:[-–—*•●▪◦·>✓✔➤➡️]+|\(?\d{1,2}[.)](?!\d))\s*"
    sentences: list[str] = []
    for line in re.split(r"[\r\n\v\f\x85\u2028\u2029]+", re.sub(unprintable, " ", text)):
        for sentence in _split_line(re.sub(bullet, "", line, count=1)):
            last = sentences[-1] if sentences else ""
            has_words = _has_letter(sentence) and _has_letter(last)
            if last and not has_words and len(last) + len(sentence) < _MAX_CHARACTERS // 2:
                sentences[-1] = f"{last} {sentence}"
            else:
                sentences.append(sentence)
    return list(chain.from_iterable(map(_limit_length, sentences)))


def _has_letter(text: str) -> bool:
    return re.search(r"[^\W\d_]", text) is not None


def _split_line(line: str) -> list[str]:
    """The sentences and clauses of one line; full stops of abbreviations do not end them."""
    never_last = (
        r"(?:\b(?:mr|mrs|ms|dr|st|vs|jr|sr|rs|approx|prof|mt|ft|inc)|\be\.g|\bi\.e|\b[a-z])\.$"
    )
    maybe_last = r"\b(?:etc|[ap]\.m|co|min|mins)\.$"
    sentences: list[str] = []
    for piece in _SENTENCE_END.split(line):
        piece = " ".join(piece.split())
        if not piece:
            continue
        ending = sentences[-1][-16:] if sentences else ""
        goes_on = re.search(never_last, ending, re.IGNORECASE)
        if not goes_on and piece[0].islower():
            goes_on = re.search(maybe_last, ending, re.IGNORECASE)
        if goes_on:
            sentences[-1] = f"{sentences[-1]} {piece}"
        else:
            sentences.append(piece)
    return list(chain.from_iterable(map(_split_contrasts, sentences)))


def _split_contrasts(sentence: str) -> list[str]:
    """Split at contrasts where both sides are long enough to say something."""
    clauses: list[str] = []
    for piece in _CONTRAST.split(sentence):
        if clauses and (_count_words(piece) < 3 or _count_words(clauses[-1]) < 2):
            clauses[-1] = f"{clauses[-1]} {piece}"
        else:
            clauses.append(piece)
    return clauses


def _count_words(text: str) -> int:
    return sum(re.search(r"[^\W_]", word) is not None for word in text.split())


def _limit_length(sentence: str) -> list[str]:
    """Cut run-on text at its last comma within 60 words, else after 60; endless words by length."""
    pieces = []
    words = sentence.split(" ")
    while words:
        end = _MAX_WORDS
        if len(words) > end:
            # Backwards to the middle; later commas leave less to be cut again.
            positions = range(end, end // 2 + 1, -1)
            end = next((stop for stop in positions if words[stop - 1][-1] in ",;:-"), end)
        piece, words = " ".join(words[:end]), words[end:]
        for start in range(0, len(piece), _MAX_CHARACTERS):
            pieces.append(piece[start : start + _MAX_CHARACTERS].strip())
    return list(filter(None, pieces))


def split_query(text: str, limit: int = 20) -> list[str]:
    """The parts of a description of what a visitor wants: "ramen, quiet places" has two.

    Only the first `limit` parts of a long list are used.
    """
    parts = filter(None, map(str.strip, re.split(r"[,;\n]", text)))
    return list(dict.fromkeys(parts))[:limit] or [text]
