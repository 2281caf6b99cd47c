"""The plots of the report of `mmrec fit`."""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from mmrec.evaluation import Metrics, calibration_bins
from mmrec.experiments.compare import Comparison
from mmrec.experiments.report.svg import (
    CARD,
    GRID,
    INK,
    LARGE,
    SMALL,
    Bar,
    bar_plots,
    square,
    style_for,
    svg,
)
from mmrec.experiments.significance import Assessment
from mmrec.ranker.training import TrainingHistory

__all__ = ["GAPS", "draw_plots"]

_CONSTANT = "always like"
_GRAIN = 400
GAPS = {
    "auc": ("ROC-AUC: right is better", 1, 3),
    "fpr_at_90": ("FPR at TPR .90: left is better", 100, 1),
}
"""Figures that models differ by: title, scale, digits."""
_Points = tuple[np.ndarray, np.ndarray]


class _Kind(NamedTuple):
    """A plot of curves: what it is, its axes, the figure of `Scores` that sums a curve up, and its name."""

    told: str
    x: str
    y: str
    field: str
    title: str


_AP = "average precision"
_KINDS = {
    "roc": _Kind(
        "ROC curves on test reviews; area under the curve",
        "disliked items recommended",
        "liked items recommended",
        "auc",
        "ROC-AUC",
    ),
    "likes": _Kind(
        "Precision and recall of finding likes; average precision",
        "likes found, of all (recall)",
        "liked, of those recommended (precision)",
        "ap_positive",
        _AP,
    ),
    "dislikes": _Kind(
        "Precision and recall of finding dislikes; average precision",
        "dislikes found, of all (recall)",
        "disliked, of those held back (precision)",
        "ap_negative",
        _AP,
    ),
}


def draw_plots(comparison: Comparison, judgement: Assessment) -> dict[str, list[str]]:
    """Every plot that there are figures for, as SVG elements without scripts or outside references.

    Returns:
        `roc`, `likes`, `dislikes`, `differences`, `calibration` and `training`; each one or several panels.
        Keys without figures are absent.
    """
    panels = {key: [_curves(comparison, judgement, key, kind)] for key, kind in _KINDS.items()}
    panels["differences"] = _differences(comparison, judgement)
    panels["calibration"] = _calibration(comparison, judgement.reference)
    panels["training"] = [
        panel for name in comparison.models for panel in _training(comparison, name)
    ]
    return {key: drawn for key, drawn in panels.items() if drawn}


def _curve(key: str, label: np.ndarray, p: np.ndarray) -> _Points:
    """A curve of the plot over all thresholds on (n,) labels and probabilities."""
    if key == "roc":
        fpr, tpr, _ = roc_curve(label, p)
        return fpr, tpr
    found = (label, p) if key == "likes" else (~label, -p)
    precision, recall, _ = precision_recall_curve(*found, drop_intermediate=True)
    return recall[:-1], precision[:-1]  # the last point is a convention, not a threshold


def _point(key: str, share: float, tpr: float, fpr: float) -> tuple[float, float]:
    """Where a threshold of these rates is in the plot, at so large a share of likes."""
    if key == "roc":
        return fpr, tpr
    if key == "dislikes":
        share, tpr, fpr = 1 - share, 1 - fpr, 1 - tpr
    right, wrong = share * tpr, (1 - share) * fpr
    return tpr, right / (right + wrong) if right + wrong else np.nan


