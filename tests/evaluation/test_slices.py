"""Metrics on slices of the rows."""

from __future__ import annotations

import numpy as np

from mmrec.evaluation.metrics import evaluate
from mmrec.evaluation.slices import slice_masks, slice_metrics


def test_slices_by_hand() -> None:
    yes, no = True, False
    masks = slice_masks(
        user_count=np.array([0, 2, 3, 9]),
        item_count=np.array([4, 5, 0, 6]),
        photo=np.array([yes, no, no, yes]),
        price=np.array(["none", "overpriced", "cheap price", "overpriced"]),
    )
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "cold users": [yes, yes, no, no],
        "warm users": [no, no, yes, yes],
        "few reviews": [yes, no, yes, no],
        "many reviews": [no, yes, no, yes],
        "with photo": [yes, no, no, yes],
        "without photo": [no, yes, yes, no],
        "with price": [no, yes, yes, yes],
        "without price": [yes, no, no, no],
        "price: cheap price": [no, no, yes, no],
        "price: overpriced": [no, yes, no, yes],
    }


def test_a_slice_is_evaluated_on_its_rows_alone() -> None:
    rng = np.random.default_rng(0)
    label, probability, mask = rng.random(400) < 0.7, rng.random(400), rng.random(400) < 0.5
    slices = slice_metrics(label, probability, (0.7, 0.3), {"half": mask, "rest": ~mask})
    assert slices["half"] == evaluate(label[mask], probability[mask], (0.7, 0.3))
    assert slices["rest"] == evaluate(label[~mask], probability[~mask], (0.7, 0.3))


def test_a_slice_with_fewer_than_20_likes_or_dislikes_has_no_metrics() -> None:
    rows = np.arange(60)
    label, probability = rows < 30, np.linspace(0, 1, 60)
    masks = {
        "19 likes": rows >= 11,
        "19 dislikes": rows < 49,
        "20 of each": (rows >= 10) & (rows < 50),
        "empty": rows < 0,
    }
    slices = slice_metrics(label, probability, (0.5, 0.5), masks)
    sizes = {name: (row["rows"], row["likes"], "auc" in row) for name, row in slices.items()}
    assert sizes == {
        "19 likes": (49, 19, False),
        "19 dislikes": (49, 30, False),
        "20 of each": (40, 20, True),
        "empty": (0, 0, False),
    }
