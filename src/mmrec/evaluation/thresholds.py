"""From which probability on to recommend: chosen on validation rows, measured on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from sklearn.metrics import roc_curve

__all__ = [
    "OperatingPoint",
    "ThresholdCurve",
    "ThresholdRates",
    "rates_at_threshold",
    "threshold_curve",
]


@dataclass(frozen=True)
class OperatingPoint:
    """A bound: this share of the dislikes at most (`max_fpr`), or of the likes at least (`min_tpr`)."""

    kind: Literal["max_fpr", "min_tpr"]
    value: float

    def threshold(self, label: np.ndarray, probability: np.ndarray) -> float:
        """The lowest (`max_fpr`) or highest (`min_tpr`) probability that keeps the bound on some rows.

        It is one of the (n,) probabilities; or inf, which recommends nothing, where none keeps `max_fpr`.
        Among the (n,) bool labels there must be a like and a dislike.
        """
        fprs, tprs, thresholds = roc_curve(label, probability, drop_intermediate=False)
        if self.kind == "max_fpr":
            return float(thresholds[np.searchsorted(fprs, self.value + 1e-12, "right") - 1])
        return float(thresholds[np.searchsorted(tprs, self.value - 1e-12)])


class ThresholdRates(NamedTuple):
    """Share of likes, of dislikes and of all rows recommended, and of likes among these; nan: of nothing."""

    tpr: float
    fpr: float
    share: float
    precision: float


def rates_at_threshold(
    label: np.ndarray, probability: np.ndarray, threshold: float
) -> ThresholdRates:
    """What comes of recommending those of (n,) rows whose probability is >= `threshold`."""
    label, chosen = np.asarray(label, dtype=bool), np.asarray(probability) >= threshold
    parts = (chosen[label], chosen[~label], chosen, label[chosen])
    return ThresholdRates(*(float(part.mean()) if len(part) else float("nan") for part in parts))


class ThresholdCurve(NamedTuple):
    """What a bound on false positives comes to: 101 bounds from 0 to 1, of each the threshold and the TPR."""

    threshold: list[float]
    tpr: list[float]

    def for_max_fpr(self, max_fpr: float) -> tuple[float, float]:
        """Threshold and share of likes found of the nearest stricter bound."""
        step = int(max_fpr * 100 + 1e-9)
        return self.threshold[step], self.tpr[step]


def threshold_curve(label: np.ndarray, probability: np.ndarray) -> ThresholdCurve:
    """Every bound in hundredths, kept on some (validation) rows."""
    thresholds = [
        OperatingPoint("max_fpr", step / 100).threshold(label, probability) for step in range(101)
    ]
    return ThresholdCurve(
        thresholds, [rates_at_threshold(label, probability, one).tpr for one in thresholds]
    )