def _curves(comparison: Comparison, judgement: Assessment, key: str, kind: _Kind) -> str:
    test = comparison.prepared.split.test
    label = comparison.prepared.label[test]
    point = partial(_point, key, float(np.mean(label)))
    shown = {
        name: getattr(one, kind.field)
        for name, one in comparison.metrics.items()
        if name != _CONSTANT
    }

    def draw(figure: Figure) -> None:
        axes = square(figure, kind.x, kind.y)
        curves = {
            name: _thin(*_curve(key, label, comparison.probability[name][test])) for name in shown
        }
        if key == "roc":
            axes.axline((0, 0), slope=1, color=GRID, lw=2.2)
        else:
            _, guessing = point(1, 1) if key == "likes" else point(0, 0)
            axes.axhline(guessing, color=GRID, lw=2.2)
            # The first few reviews of a list swing widely and would squeeze the rest.
            lowest = min(y[x > 0.05].min() for x, y in curves.values())
            axes.set_ylim(max(-0.01, min(lowest, guessing) - 0.05))
        for name, value in shown.items():
            look, told = style_for(name), f"{name} {value:.3f}"
            (line,) = axes.plot(
                *curves[name], color=look.colour, ls=look.dash, lw=look.width, label=told
            )
            at = point(_tpr(comparison.metrics[name]), comparison.metrics[name].fpr)
            axes.plot(*at, "o", color=look.colour, ms=4.5, clip_on=False, zorder=4)
            if name in judgement.operating_points:
                line.set(marker=look.marker, markevery=[], ms=7, mec=CARD)  # the legend shows it
                _, given = judgement.operating_points[name]
                at = point(given.tpr, given.fpr)
                axes.plot(
                    *at, look.marker, color=look.colour, ms=9, mec=CARD, clip_on=False, zorder=5
                )
        figure.legend(loc="outside lower center", ncols=2, title=kind.title)

    size = LARGE[0], LARGE[1] + 0.19 * -(-len(shown) // 2)
    told = "; ".join(f"{name} {value:.3f}" for name, value in shown.items())
    return svg(f"{kind.told}: {told}.", size, draw, key)


def _tpr(scores: Metrics) -> float:
    """At the threshold of the table, which has all but this."""
    dislikes = scores.rows - scores.likes
    return (scores.accuracy * scores.rows - (1 - scores.fpr) * dislikes) / scores.likes


def _thin(x: np.ndarray, y: np.ndarray) -> _Points:
    """Points that differ at the plot's resolution: a curve over a million rows stays small."""
    cells = np.round(np.stack([x, y]) * _GRAIN)
    keep = np.ones(len(x), dtype=bool)
    keep[1:-1] = (cells[:, 1:-1] != cells[:, :-2]).any(axis=0)
    return x[keep], y[keep]


def _differences(comparison: Comparison, judgement: Assessment) -> list[str]:
    gaps = {
        name: judgement.differences[name]
        for name in comparison.metrics
        if name in judgement.differences
    }

    def bars(key: str) -> list[Bar]:
        return [Bar(name, own[key][:3], style_for(name).colour) for name, own in gaps.items()]

    return bar_plots(GAPS, "differences", bars) if gaps else []


def _calibration(comparison: Comparison, reference: str) -> list[str]:
    test = comparison.prepared.split.test
    panels: list[str] = []
    for name in (*(n for n in comparison.metrics if n == reference), *comparison.models):
        bins = calibration_bins(comparison.prepared.label[test], comparison.probability[name][test])
        told = ", ".join(
            f"{mean:.0%} predicted {share:.0%} observed of {n:.0f}" for mean, share, n in bins
        )
        draw = partial(_draw_bins, name=name, bins=bins)
        panels.append(
            svg(f"Calibration of {name}: {told}.", SMALL, draw, f"calibration{len(panels)}")
        )
    return panels


def _draw_bins(figure: Figure, name: str, bins: np.ndarray) -> None:
    axes = square(figure, "predicted", "observed")
    colour = style_for(name).colour
    mean, share, count = bins.T
    # Wilson's interval stays within 0..1, also where all in a bin are likes.
    z = 1.96**2 / count
    middle = (share + z / 2) / (1 + z)
    half = np.sqrt(share * (1 - share) * z + z**2 / 4) / (1 + z)
    low = max(0.0, min(mean.min(), (middle - half).min()) - 0.05)
    axes.set(xlim=(low, 1.02), ylim=(low, 1.02))
    axes.axline((1, 1), slope=1, color=GRID, lw=2.2)
    axes.vlines(mean, middle - half, middle + half, color=colour, lw=1.2)
    axes.plot(mean, share, "-", color=colour, lw=1)
    axes.scatter(mean, share, s=25 * count / count.mean(), color=colour, zorder=3, clip_on=False)
    few, many = int(count.min()), int(count.max())
    axes.set_title(f"{name}: {few:,}{f' to {many:,}' if many > few else ''} a dot", loc="left")


def _training(comparison: Comparison, name: str) -> list[str]:
    model = comparison.models[name]
    by_fpr = model.builder.config.training.select == "test"
    score = "−FPR on test" if by_fpr else "−loss on valid"
    panels = []
    for step, course in model.history.items():
        if runs := [run for run in course if run.score]:
            best = max(runs, key=lambda run: run.score[run.best])
            label = f"Training of {name}, {step}: {len(runs)} runs; the best has {len(best.loss)} epochs, "
            label += f"best epoch {best.best + 1} with {score} {best.score[best.best]:.3f}."
            draw = partial(_draw_course, name=name, step=step, runs=runs, best=best, score=score)
            panels.append(svg(label, SMALL, draw, re.sub(r"\W", "-", f"training-{name}-{step}")))
    return panels


def _draw_course(
    figure: Figure,
    name: str,
    step: str,
    runs: list[TrainingHistory],
    best: TrainingHistory,
    score: str,
) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True)
    colour, at = style_for(name).colour, best.best
    among = f", best of {len(runs)}" if len(runs) > 1 else ""
    upper.set_title(f"{name}: {step}{among}", loc="left", weight="bold")
    for axes, field, what in ((upper, "loss", "loss on train"), (lower, "score", score)):
        for run in runs:
            values, width = getattr(run, field), 1.9 if run is best else 0.6
            axes.plot(np.arange(1, len(values) + 1), values, color=colour, lw=width)
        axes.axvline(at + 1, color=INK, lw=1, ls=":")
        axes.plot(at + 1, getattr(best, field)[at], "o", color=colour, ms=5)
        axes.set_ylabel(what, size=8.5)
    lower.set_xlabel(f"epoch ({at + 1}: {best.score[at]:.3f})".replace("-", "−"))
