"""The charts of the report of `mmrec fit`, by scikit-learn's displays."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import binomtest
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from mmrec.evaluation.metrics import calibration_bins
from mmrec.evaluation.thresholds import ThresholdRates
from mmrec.experiments.baselines import ALWAYS_LIKE
from mmrec.experiments.compare import Comparison
from mmrec.experiments.report.charts import COLOURS, Bar, bar_chart, set_share_axes, style_for, svg
from mmrec.experiments.significance import Assessment
from mmrec.ranker.training import TrainingHistory

__all__ = ["draw_charts"]


class _Curve(NamedTuple):
    """A chart of one curve a model: its description, its axes, and the metric shown in the legend."""

    description: str
    x: str
    y: str
    metric: str


_CURVES = {
    "roc": _Curve(
        "ROC curves on test reviews; area under the curve",
        "disliked items recommended",
        "liked items recommended",
        "auc",
    ),
    "likes": _Curve(
        "Precision and recall of finding likes; average precision",
        "likes found, of all (recall)",
        "liked, of those recommended (precision)",
        "ap_positive",
    ),
    "dislikes": _Curve(
        "Precision and recall of finding dislikes; average precision",
        "dislikes found, of all (recall)",
        "disliked, of those held back (precision)",
        "ap_negative",
    ),
}


def draw_charts(comparison: Comparison, assessment: Assessment) -> dict[str, list[str]]:
    """Every chart of the report, as SVG elements.

    Returns:
        The panels of `roc`, `likes`, `dislikes`, `differences`, `calibration` and `training`; none where
        there is nothing to show.
    """
    models = list(comparison.trained)
    calibrated = [name for name in (assessment.reference, *models) if name in comparison.metrics]
    return {
        **{kind: [_curve_chart(comparison, assessment, kind)] for kind in _CURVES},
        "differences": _difference_charts(comparison, assessment),
        "calibration": [_calibration_chart(comparison, name) for name in calibrated],
        "training": [chart for name in models for chart in _training_charts(comparison, name)],
    }


def _curve_chart(comparison: Comparison, assessment: Assessment, kind: str) -> str:
    curve, test = _CURVES[kind], comparison.prepared.split.test
    label = comparison.prepared.label[test]
    like_share = float(label.mean())
    values = {
        name: row[curve.metric] for name, row in comparison.metrics.items() if name != ALWAYS_LIKE
    }

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name, value in values.items():
            probability, style = comparison.probability[name][test], style_for(name)
            colour = COLOURS[style.colour]
            with_chance = name == list(values)[-1]
            line = _draw_curve(axes, kind, label, probability, with_chance)
            line.set(color=colour, ls=style.dash, lw=style.width, label=f"{name} {value:.3f}")
            if name in assessment.operating_points:
                _, rates = assessment.operating_points[name]
                x, y = _position(kind, rates, like_share)
                options: dict[str, Any] = {"marker": style.marker, "mec": COLOURS["card"]}
                line.set(**options, ms=7, markevery=[])  # in the legend alone
                axes.plot(x, y, color=colour, ms=9, clip_on=False, zorder=5, **options)
        axes.legend().remove()
        set_share_axes(axes, curve.x, curve.y)
        if kind != "roc":
            # The first few reviews of a list swing widely and would squeeze the rest.
            chance = like_share if kind == "likes" else 1 - like_share
            axes.set(ylim=(max(-0.01, chance - 0.1), 1.01), aspect="auto")
        figure.legend(loc="outside lower center", ncols=2, title=curve.description.split("; ")[1])

    height = 4.1 + 0.19 * -(-len(values) // 2)  # two models a line of the legend
    texts = "; ".join(f"{name} {value:.3f}" for name, value in values.items())
    return svg(f"{curve.description}: {texts}.", (4.3, height), draw, kind)


def _draw_curve(
    axes: Axes, kind: str, label: np.ndarray, probability: np.ndarray, with_chance: bool
) -> Line2D:
    """Draw a model's curve, and the level of guessing where wanted; gives the line of the model."""
    grid = {"color": COLOURS["grid"], "linestyle": "-", "linewidth": 2.2}
    options = {"ax": axes, "plot_chance_level": with_chance, "chance_level_kw": grid}
    if kind == "roc":
        return RocCurveDisplay.from_predictions(label, probability, **options).line_
    # A dislike is found by a low probability.
    if kind == "dislikes":
        label, probability = ~label, -probability
    return PrecisionRecallDisplay.from_predictions(label, probability, **options).line_


