"""How good a probability of liking is, with the false positive rate in the foreground.

To add a metric to the JSON of commands, the saved model and the report, write its function of
`Predictions` and add its line to `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
    roc_curve,
)

__all__ = ["METRICS", "Metric", "Metrics", "Predictions", "calibration_bins", "evaluate"]
__all__ += ["fpr_at_tpr", "mean_and_standard_error", "reweighted", "slice_masks", "slice_metrics"]

Metrics = dict[str, int | float]
"""Values by the names of `METRICS`, and the numbers of `rows` and of `likes` among them."""


class Predictions(NamedTuple):
    """Labels and predictions of n rows."""

    label: np.ndarray  # (n,) bool, with at least one like and one dislike
    probability: np.ndarray  # (n,) of a like
    weighted: np.ndarray  # (n,) what a model trained with class weights would predict
    predicted: np.ndarray  # (n,) bool, whether `weighted` is at least one half
    row_weight: np.ndarray  # (n,) class weight of each row


class Metric(NamedTuple):
    """A metric: its name in JSON, title and format of its column in the report, what it means."""

    name: str
    title: str
    compute: Callable[[Predictions], float]
    format: str
    explanation: str = ""
    higher_is_better: bool = True
    in_report: bool = True  # or in JSON only


def reweighted(probability: np.ndarray, class_weights: tuple[float, float]) -> np.ndarray:
    """What a model trained with weights of (dislike, like) would predict, from a true probability."""
    # The weighted cross entropy is least at odds q/(1-q) = w1 p / (w0 (1-p)), so its threshold
    # of one half is p = w0 / (w0 + w1).
    dislike, like = class_weights
    p = np.asarray(probability, dtype=np.float64)
    return like * p / (like * p + dislike * (1 - p))


def fpr_at_tpr(rows: Predictions, tpr: float) -> float:
    """Lowest false positive rate at which at least a share `tpr` of the likes is recommended."""
    fprs, tprs, _ = roc_curve(rows.label, rows.probability, drop_intermediate=False)
    # A rate of rows may miss .9 by a rounding error.
    return float(fprs[np.searchsorted(tprs, tpr - 1e-12)])


def tpr_at_fpr(rows: Predictions, fpr: float) -> float:
    """Highest share of likes recommended when at most a share `fpr` of the dislikes is."""
    fprs, tprs, _ = roc_curve(rows.label, rows.probability, drop_intermediate=False)
    return float(tprs[np.searchsorted(fprs, fpr + 1e-12, "right") - 1])


def calibration_error(rows: Predictions) -> float:
    """Expected calibration error over ten bins of equally many rows (Naeini et al., 2015)."""
    predicted, observed, count = calibration_bins(rows.label, rows.probability).T
    return float(np.average(np.abs(predicted - observed), weights=count))


def calibration_bins(label: np.ndarray, probability: np.ndarray, bins: int = 10) -> np.ndarray:
    """(b, 3) mean probability, share of likes and number of rows, by quantile of the probability.

    Equal probabilities share a bin, so there may be fewer than `bins`.
    """
    # Inner edges; equal quantiles make one, so that no bin is split.
    edges = np.unique(np.quantile(probability, np.arange(1, bins) / bins))
    bin_of_row = np.searchsorted(edges, probability, "right")
    count = np.bincount(bin_of_row)
    sums = [np.bincount(bin_of_row, weights=values) for values in (probability, label)]
    filled = np.flatnonzero(count)
    predicted, observed = (values[filled] / count[filled] for values in sums)
    return np.stack([predicted, observed, count[filled]], axis=1)


METRICS = (
    Metric("accuracy", "Accuracy", lambda rows: np.mean(rows.predicted == rows.label), ".1%",
           "Reviews predicted correctly, at the threshold that the class weights of the loss "
           "imply."),
    Metric("fpr", "FPR", lambda rows: np.mean(rows.predicted[~rows.label]), ".1%",
           "False positive rate: disliked items that are recommended, at the same threshold. "
           "A model that recommends nothing has none, so read it beside the accuracy.", False),
    Metric("loss", "Loss",
           lambda rows: log_loss(rows.label, rows.weighted, sample_weight=rows.row_weight), ".3f",
           "Cross entropy with class weights (paper, section 3.4).", False),
    Metric("auc", "ROC-AUC", lambda rows: roc_auc_score(rows.label, rows.probability), ".3f",
           "Chance that a liked item is ranked above a disliked one; .5 is guessing."),
    Metric("ap_positive", "AP of likes",
           lambda rows: average_precision_score(rows.label, rows.probability), ".3f",
           "Average precision of finding the liked items; guessing gets their share."),
    Metric("ap_negative", "AP of dislikes",
           lambda rows: average_precision_score(~rows.label, -rows.probability), ".3f",
           "Average precision of finding the disliked items; guessing gets their share."),
    Metric("fpr_at_80", "FPR at TPR .80", partial(fpr_at_tpr, tpr=0.80), ".1%",
           "Disliked items still recommended when 80% of the liked ones are.", False),
    Metric("fpr_at_90", "FPR at TPR .90", partial(fpr_at_tpr, tpr=0.90), ".1%",
           "The same for 90%: the figure of the sentence at the top.", False),
    Metric("fpr_at_95", "FPR at TPR .95", partial(fpr_at_tpr, tpr=0.95), ".1%", "", False),
    Metric("tpr_at_10", "TPR at FPR .10", partial(tpr_at_fpr, fpr=0.10), ".1%", in_report=False),
    Metric("tpr_at_20", "TPR at FPR .20", partial(tpr_at_fpr, fpr=0.20), ".1%", in_report=False),
    Metric("tpr_at_30", "TPR at FPR .30", partial(tpr_at_fpr, fpr=0.30), ".1%", in_report=False),
    Metric("brier", "Brier score", lambda rows: brier_score_loss(rows.label, rows.probability),
           ".3f", "Mean squared error of the probability (Brier, 1950).", False, in_report=False),
    Metric("ece", "ECE", calibration_error, ".3f", "", False, in_report=False),
)  # fmt: skip


def evaluate(
    label: np.ndarray, probability: np.ndarray, class_weights: tuple[float, float]
) -> Metrics:
    """All `METRICS` of (n,) probabilities of a like, made without class weights.

    The weights of (dislike, like) are for accuracy, fpr and loss. Both classes must be there.
    """
    label, probability = np.asarray(label, dtype=bool), np.asarray(probability, dtype=np.float64)
    # Off 0 and 1, so that the loss of a certain error is finite.
    weighted = np.clip(reweighted(probability, class_weights), 1e-7, 1 - 1e-7)
    # The threshold itself is a like, so that a constant at the share of likes means "always like".
    predicted = weighted >= 0.5 - 1e-9
    row_weight = np.where(label, class_weights[1], class_weights[0])
    rows = Predictions(label, probability, weighted, predicted, row_weight)
    values: Metrics = {metric.name: float(metric.compute(rows)) for metric in METRICS}
    return values | {"rows": len(label), "likes": int(label.sum())}


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over repeats and its standard error (0 for a single one)."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)), error


def slice_masks(
    user_count: np.ndarray, item_count: np.ndarray, photo: np.ndarray, price: np.ndarray
) -> dict[str, np.ndarray]:
    """The slices of the report as (n,) bool masks: new users, rarely reviewed items and so on.

    Args:
        user_count, item_count: (n,) evidence reviews of a row's user, and of its item.
        photo: (n,) bool, whether the item has a photo.
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
    masks: dict[str, np.ndarray],
    min_count: int = 20,
) -> dict[str, Metrics]:
    """`evaluate` on the rows of every mask; only `rows` and `likes` where either class is rare."""
    slices: dict[str, Metrics] = {}
    for name, mask in masks.items():
        rows, likes = int(mask.sum()), int(label[mask].sum())
        slices[name] = {"rows": rows, "likes": likes}
        if min(likes, rows - likes) >= min_count:
            slices[name] = evaluate(label[mask], probability[mask], class_weights)
    return slices
