"""How good a probability of liking is, with false positives in the foreground (DESIGN 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

__all__ = ["Scores", "class_weights", "evaluate", "fpr_at_tpr", "mean_and_error", "reweighted"]


@dataclass(frozen=True)
class Scores:
    """One model on one set of rows; shares are 0..1.

    Attributes:
        accuracy, fpr, loss: at the threshold and with the weights of the loss (paper, section 4).
        auc: area under the ROC curve.
        ap_negative: average precision of finding the dislikes.
        fpr_at_80, fpr_at_90, fpr_at_95: share of dislikes recommended when 80, 90, 95% of likes are.
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

    def dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def class_weights(label: np.ndarray, loss: str) -> tuple[float, float]:
    """Weights of (dislike, like), normalised to sum to one (paper, section 3.4).

    Args:
        label: (n,) bool of the training rows.
        loss: `plain`: equal; `basic`: w_c = 1 - n_c/n; `sqrt`: w_c = sqrt(1 - n_c/n).
    """
    like = float(np.mean(label))
    raw = {"plain": (1.0, 1.0), "basic": (like, 1 - like), "sqrt": (like**0.5, (1 - like) ** 0.5)}[loss]
    total = sum(raw)
    return raw[0] / total, raw[1] / total


def reweighted(probability: np.ndarray, weights: tuple[float, float]) -> np.ndarray:
    """What a model trained with class weights would answer, from a true probability.

    The weighted cross entropy is least at odds q/(1-q) = w1 p / (w0 (1-p)), so its threshold of one half
    is p = w0 / (w0 + w1).
    """
    dislike, like = weights
    p = np.asarray(probability, dtype=np.float64)
    return like * p / (like * p + dislike * (1 - p))


def fpr_at_tpr(label: np.ndarray, score: np.ndarray, tpr: float) -> float:
    """Lowest false positive rate at which at least a share `tpr` of the likes is recommended."""
    fprs, tprs, _ = roc_curve(label, score, drop_intermediate=False)
    return float(fprs[np.searchsorted(tprs, tpr - 1e-12)])


def evaluate(label: np.ndarray, probability: np.ndarray, weights: tuple[float, float]) -> Scores:
    """Score probabilities of liking.

    Args:
        label: (n,) bool, with at least one like and one dislike.
        probability: (n,) probability of a like, without class weights.
        weights: of (dislike, like), for accuracy, fpr and loss.
    """
    label = np.asarray(label, dtype=bool)
    q = np.clip(reweighted(probability, weights), 1e-7, 1 - 1e-7)
    weight = np.where(label, weights[1], weights[0])
    entropy = -np.where(label, np.log(q), np.log1p(-q))
    # The threshold itself is a like, so that a constant at the share of likes means "always like".
    liked = q >= 0.5 - 1e-9
    return Scores(
        accuracy=float(np.mean(liked == label)),
        fpr=float(np.mean(liked[~label])),
        loss=float(np.sum(weight * entropy) / np.sum(weight)),
        auc=float(roc_auc_score(label, probability)),
        ap_negative=float(average_precision_score(~label, -np.asarray(probability))),
        fpr_at_80=fpr_at_tpr(label, probability, 0.80),
        fpr_at_90=fpr_at_tpr(label, probability, 0.90),
        fpr_at_95=fpr_at_tpr(label, probability, 0.95),
        rows=len(label),
        likes=int(label.sum()),
    )


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over repeats and its standard error (0 for a single one)."""
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)), spread