def _position(kind: str, rates: ThresholdRates, like_share: float) -> tuple[float, float]:
    """Where a threshold with these rates lies in a chart."""
    if kind == "roc":
        return rates.fpr, rates.tpr
    if kind == "likes":
        return rates.tpr, rates.precision
    # Shares of all rows: those held back, and the dislikes among them.
    held_back, dislikes_held_back = 1 - rates.share, (1 - rates.fpr) * (1 - like_share)
    return 1 - rates.fpr, dislikes_held_back / held_back if held_back else np.nan


def _difference_charts(comparison: Comparison, assessment: Assessment) -> list[str]:
    models = [name for name in comparison.metrics if name in assessment.differences]

    def bars(metric: str) -> list[Bar]:
        return [
            Bar(name, assessment.differences[name][metric][:3], style_for(name).colour)
            for name in models
        ]

    if not models:
        return []
    return [
        bar_chart(bars("auc"), "ROC-AUC: right is better", "differences-auc"),
        bar_chart(bars("fpr_at_90"), "FPR at TPR .90: left is better", "differences-fpr", 100, 1),
    ]


def _calibration_chart(comparison: Comparison, name: str) -> str:
    test = comparison.prepared.split.test
    label, probability = comparison.prepared.label[test], comparison.probability[name][test]
    bins = calibration_bins(label, probability)
    predicted, observed, count = bins.T

    def draw(figure: Figure) -> None:
        axes, colour = figure.subplots(), COLOURS[style_for(name).colour]
        display = CalibrationDisplay(observed, predicted, probability, estimator_name=name)
        display.plot(ax=axes, color=colour, lw=1, ms=4)
        axes.lines[0].set(color=COLOURS["grid"], ls="-", lw=2.2)  # where predicted equals observed
        for x, share, rows in bins:
            # Wilson's interval stays within 0..1, also where all in a bin are likes.
            interval = binomtest(round(share * rows), int(rows)).proportion_ci(method="wilson")
            axes.vlines(x, interval.low, interval.high, color=colour, lw=1.2)
        axes.legend().remove()
        set_share_axes(axes, "predicted", "observed")
        lowest = max(0.0, min(predicted.min(), observed.min()) - 0.1)
        axes.set(xlim=(lowest, 1.02), ylim=(lowest, 1.02))
        axes.set_title(f"{name}: {count.min():,.0f} reviews or more a dot", loc="left")

    texts = ", ".join(f"{x:.0%} predicted {y:.0%} observed of {rows:.0f}" for x, y, rows in bins)
    return svg(f"Calibration of {name}: {texts}.", (2.9, 2.9), draw, f"calibration-{_as_id(name)}")


def _training_charts(comparison: Comparison, name: str) -> list[str]:
    """For each step of training, the loss on train and what chooses the epoch."""
    model = comparison.trained[name].model
    by_fpr = model.builder.config.training.select == "test"
    score = "−FPR on test" if by_fpr else "−loss on valid"
    charts = []
    for step, histories in model.history.items():
        runs = [run for run in histories if run.score]
        if not runs:
            continue
        # Runs are averaged; the one that chose best stands for all of them.
        best = max(runs, key=lambda run: run.score[run.best])
        label = (
            f"Training of {name}, {step}: {len(runs)} runs; the best has {len(best.loss)} epochs, "
        )
        label += f"best epoch {best.best + 1} with {score} {best.score[best.best]:.3f}."
        draw = partial(_draw_training, name=name, step=step, runs=runs, best=best, score=score)
        charts.append(svg(label, (2.9, 2.9), draw, f"training-{_as_id(name)}-{_as_id(step)}"))
    return charts


def _draw_training(
    figure: Figure,
    name: str,
    step: str,
    runs: list[TrainingHistory],
    best: TrainingHistory,
    score: str,
) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True)
    colour, epoch = COLOURS[style_for(name).colour], best.best + 1
    best_of = f", best of {len(runs)}" if len(runs) > 1 else ""
    upper.set_title(f"{name}: {step}{best_of}", loc="left", weight="bold")
    for axes, field, title in ((upper, "loss", "loss on train"), (lower, "score", score)):
        for run in runs:
            values = getattr(run, field)
            width = 1.9 if run is best else 0.6
            axes.plot(np.arange(1, len(values) + 1), values, color=colour, lw=width)
        axes.axvline(epoch, color=COLOURS["ink"], lw=1, ls=":")
        axes.plot(epoch, getattr(best, field)[best.best], "o", color=colour, ms=5)
        axes.set_ylabel(title, size=8.5)
    lower.set_xlabel(f"epoch ({epoch}: {best.score[best.best]:.3f})".replace("-", "−"))


def _as_id(text: str) -> str:
    return re.sub(r"\W", "-", text)
