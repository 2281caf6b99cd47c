"""The charts of the report of `mmrec fit`, by scikit-learn's displays."""

from __future__ import annotations

import re
from typing import Any

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


# Kind of chart -> what it shows, what its legend shows and the name of that metric, and its axes.
_CURVES = {
    "roc": ("ROC curves on test reviews", "area under the curve", "auc",
            "disliked items recommended", "liked items recommended"),
    "likes": ("Precision and recall of finding likes", "average precision", "ap_positive",
              "likes found, of all (recall)", "liked, of those recommended (precision)"),
    "dislikes": ("Precision and recall of finding dislikes", "average precision", "ap_negative",
                 "dislikes found, of all (recall)", "disliked, of those held back (precision)"),
}  # fmt: skip


def draw_charts(comparison: Comparison, assessment: Assessment) -> dict[str, list[str]]:
    """Panels of `roc`, `likes`, `dislikes`, `differences`, `calibration` and `training`, as SVG."""
    charts: dict[str, list[str]] = {"calibration": [], "training": []}
    for kind in _CURVES:
        charts[kind] = [_curve_chart(comparison, assessment, kind)]
    charts["differences"] = _difference_charts(comparison, assessment)
    for name in (assessment.reference, *comparison.trained):
        if name in comparison.metrics:
            charts["calibration"].append(_calibration_chart(comparison, name))
    for name in comparison.trained:
        charts["training"] += _training_charts(comparison, name)
    return charts


def _curve_chart(comparison: Comparison, assessment: Assessment, kind: str) -> str:
    description, legend, metric, x_title, y_title = _CURVES[kind]
    test = comparison.prepared.split.test
    label = comparison.prepared.label[test]
    like_share = float(label.mean())
    values = {name: row[metric] for name, row in comparison.metrics.items() if name != ALWAYS_LIKE}

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
        set_share_axes(axes, x_title, y_title)
        if kind != "roc":
            # The first few reviews of a list swing widely and would squeeze the rest.
            chance = like_share if kind == "likes" else 1 - like_share
            axes.set(ylim=(max(-0.01, chance - 0.1), 1.01), aspect="auto")
        figure.legend(loc="outside lower center", ncols=2, title=legend)

    height = 4.1 + 0.19 * -(-len(values) // 2)  # two models a line of the legend
    texts = "; ".join(f"{name} {value:.3f}" for name, value in values.items())
    return svg(f"{description}; {legend}: {texts}.", (4.3, height), draw, kind)


def _draw_curve(
    axes: Axes, kind: str, label: np.ndarray, probability: np.ndarray, with_chance: bool
) -> Line2D:
    """Draw a model's curve, and the level of guessing where wanted; returns the model's line."""
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
    auc, fpr = [], []
    for name in comparison.metrics:
        if gaps := assessment.differences.get(name):
            colour = style_for(name).colour
            auc.append(Bar(name, gaps["auc"][:3], colour))
            fpr.append(Bar(name, gaps["fpr_at_90"][:3], colour))
    if not auc:
        return []
    return [
        bar_chart(auc, "ROC-AUC: right is better", "differences-auc"),
        bar_chart(fpr, "FPR at TPR .90: left is better", "differences-fpr", 100, 1),
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
        if runs := [run for run in histories if run.score]:
            charts.append(_training_chart(name, step, runs, score))
    return charts


def _training_chart(name: str, step: str, runs: list[TrainingHistory], score: str) -> str:
    # Runs are averaged; the one that chose best stands for all of them.
    best = max(runs, key=lambda run: run.score[run.best])
    epoch, best_score = best.best + 1, f"{best.score[best.best]:.3f}"

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        colour, best_of = COLOURS[style_for(name).colour], f", best of {len(runs)}"
        title = f"{name}: {step}{best_of if len(runs) > 1 else ''}"
        upper.set_title(title, loc="left", weight="bold")
        for axes, field, label in ((upper, "loss", "loss on train"), (lower, "score", score)):
            for run in runs:
                values, width = getattr(run, field), 1.9 if run is best else 0.6
                axes.plot(np.arange(1, len(values) + 1), values, color=colour, lw=width)
            axes.axvline(epoch, color=COLOURS["ink"], lw=1, ls=":")
            axes.plot(epoch, getattr(best, field)[best.best], "o", color=colour, ms=5)
            axes.set_ylabel(label, size=8.5)
        lower.set_xlabel(f"epoch ({epoch}: {best_score})".replace("-", "−"))

    label = f"Training of {name}, {step}: {len(runs)} runs; the best has {len(best.loss)} epochs, "
    label += f"best epoch {epoch} with {score} {best_score}."
    return svg(label, (2.9, 2.9), draw, f"training-{_as_id(name)}-{_as_id(step)}")


def _as_id(text: str) -> str:
    return re.sub(r"\W", "-", text)
