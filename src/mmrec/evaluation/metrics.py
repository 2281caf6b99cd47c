"""How good a probability of liking is, with the false positive rate in the foreground.

To add a metric to the JSON of commands, the saved model and the report, add its line to `METRICS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Metrics = dict[str, int | float]
"""Values by the names of `METRICS`, and the numbers of `rows` and of `likes` among them."""


def _sklearn() -> Any:
    """The metrics of scikit-learn, whose import takes a second that a service need not wait."""
    from sklearn import metrics

    return metrics


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
    # The weighted cross entropy is least at odds q/(1-q) = w1 p / (w0 (1-p)).
    dislike, like = class_weights
    p = np.asarray(probability, dtype=np.float64)
    return like * p / (like * p + dislike * (1 - p))


_Bound = Literal["max_fpr", "min_tpr"]


def choose_threshold(
    label: np.ndarray, probability: np.ndarray, bound: _Bound, value: float
) -> float:
    """The lowest (`max_fpr`) or highest (`min_tpr`) probability that keeps the bound, or inf."""
    # Thresholds fall from inf; the rates rise with them from 0 to 1.
    fprs, tprs, thresholds = _sklearn().roc_curve(label, probability, drop_intermediate=False)
    # A rate of rows may miss .9 by a rounding error.
    if bound == "max_fpr":
        return float(thresholds[np.searchsorted(fprs, value + 1e-12, "right") - 1])
    return float(thresholds[np.searchsorted(tprs, value - 1e-12)])


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
    recommended = np.asarray(probability) >= threshold
    rates = []
    groups = recommended[label], recommended[~label], recommended, label[recommended]
    for rows in groups:
        rates.append(float(rows.mean()) if len(rows) else np.nan)
    return ThresholdRates(*rates)


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
    curve = ThresholdCurve([], [])
    for max_fpr in (np.arange(101) / 100).tolist():
        threshold = choose_threshold(label, probability, "max_fpr", max_fpr)
        curve.threshold.append(threshold)
        curve.tpr.append(rates_at_threshold(label, probability, threshold).tpr)
    return curve


@dataclass(frozen=True)
class Verdict:
    """Whose probabilities are used, and why (see `mmrec.evaluation.verdict`)."""

    model: str  # the trained model, or the bias model
    sentence: str  # begins with what to do


@dataclass(frozen=True)
class FitEvaluation:
    """How good a model is, and from which probability on it recommends."""

    metrics: dict[str, Metrics]  # on test rows; also of models that it was compared with
    threshold: float  # keeps the configured bound on validation rows; inf if none does
    test_rates: ThresholdRates  # of that threshold on test rows
    curve: ThresholdCurve  # for other bounds, chosen on validation rows
    verdict: Verdict | None = None  # whether to use it, and why


def _rates(rows: Predictions, bound: _Bound, value: float) -> ThresholdRates:
    threshold = choose_threshold(rows.label, rows.probability, bound, value)
    return rates_at_threshold(rows.label, rows.probability, threshold)


def _calibration_error(rows: Predictions) -> float:
    """Expected calibration error over ten bins of equally many rows (Naeini et al., 2015)."""
    predicted, observed, count = calibration_bins(rows.label, rows.probability).T
    return float(np.average(np.abs(predicted - observed), weights=count))


def calibration_bins(label: np.ndarray, probability: np.ndarray, bins: int = 10) -> np.ndarray:
    """(b, 3) mean probability, share of likes and number of rows by quantile; ties share a bin."""
    # Inner edges; equal quantiles make one, so that no bin is split.
    edges = np.unique(np.quantile(probability, np.arange(1, bins) / bins))
    bin_of_row = np.searchsorted(edges, probability, "right")
    count = np.bincount(bin_of_row)
    filled = np.flatnonzero(count)
    predicted = np.bincount(bin_of_row, weights=probability)[filled] / count[filled]
    observed = np.bincount(bin_of_row, weights=label)[filled] / count[filled]
    return np.stack([predicted, observed, count[filled]], axis=1)


METRICS = (
    Metric("accuracy", "Accuracy",
           lambda rows: np.mean(rows.predicted == rows.label), ".1%",
           "Reviews predicted correctly, at the threshold that the loss's class weights imply."),
    Metric("fpr", "FPR", lambda rows: np.mean(rows.predicted[~rows.label]), ".1%",
           "False positive rate: disliked items recommended, at the same threshold. A "
           "model that recommends nothing has none, so read it beside the accuracy.", False),
    Metric("loss", "Loss",
           lambda rows: _sklearn().log_loss(rows.label, rows.weighted, sample_weight=rows.row_weight),
           ".3f", "Cross entropy with class weights (paper, section 3.4).", False),
    Metric("auc", "ROC-AUC",
           lambda rows: _sklearn().roc_auc_score(rows.label, rows.probability), ".3f",
           "Chance that a liked item is ranked above a disliked one; .5 is guessing."),
    Metric("ap_positive", "AP of likes",
           lambda rows: _sklearn().average_precision_score(rows.label, rows.probability), ".3f",
           "Average precision of finding the liked items; guessing gets their share."),
    Metric("ap_negative", "AP of dislikes",
           lambda rows: _sklearn().average_precision_score(~rows.label, -rows.probability), ".3f",
           "Average precision of finding the disliked items; guessing gets their share."),
    Metric("fpr_at_80", "FPR at TPR .80", lambda rows: _rates(rows, "min_tpr", 0.8).fpr,
           ".1%", "Disliked items recommended when 80% of the liked ones are.", False),
    Metric("fpr_at_90", "FPR at TPR .90", lambda rows: _rates(rows, "min_tpr", 0.9).fpr,
           ".1%", "The same for 90%: the figure of the sentence at the top.", False),
    Metric("fpr_at_95", "FPR at TPR .95", lambda rows: _rates(rows, "min_tpr", 0.95).fpr,
           ".1%", "", False),
    Metric("tpr_at_10", "TPR at FPR .10", lambda rows: _rates(rows, "max_fpr", 0.1).tpr,
           ".1%", in_report=False),
    Metric("tpr_at_20", "TPR at FPR .20", lambda rows: _rates(rows, "max_fpr", 0.2).tpr,
           ".1%", in_report=False),
    Metric("tpr_at_30", "TPR at FPR .30", lambda rows: _rates(rows, "max_fpr", 0.3).tpr,
           ".1%", in_report=False),
    Metric("brier", "Brier score",
           lambda rows: _sklearn().brier_score_loss(rows.label, rows.probability), ".3f",
           "Mean squared error of the probability (Brier, 1950).", False, in_report=False),
    Metric("ece", "ECE", _calibration_error, ".3f", "", False, in_report=False),
)  # fmt: skip


def evaluate(
    label: np.ndarray, probability: np.ndarray, class_weights: tuple[float, float]
) -> Metrics:
    """All `METRICS` of (n,) probabilities, made without class weights, of rows of both classes;
    accuracy, fpr and loss take the class weights of (dislike, like)."""
    label, probability = np.asarray(label, dtype=bool), np.asarray(probability, np.float64)
    weighted = np.clip(reweighted(probability, class_weights), 1e-7, 1 - 1e-7)
    # The threshold itself is a like, so that a constant at the share of likes means "always like".
    predicted = weighted >= 0.5 - 1e-9
    row_weight = np.where(label, class_weights[1], class_weights[0])
    rows = Predictions(label, probability, weighted, predicted, row_weight)
    values: Metrics = {metric.name: float(metric.compute(rows)) for metric in METRICS}
    return values | {"rows": len(label), "likes": int(label.sum())}


def slice_metrics(
    label: np.ndarray,
    probability: np.ndarray,
    class_weights: tuple[float, float],
    masks: dict[str, np.ndarray],
) -> dict[str, Metrics]:
    """`evaluate` on the rows of every mask; only `rows` and `likes` where either class is rare."""
    slices: dict[str, Metrics] = {}
    for name, mask in masks.items():
        slices[name] = {"rows": int(mask.sum()), "likes": int(label[mask].sum())}
        if min(label[mask].sum(), (~label[mask]).sum()) >= 20:
            slices[name] = evaluate(label[mask], probability[mask], class_weights)
    return slices
