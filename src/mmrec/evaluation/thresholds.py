"""From which probability on to recommend: chosen on validation rows, measured on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from sklearn.metrics import roc_curve

from mmrec.evaluation.metrics import Metrics

__all__ = ["FitEvaluation", "OperatingPoint", "ThresholdCurve", "ThresholdRates"]
__all__ += ["rates_at_threshold", "threshold_curve"]


@dataclass(frozen=True)
class OperatingPoint:
    """A bound: at most a share of the dislikes (`max_fpr`), or at least one of the likes."""

    kind: Literal["max_fpr", "min_tpr"]
    value: float

    def threshold(self, label: np.ndarray, probability: np.ndarray) -> float:
        """The lowest (`max_fpr`) or highest (`min_tpr`) of the probabilities that keeps the bound.

        Both classes must be among the (n,) labels. Inf recommends nothing, where no probability
        keeps `max_fpr`.
        """
        # Thresholds fall from inf; the rates rise with them from 0 to 1.
        fprs, tprs, thresholds = roc_curve(label, probability, drop_intermediate=False)
        if self.kind == "max_fpr":
            return float(thresholds[np.searchsorted(fprs, self.value + 1e-12, "right") - 1])
        return float(thresholds[np.searchsorted(tprs, self.value - 1e-12)])


class ThresholdRates(NamedTuple):
    """Shares recommended: of likes, dislikes, all rows; and the likes among them; nan of no rows."""

    tpr: float
    fpr: float
    share: float
    precision: float


def rates_at_threshold(
    label: np.ndarray, probability: np.ndarray, threshold: float
) -> ThresholdRates:
    """What recommending those of (n,) rows gives whose probability is >= `threshold`."""
    label = np.asarray(label, dtype=bool)
    recommended = np.asarray(probability) >= threshold
    groups = (recommended[label], recommended[~label], recommended, label[recommended])
    return ThresholdRates(*(float(rows.mean()) if len(rows) else float("nan") for rows in groups))


class ThresholdCurve(NamedTuple):
    """Threshold and TPR of 101 bounds on the false positive rate, from 0 to 1 in hundredths."""

    threshold: list[float]
    tpr: list[float]

    def for_max_fpr(self, max_fpr: float) -> tuple[float, float]:
        """Threshold and share of likes of the nearest stricter bound."""
        hundredths = int(max_fpr * 100 + 1e-9)
        return self.threshold[hundredths], self.tpr[hundredths]


def threshold_curve(label: np.ndarray, probability: np.ndarray) -> ThresholdCurve:
    """The thresholds that keep every bound in hundredths on some (validation) rows."""
    thresholds, tprs = [], []
    for hundredths in range(101):
        threshold = OperatingPoint("max_fpr", hundredths / 100).threshold(label, probability)
        thresholds.append(threshold)
        tprs.append(rates_at_threshold(label, probability, threshold).tpr)
    return ThresholdCurve(thresholds, tprs)


@dataclass(frozen=True)
class FitEvaluation:
    """How good a model is, and from which probability on it recommends.

    Attributes:
        metrics: on test rows; of the model, and of others that it was compared with.
        threshold: keeps the bound of `config.operating` on validation rows; inf if nothing does.
        test_rates: of that threshold on test rows.
        curve: thresholds for other bounds on the false positive rate, chosen on validation rows.
    """

    metrics: dict[str, Metrics]
    threshold: float
    test_rates: ThresholdRates
    curve: ThresholdCurve
