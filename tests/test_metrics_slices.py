"""Slices of the rows."""

from __future__ import annotations

import numpy as np

from mmrec.evaluation import evaluate, slice_masks, slice_metrics

EQUAL = (0.5, 0.5)


def test_the_usual_slices_by_hand() -> None:
    yes, no = True, False
    categories = {
        "bar": np.array([yes, no, no, no]),
        "cafe": np.array([yes, yes, yes, no]),
        "diner": np.array([no, no, no, no]),
        "grill": np.array([yes, yes, no, no]),
        "inn": np.array([no, no, no, yes]),
        "ramen": np.array([yes, yes, yes, yes]),
        "tapas": np.array([no, no, no, yes]),
    }
    masks = slice_masks(
        np.array([0, 2, 3, 9]),
        np.array([4, 5, 0, 6]),
        np.array([yes, no, no, yes]),
        np.array(["none", "overpriced", "cheap price", "overpriced"]),
        categories,
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
        "category: ramen": [yes, yes, yes, yes],
        "category: cafe": [yes, yes, yes, no],
        "category: grill": [yes, yes, no, no],
        "category: bar": [yes, no, no, no],
        "category: inn": [no, no, no, yes],
    }


def test_a_slice_is_scored_on_its_own_rows() -> None:
    rng = np.random.default_rng(0)
    label, probability, mask = rng.random(400) < 0.7, rng.random(400), rng.random(400) < 0.5
    scored = slice_metrics(label, probability, (0.7, 0.3), {"half": mask, "rest": ~mask})
    assert scored["half"].metrics == evaluate(label[mask], probability[mask], (0.7, 0.3))
    assert scored["rest"].metrics == evaluate(label[~mask], probability[~mask], (0.7, 0.3))
    assert (scored["half"].rows, scored["half"].likes) == (mask.sum(), label[mask].sum())


def test_a_slice_with_too_few_of_either_has_no_scores() -> None:
    label, probability = np.arange(60) < 30, np.linspace(0, 1, 60)
    at = np.arange(60)
    masks = {"likes": at >= 11, "dislikes": at < 49, "enough": (at >= 10) & (at < 50), "nothing": at < 0}
    scored = slice_metrics(label, probability, EQUAL, masks)
    assert {name: (one.rows, one.likes, one.metrics is None) for name, one in scored.items()} == {
        "likes": (49, 19, True),
        "dislikes": (49, 30, True),
        "enough": (40, 20, False),
        "nothing": (0, 0, True),
    }
