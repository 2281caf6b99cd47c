"""Captions that say nothing are told from those that do, short and clumsy as these may be."""

from __future__ import annotations

import pytest

from mmrec.vision.captioner import caption_fault

GOOD = [
    "two cats sleeping on a couch",
    "sushi",
    "a photo of a bowl of ramen",
    "an image of the menu.",
    "a very very big pizza",
    "no no no, said the sign",
    "a man and a woman and a dog in front of a house and a car",
    "a bowl of soup, a bowl of rice and a bowl of salad on a table",
    "a plate of food with a plate of rice and a bowl of soup and a bowl of rice",
    "a sign that says 10000000",
    "une assiette de pâtes sur une table",
    "木桌上的一碗面条",
    "a group of people sitting at a table in a restaurant with food and drinks in front of them",
    "A dim, warm landscape photo, mostly black with red and touches of cream; few edges.",
]


@pytest.mark.parametrize("caption", GOOD)
def test_what_says_something_is_kept(caption: str) -> None:
    assert caption_fault(caption) is None


FAULTS = {
    "empty": ["", " \n\t "],
    "no words": [".", "... !? -", "12 34"],
    "says nothing": ["a photo of", "A picture of a.", "an image of the", "this is a close up of", "the"],
    "control characters": ["a dog\x00 on a bench", "a dog � on a bench"],
    "special tokens": ["a dog </s>", "<pad><pad>", "<image> a dog", "[UNK] with a hat"],
    "loops": [
        *("food food food food", "a table table table table table", "a red and a red and a red and"),
        *("the bar, the bar, the bar", "hahahahahahahaha", "a dooooooooog"),
        "a plate with a fork and a plate with a fork and a knife",
        "a large room with a large table and a large table with a large table and a room",
        "one on the left of it, another on the left of it, more on the left of it",
    ],
    "too long": ["words " * 200],
}


@pytest.mark.parametrize(
    ("caption", "kind"), [(caption, kind) for kind, captions in FAULTS.items() for caption in captions]
)
def test_what_says_nothing_is_told_with_the_reason(caption: str, kind: str) -> None:
    why = caption_fault(caption)
    assert why is not None
    assert kind in why
    assert len(why) < 120
