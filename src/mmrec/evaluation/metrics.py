"""How good a probability of liking is, with false positives in the foreground (DESIGN 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator
from sklearn.metrics import auc, average_precision_score, brier_score_loss, roc_curve

__all__ = ["Metrics", "calibration_bins", "evaluate", "fpr_at_tpr", "mean_and_standard_error"]
__all__ += ["reweighted"]

# JSON has no nan: pydantic writes null, which becomes nan again.
_Known = Annotated[float, BeforeValidator(lambda value: nan if value is None else value)]


@dataclass(frozen=True)
class Metrics:
    """One model on one set of rows; shares are 0..1. Figures that models of older versions lack are nan.

    Attributes:
        accuracy, fpr, loss: at the threshold and with the weights of the loss (paper, section 4).
        auc: area under the ROC curve.
        ap_negative, ap_positive: average precision of finding the dislikes, and the likes.
        fpr_at_80, fpr_at_90, fpr_at_95: share of dislikes recommended when 80, 90, 95% of likes are.
        tpr_at_10, tpr_at_20, tpr_at_30: share of likes recommended when at most 10, 20, 30% of dislikes are.
        brier: mean squared error of the probability (Brier, 1950).
        ece: expected calibration error over ten bins of equally many rows (Naeini et al., 2015).
        rows, likes: number of rows, and of likes among them.
    """

    accuracy: float
    fpr: float
    loss: float
    auc: float
    ap_negative: float
    fpr_at_80: float
    fpr_at_90: float
    fpr_at_95: float
    rows: int
    likes: int
    ap_positive: _Known = nan
    tpr_at_10: _Known = nan
    tpr_at_20: _Known = nan
    tpr_at_30: _Known = nan
    brier: _Known = nan
    ece: _Known = nan

    def dict(self) -> dict[str, float]:
        """The figures by name, without those that are nan."""
        return {name: value for name, value in asdict(self).items() if not isnan(value)}


def reweighted(probability: np.ndarray, weights: tuple[float, float]) -> np.ndarray:
    """What a model trained with class weights would answer, from a true probability.

    The weighted cross entropy is least at odds q/(1-q) = w1 p / (w0 (1-p)), so its threshold of one half
    is p = w0 / (w0 + w1).
    """
    dislike, like = weights
    p = np.asarray(probability, dtype=np.float64)
    return like * p / (like * p + dislike * (1 - p))


def calibration_bins(label: np.ndarray, p: np.ndarray, bins: int = 10) -> np.ndarray:
    """(b, 3) mean probability, share of likes and number of rows, by quantile of the probability.

    Equal probabilities share a bin, so there may be fewer than `bins`.
    """
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins))
    at = np.searchsorted(edges, p, "right")
    count = np.bincount(at)
    sums = np.stack([np.bincount(at, weights=p), np.bincount(at, weights=label), count], axis=1)
    sums = sums[count > 0]
    return np.column_stack([sums[:, :2] / sums[:, 2:], sums[:, 2]])


def fpr_at_tpr(label: np.ndarray, score: np.ndarray, tpr: float) -> float:
    """Lowest false positive rate at which at least a share `tpr` of the likes is recommended."""
    fprs, tprs, _ = roc_curve(label, score, drop_intermediate=False)
    return float(fprs[np.searchsorted(tprs, tpr - 1e-12)])


def evaluate(label: np.ndarray, probability: np.ndarray, weights: tuple[float, float]) -> Metrics:
    """Score probabilities of liking.

    Args:
        label: (n,) bool, with at least one like and one dislike.
        probability: (n,) probability of a like, without class weights.
        weights: of (dislike, like), for accuracy, fpr and loss.
    """
    label, probability = np.asarray(label, dtype=bool), np.asarray(probability, dtype=np.float64)
    q = np.clip(reweighted(probability, weights), 1e-7, 1 - 1e-7)
    weight = np.where(label, weights[1], weights[0])
    entropy = -np.where(label, np.log(q), np.log1p(-q))
    # The threshold itself is a like, so that a constant at the share of likes means "always like".
    liked = q >= 0.5 - 1e-9
    fprs, tprs, _ = roc_curve(label, probability, drop_intermediate=False)
    fpr_at = fprs[np.searchsorted(tprs, np.array([0.80, 0.90, 0.95]) - 1e-12)].tolist()
    tpr_at = tprs[np.searchsorted(fprs, np.array([0.10, 0.20, 0.30]) + 1e-12, "right") - 1].tolist()
    mean, share, count = calibration_bins(label, probability).T
    return Metrics(
        accuracy=float(np.mean(liked == label)),
        fpr=float(np.mean(liked[~label])),
        loss=float(np.sum(weight * entropy) / np.sum(weight)),
        auc=float(auc(fprs, tprs)),
        ap_negative=float(average_precision_score(~label, -probability)),
        ap_positive=float(average_precision_score(label, probability)),
        fpr_at_80=fpr_at[0],
        fpr_at_90=fpr_at[1],
        fpr_at_95=fpr_at[2],
        tpr_at_10=tpr_at[0],
        tpr_at_20=tpr_at[1],
        tpr_at_30=tpr_at[2],
        brier=float(brier_score_loss(label, probability)),
        ece=float(np.average(np.abs(mean - share), weights=count)),
        rows=len(label),
        likes=int(label.sum()),
    )


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over repeats and its standard error (0 for a single one)."""
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)), spread
