"""Reviews are split into sentences and clauses, without losing a word."""

from __future__ import annotations

import pytest

from mmrec.llm.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("One. Two words! Three?", ["One.", "Two words!", "Three?"]),
        ("- good soup\n* bad bread\n2) fair tea", ["good soup", "bad bread", "fair tea"]),
        ("The soup was hot....the tea was cold", ["The soup was hot....", "the tea was cold"]),
        ("Mr. Smith paid Rs. 300 for it.", ["Mr. Smith paid Rs. 300 for it."]),
        ("Great place.The food is good.", ["Great place.", "The food is good."]),
        ("The food was good, but service was slow.", ["The food was good,", "but service was slow."]),
        ("Nothing but good.", ["Nothing but good."]),
        ("Loved it! 5/5 👍", ["Loved it! 5/5 👍"]),
        ("It cost 3.50 at 7 p.m. on a Monday", ["It cost 3.50 at 7 p.m. on a Monday"]),
    ],
)
def test_sentences_end_at_marks_lines_and_contrasts(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_run_on_text_is_cut_and_no_word_is_lost() -> None:
    text = "and then we ate some more of it, " * 40
    pieces = split_sentences(text)
    assert max(len(piece.split()) for piece in pieces) <= 60
    assert " ".join(pieces).split() == text.split()
    assert max(map(len, split_sentences("x" * 100_000))) <= 600
