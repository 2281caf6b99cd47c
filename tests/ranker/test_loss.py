"""The weights of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmrec.ranker.loss import class_weights


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("plain", (0.5, 0.5)),
        ("basic", (0.8, 0.2)),  # 1 - n_c/n: dislikes are .2 of the rows, likes .8
        ("sqrt", (2 / 3, 1 / 3)),  # sqrt(.8) : sqrt(.2) = 2 : 1
    ],
)
def test_class_weights_follow_the_formula(loss: Any, expected: tuple[float, float]) -> None:
    label = np.array([True] * 80 + [False] * 20)
    assert class_weights(label, loss) == pytest.approx(expected)
