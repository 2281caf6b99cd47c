"""Metrics on slices of the rows: new users, rarely reviewed items, with and without photo or price."""

from __future__ import annotations

import numpy as np

from mmrec.evaluation.metrics import Metrics, evaluate

__all__ = ["slice_masks", "slice_metrics"]

Masks = dict[str, np.ndarray]  # name -> (n,) bool


def slice_masks(
    user_count: np.ndarray, item_count: np.ndarray, photo: np.ndarray, price: np.ndarray
) -> Masks:
    """The slices of the report.

    Args:
        user_count, item_count: (n,) evidence reviews of a row's user, and of its item.
        photo: (n,) bool, whether the item has one.
        price: (n,) str price tag of the item, `none` where it has none.
    """
    masks = {"cold users": user_count < 3, "warm users": user_count >= 3}
    masks |= {"few reviews": item_count < 5, "many reviews": item_count >= 5}
    masks |= {"with photo": photo, "without photo": ~photo}
    masks |= {"with price": price != "none", "without price": price == "none"}
    for tag in np.unique(price[price != "none"]).tolist():
        masks[f"price: {tag}"] = price == tag
    return masks


def slice_metrics(
    label: np.ndarray,
    probability: np.ndarray,
    class_weights: tuple[float, float],
    masks: Masks,
    min_count: int = 20,
) -> dict[str, Metrics]:
    """`evaluate` on the rows of every mask; only `rows` and `likes` with too few likes or dislikes."""
    slices: dict[str, Metrics] = {}
    for name, mask in masks.items():
        rows, likes = int(mask.sum()), int(label[mask].sum())
        slices[name] = {"rows": rows, "likes": likes}
        if min(likes, rows - likes) >= min_count:
            slices[name] = evaluate(label[mask], probability[mask], class_weights)
    return slices
