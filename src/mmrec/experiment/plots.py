"""The plots of a report, as SVG that takes its colours from the page around it, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from mmrec.experiment.compare import Comparison
from mmrec.metrics import reweighted
from mmrec.ranking.training import History

__all__ = ["auc_difference", "calibration_bins", "draw_plots"]

# Colours that nobody would choose stand for the page's CSS variables until the SVG is written.
_INK, _GRID, _OTHER, _BIAS, _BASELINE, _PROPOSED = (f"#0{n}0{n}0{n}" for n in range(1, 7))
_VARIABLES = {_INK: "ink", _GRID: "grid", _OTHER: "other"}
_VARIABLES |= {_BIAS: "bias", _BASELINE: "baseline", _PROPOSED: "proposed"}
_Style = tuple[str, str, float]
_STYLES: dict[str, _Style] = {
    "proposed": (_PROPOSED, "-", 2.4),
    "baseline": (_BASELINE, "--", 1.9),
    "bias model": (_BIAS, "-.", 1.6),
    "user mean": (_OTHER, ":", 1.3),
    "item mean": (_OTHER, "--", 1.1),
}
_CONSTANT = "always like"
_REFERENCE = "bias model"
_BINS = 10
_LARGE, _SMALL = (4.3, 4.1), (3.3, 3.2)  # inches; text stays legible on a phone
_GRAIN = 400
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, to be searched and read out
    "svg.hashsalt": "mmrec",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "legend.handlelength": 2.6,
    **dict.fromkeys(_INKED, _INK),
}


def draw_plots(comparison: Comparison) -> dict[str, list[str]]:
    """Every plot that there are figures for, as SVG elements without scripts or outside references.

    Returns:
        `roc`, `dislikes`, `differences`, `calibration` and, by model, `training baseline` and so on; each one
        or several panels. Keys without figures are absent.
    """
    panels = {"roc": [_roc(comparison)], "dislikes": [_dislikes(comparison)]}
    panels["differences"] = _differences(comparison)
    panels["calibration"] = _calibration(comparison)
    panels |= {f"training {name}": _training(comparison, name) for name in comparison.models}
    return {key: drawn for key, drawn in panels.items() if drawn}


def _svg(label: str, size: tuple[float, float], draw: Callable[[Figure], None], prefix: str) -> str:
    """Draw onto a figure of `size` inches; the SVG carries `label` for those who cannot see it."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    # matplotlib's style rule would hold for the whole page, and its ids are the same in every figure.
    body = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\g<1>{prefix}-", body).replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="[^"]*"', body)
    assert view is not None
    name = escape(label, quote=True)
    head = f'<svg {view[0]} role="img" aria-label="{name}"><title>{name}</title>'
    return head + body[body.index(">") + 1 :].strip()


def _style(name: str) -> _Style:
    """Colour, dash and width of a model's lines; never told apart by colour alone."""
    return _STYLES.get(name, (_OTHER, "-", 1.0))


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points that differ at the plot's resolution: a curve over a million rows stays small."""
    cells = np.round(np.stack([x, y]) * _GRAIN)
    keep = np.ones(len(x), dtype=bool)
    keep[1:-1] = (cells[:, 1:-1] != cells[:, :-2]).any(axis=0)
    return x[keep], y[keep]


def _roc(comparison: Comparison) -> str:
    def curve(label: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fpr, tpr, _ = roc_curve(label, p)
        return fpr, tpr

    def point(label: np.ndarray, liked: np.ndarray) -> tuple[float, float]:
        return float(np.mean(liked[~label])), float(np.mean(liked[label]))

    def draw(figure: Figure) -> None:
        axes = _square(figure, "disliked items recommended", "liked items recommended")
        axes.axline((0, 0), slope=1, color=_GRID, lw=1.5)
        _lines(comparison, axes, values, curve, point)
        axes.legend(loc="lower right", title="ROC-AUC")

    values = {name: score.auc for name, score in comparison.scores.items() if name != _CONSTANT}
    return _svg(f"ROC curves on test reviews; area under the curve: {_told(values)}.", _LARGE, draw, "roc")


def _dislikes(comparison: Comparison) -> str:
    def curve(label: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        precision, recall, _ = precision_recall_curve(~label, -p, drop_intermediate=True)
        return recall[:-1], precision[:-1]  # the last point is a convention, not a threshold

    def point(label: np.ndarray, liked: np.ndarray) -> tuple[float, float]:
        return float(np.mean(~liked[~label])), float(np.mean(~label[~liked])) if not liked.all() else np.nan

    def draw(figure: Figure) -> None:
        axes = _square(figure, "dislikes found, of all (recall)", "disliked, of those held back (precision)")
        axes.axhline(chance, color=_GRID, lw=1.5)
        _lines(comparison, axes, values, curve, point)
        axes.legend(loc="upper right" if chance < 0.4 else "lower left", title="average precision")

    chance = float(np.mean(~comparison.prepared.label[comparison.prepared.split.test]))
    values = {name: score.ap_negative for name, score in comparison.scores.items() if name != _CONSTANT}
    label = f"Precision and recall of finding dislikes; average precision: {_told(values)}."
    return _svg(label, _LARGE, draw, "dislikes")


def _told(values: Mapping[str, float]) -> str:
    return "; ".join(f"{name} {value:.3f}" for name, value in values.items())


def _square(figure: Figure, x: str, y: str) -> Axes:
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return axes


def _lines(
    comparison: Comparison,
    axes: Axes,
    values: dict[str, float],
    curve: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    point: Callable[[np.ndarray, np.ndarray], tuple[float, float]],
) -> None:
    test = comparison.prepared.split.test
    label = comparison.prepared.label[test]
    weights = next((model.weights for model in comparison.models.values()), None)
    for name, value in values.items():
        colour, dash, width = _style(name)
        p = comparison.probability[name][test]
        axes.plot(*_thin(*curve(label, p)), color=colour, ls=dash, lw=width, label=f"{name} {value:.3f}")
        if weights is not None:
            liked = reweighted(p, weights) >= 0.5 - 1e-9  # as in `evaluate`
            axes.plot(*point(label, liked), "o", color=colour, ms=3 + 1.6 * width, clip_on=False)


def auc_difference(label: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """ROC-AUC of `one` minus that of `other` on the same rows, and its standard error (DeLong, 1988)."""

    def placements(scores: np.ndarray, among: np.ndarray) -> np.ndarray:
        among = np.sort(among)
        below = np.searchsorted(among, scores, "left") + np.searchsorted(among, scores, "right")
        return below / (2 * len(among))

    likes = placements(one[label], one[~label]) - placements(other[label], other[~label])
    dislikes = placements(one[~label], one[label]) - placements(other[~label], other[label])
    error = sum(np.var(part, ddof=min(1, len(part) - 1)) / len(part) for part in (likes, dislikes))
    return float(likes.mean()), float(error**0.5)


def _differences(comparison: Comparison) -> list[str]:
    names = [name for name in comparison.scores if name not in (_CONSTANT, _REFERENCE)]
    if _REFERENCE not in comparison.scores or not names:
        return []
    test = comparison.prepared.split.test
    label, p = comparison.prepared.label[test], comparison.probability
    pairs = [auc_difference(label, p[name][test], p[_REFERENCE][test]) for name in names]
    told = "; ".join(f"{name} {d:+.3f} ± {1.96 * e:.3f}" for name, (d, e) in zip(names, pairs, strict=True))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for at, (name, (gap, error)) in enumerate(zip(names, pairs, strict=True)):
            axes.barh(at, gap, height=0.55, color=_style(name)[0], alpha=0.75)
            axes.errorbar(gap, at, xerr=1.96 * error, color=_INK, lw=1.2, capsize=3)
            side = axes.get_yaxis_transform()
            axes.text(1.02, at, _signed(gap), transform=side, va="center", weight="bold")
        axes.axvline(0, color=_INK, lw=1)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: _signed(value))
        axes.set_xlabel("ROC-AUC minus that of the bias model")

    size = (4.3, 0.8 + 0.42 * len(names))
    return [_svg(f"ROC-AUC minus that of the bias model: {told}.", size, draw, "differences")]


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if abs(value) >= 5e-4 else "0"


def calibration_bins(label: np.ndarray, p: np.ndarray, bins: int = _BINS) -> np.ndarray:
    """(b, 3) mean probability, share of likes and number of rows, by quantile of the probability.

    Equal probabilities share a bin, so there may be fewer than `bins`.
    """
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins))
    at = np.searchsorted(edges, p, "right")
    count = np.bincount(at)
    sums = np.stack([np.bincount(at, weights=p), np.bincount(at, weights=label), count], axis=1)
    sums = sums[count > 0]
    return np.column_stack([sums[:, :2] / sums[:, 2:], sums[:, 2]])


def _calibration(comparison: Comparison) -> list[str]:
    test = comparison.prepared.split.test
    panels: list[str] = []
    for name in (*(n for n in comparison.scores if n == _REFERENCE), *comparison.models):
        bins = calibration_bins(comparison.prepared.label[test], comparison.probability[name][test])
        told = ", ".join(f"{mean:.0%} predicted {share:.0%} observed of {n:.0f}" for mean, share, n in bins)
        draw = partial(_draw_bins, name=name, bins=bins)
        panels.append(_svg(f"Calibration of {name}: {told}.", _SMALL, draw, f"calibration{len(panels)}"))
    return panels


def _draw_bins(figure: Figure, name: str, bins: np.ndarray) -> None:
    axes = _square(figure, "predicted", "observed")
    colour = _style(name)[0]
    mean, share, count = bins.T
    # Wilson's interval stays within 0..1, also where all in a bin are likes.
    z = 1.96**2 / count
    middle = (share + z / 2) / (1 + z)
    half = np.sqrt(share * (1 - share) * z + z**2 / 4) / (1 + z)
    low = max(0.0, min(mean.min(), (middle - half).min()) - 0.05)
    axes.set(xlim=(low, 1.02), ylim=(low, 1.02))
    axes.axline((1, 1), slope=1, color=_GRID, lw=1.5)
    axes.vlines(mean, middle - half, middle + half, color=colour, lw=1.2)
    axes.plot(mean, share, "-", color=colour, lw=1)
    axes.scatter(mean, share, s=25 * count / count.mean(), color=colour, zorder=3, clip_on=False)
    few, many = int(count.min()), int(count.max())
    axes.set_title(f"{name}: {few:,}{f' to {many:,}' if many > few else ''} reviews a dot", loc="left")


def _training(comparison: Comparison, name: str) -> list[str]:
    model = comparison.models[name]
    by_fpr = model.assembler.config.training.select == "test"
    score = "−FPR on test" if by_fpr else "−loss on valid"
    return [
        _svg(
            f"Training of {name}, {step}: {len(history.loss)} epochs, best epoch {history.best + 1} "
            f"with {score} {history.score[history.best]:.3f}.",
            _SMALL,
            partial(_draw_course, step=step, history=history, score=score),
            re.sub(r"\W", "-", f"training-{name}-{step}"),
        )
        for step, history in model.course.items()
        if history.score
    ]


def _draw_course(figure: Figure, step: str, history: History, score: str) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True)
    at, best = history.best, f"kept: epoch {history.best + 1}, {history.score[history.best]:.3f}"
    upper.set_title(step, loc="left", weight="bold")
    for axes, values, colour, dash, what in (
        (upper, history.loss, _BASELINE, "--", "loss on train"),
        (lower, history.score, _PROPOSED, "-", score),
    ):
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, lw=1.5, ls=dash)
        axes.axvline(at + 1, color=_INK, lw=1, ls=":")
        axes.plot(at + 1, values[at], "o", color=colour, ms=5)
        axes.set_ylabel(what, size=8.5)
    lower.set_xlabel(f"epoch ({best})")
