"""Reviews cut into sentences, at contrasts too: "nice food, but slow service" says two things."""

from __future__ import annotations

import re

__all__ = ["split_query", "split_sentences"]

_MOST_WORDS = 60
_MOST_CHARACTERS = 600
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_LINE = re.compile(r"[\r\n\v\f\x85\u2028\u2029]+")
_BULLET = re.compile(r"^\s*(?:[-–—*•●▪◦·>✓✔➤➡️]+|\(?\d{1,2}[.)](?!\d))\s*")
_END = re.compile(
    r"(?<=[.!?…][\"'”’)\]])\s+"  # "like this." next
    r"|(?<=[.!?…।])\s+"
    r"|(?<=[。！？])(?![。！？])"
    r"|(?<=[!?])(?=\w)"
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
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|vs|jr|sr|rs|approx|prof|mt|ft|inc)|\be\.g|\bi\.e|\b[a-z])\.$",
    re.IGNORECASE,
)
_OPEN_ABBREVIATION = re.compile(r"\b(?:etc|[ap]\.m|co|min|mins)\.$", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]")
_LETTER = re.compile(r"[^\W\d_]")


def split_sentences(text: str) -> list[str]:
    """Cut a review into sentences, in order, each verbatim but for runs of white space.

    Line breaks, bullets, sentence ends and contrasts (", but", "however", ";") cut; a mark, number or emoji
    that stands alone joins its neighbour. No sentence has more than 60 words or 600 characters.
    """
    found: list[str] = []
    for line in _LINE.split(_UNPRINTABLE.sub(" ", text)):
        for sentence in _of_line(_BULLET.sub("", line, count=1)):
            wordless = found and not (_LETTER.search(sentence) and _LETTER.search(found[-1]))
            if wordless and len(found[-1]) + len(sentence) < _MOST_CHARACTERS // 2:
                found[-1] = f"{found[-1]} {sentence}"
            else:
                found.append(sentence)
    return [piece for sentence in found for piece in _cut(sentence)]


def _of_line(line: str) -> list[str]:
    """The sentences and clauses of one line; full stops of abbreviations do not end them."""
    joined: list[str] = []
    for piece in _END.split(line):
        piece = " ".join(piece.split())
        if not piece:
            continue
        last = joined[-1][-16:] if joined else ""
        if last and (
            _ABBREVIATION.search(last) or (piece[0].islower() and _OPEN_ABBREVIATION.search(last))
        ):
            joined[-1] = f"{joined[-1]} {piece}"
        else:
            joined.append(piece)
    return [clause for sentence in joined for clause in _clauses(sentence)]


def _clauses(sentence: str) -> list[str]:
    """Cut at contrasts where both sides are long enough to say something."""
    clauses: list[str] = []
    for piece in _CONTRAST.split(sentence):
        if clauses and (_words(piece) < 3 or _words(clauses[-1]) < 2):
            clauses[-1] = f"{clauses[-1]} {piece}"
        else:
            clauses.append(piece)
    return clauses


def _words(text: str) -> int:
    return sum(1 for word in text.split() if _WORD.search(word))


def _cut(sentence: str) -> list[str]:
    """Cut run-on text at its last comma within 60 words, else after 60 words; words without end by length."""
    if len(sentence) <= _MOST_CHARACTERS and sentence.count(" ") < _MOST_WORDS:
        return [sentence]
    words = sentence.split()
    pieces = []
    while words:
        end = _MOST_WORDS
        if len(words) > end:
            commas = (at + 1 for at in range(end - 1, end // 2, -1) if words[at][-1] in ",;:-")
            end = next(commas, end)
        pieces.append(" ".join(words[:end]))
        words = words[end:]
    return [
        piece[at : at + _MOST_CHARACTERS].strip()
        for piece in pieces
        for at in range(0, len(piece), _MOST_CHARACTERS)
        if piece[at : at + _MOST_CHARACTERS].strip()
    ]


def split_query(text: str, limit: int = 20) -> list[str]:
    """The wishes in a visitor's words: "ramen, quiet places" is two; of a long list the first `limit`."""
    parts = [part.strip() for part in re.split(r"[,;\n]", text)]
    wishes = list(dict.fromkeys(filter(None, parts)))
    return wishes[:limit] or [text]
