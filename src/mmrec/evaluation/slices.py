"""Figures on parts of the rows: who is new, what is new, with and without photo or price, by category."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmrec.evaluation.metrics import Metrics, evaluate

__all__ = ["SliceMetrics", "slice_masks", "slice_metrics"]

Masks = dict[str, np.ndarray]  # name -> (n,) bool


class SliceMetrics(NamedTuple):
    """Number of rows and of likes in a slice; its figures, None with fewer than 20 likes or dislikes."""

    rows: int
    likes: int
    metrics: Metrics | None


def slice_masks(
    user_count: np.ndarray,
    item_count: np.ndarray,
    photo: np.ndarray,
    price: np.ndarray,
    categories: Masks,
) -> Masks:
    """The usual slices: new users and items, photo, price, the five categories with most rows.

    Args:
        user_count, item_count: (n,) known reviews of a row's user, and of its item.
        photo: (n,) bool whether the item has one.
        price: (n,) str tag of the item, `none` where it has none.
        categories: whether the item is of each.
    """
    cold, few, tagged = user_count < 3, item_count < 5, price != "none"
    masks = {"cold users": cold, "warm users": ~cold, "few reviews": few, "many reviews": ~few}
    masks |= {
        "with photo": photo,
        "without photo": ~photo,
        "with price": tagged,
        "without price": ~tagged,
    }
    masks |= {f"price: {tag}": price == tag for tag in np.unique(price[tagged]).tolist()}
    frequent = sorted(categories, key=lambda name: -categories[name].sum())[:5]
    return masks | {f"category: {name}": categories[name] for name in frequent}


def slice_metrics(
    label: np.ndarray, probability: np.ndarray, weights: tuple[float, float], masks: Masks
) -> dict[str, SliceMetrics]:
    """`evaluate` on the rows of every mask, where there are likes and dislikes enough."""
    slices = {}
    for name, mask in masks.items():
        rows, likes = int(mask.sum()), int(label[mask].sum())
        enough = min(likes, rows - likes) >= 20
        scores = evaluate(label[mask], probability[mask], weights) if enough else None
        slices[name] = SliceMetrics(rows, likes, scores)
    return slices
