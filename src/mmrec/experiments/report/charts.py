"""SVG charts that take their colours from the page around them, light or dark."""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from mmrec.evaluation.metrics import calibration_bins
from mmrec.evaluation.simple_baselines import ALWAYS_LIKE
from mmrec.experiments.compare import Assessment, Comparison
from mmrec.experiments.report.html import format_difference
from mmrec.ranker.training import TrainingHistory

COLOURS = {
    "ink": "#010101", "grid": "#020202", "card": "#030303", "other": "#040404",
    "bias": "#050505", "baseline": "#060606", "proposed": "#070707", "mmrec": "#080808",
}  # fmt: skip
"""CSS variable of the page -> the unlikely colour that stands for it until the SVG is written."""

chart_style = mpl.rc_context(fname=Path(__file__).with_name("chart.mplstyle"))


class ModelStyle(NamedTuple):
    """How a model is drawn: by more than colour, for readers who do not see colours."""

    colour: str  # a key of COLOURS
    dash: str | tuple[float, tuple[float, ...]] = "-"
    width: float = 1.0
    marker: str = "o"


_STYLES = {
    "mmrec": ModelStyle("mmrec", "-", 2.4, "D"),
    "mmrec without words": ModelStyle("mmrec", (0, (2, 2)), 1.6, "d"),
    "proposed": ModelStyle("proposed", (0, (7, 1.5)), 1.9, "s"),
    "baseline": ModelStyle("baseline", "--", 1.7, "^"),
    "bias model": ModelStyle("bias", "-.", 1.6),
    "user mean": ModelStyle("other", ":", 1.3),
    "item mean": ModelStyle("other", (0, (5, 3)), 1.1),
    "logistic regression": ModelStyle("other", (0, (9, 2, 1, 2)), 1.2),
    "LightGBM": ModelStyle("other", (0, (3, 1, 1, 1, 1, 1)), 1.4),
    "matrix factorisation": ModelStyle("other", (0, (1, 3)), 1.5),
    "DeepFM": ModelStyle("other", (0, (2, 1)), 1.8),
}


def style_for(model: str) -> ModelStyle:
    """The style of a model, the same in every chart."""
    return _STYLES.get(model, ModelStyle("other"))


def svg(figure: Figure, label: str, name: str) -> str:
    """A figure as an inert SVG element, whose ids start with `name`; `label` describes it."""
    file, prefix = io.StringIO(), re.sub(r"\W", "-", name)
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    # matplotlib's <style> would hold for the whole page.
    unwanted = re.compile(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", re.DOTALL)
    body = unwanted.sub("", text[text.index("<svg") :])
    body = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\g<1>{prefix}-", body)
    body = body.replace("xlink:href", "href")
    for variable, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    view_box = re.search(r'viewBox="[^"]*"', body)
    assert view_box is not None
    title = escape(label, quote=True)
    head = f'<svg {view_box[0]} role="img" aria-label="{title}"><title>{title}</title>'
    return head + body[body.index(">") + 1 :].strip()


def _set_share_axes(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


@chart_style
def bar_chart(
    bars: Mapping[str, Sequence[float]],
    title: str,
    name: str,
    model: str | None = None,
    *,
    percent: bool = False,
) -> str:
    """Horizontal bars from zero, with whiskers and the values beside them.

    A bar is a value and the ends of its interval, if any, shown in points of 100 if `percent`. It
    has the colour of `model`, else of the model that it is named after.
    """
    scale, digits = (100, 1) if percent else (1, 3)
    figure = Figure(figsize=(4.3, 0.8 + 0.36 * len(bars)), layout="constrained")
    axes, texts = figure.subplots(), []
    for row, (label, interval) in enumerate(bars.items()):
        value, *ends = np.multiply(scale, interval).tolist()
        colour = COLOURS[style_for(model or label).colour]
        axes.barh(row, value, height=0.55, color=colour, alpha=0.75)
        axes.plot(ends, [row] * len(ends), "|-", color=COLOURS["ink"], lw=1.2, ms=7)
        numbers = [format_difference(number, digits) for number in (value, *ends)]
        beside = axes.get_yaxis_transform()
        axes.text(1.02, row, numbers[0], transform=beside, va="center", weight="bold")
        texts.append(f"{label} {', '.join(numbers)}")
    axes.axvline(0, color=COLOURS["ink"], lw=1)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()  # the first bar on top
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: format_difference(value, digits))
    axes.set_xlabel(title)
    return svg(figure, f"{title}; values and 95% intervals: {'; '.join(texts)}.", name)


@chart_style
def interval_chart(
    curves: Mapping[str, Sequence[tuple[str, float, float, float]]],
    x_title: str,
    title: str,
    name: str,
) -> str:
    """Curves of models over values of a setting: each point has its value, and the mean and the ends
    of its interval."""
    figure = Figure(figsize=(4.3, 4.1), layout="constrained")
    axes, texts = figure.subplots(), []
    values = [*dict.fromkeys(point[0] for points in curves.values() for point in points)]
    for number, (model, points) in enumerate(curves.items()):
        labels, *numbers = zip(*points, strict=True)
        mean, low, high = np.array(numbers)
        style, x = style_for(model), np.array([values.index(label) for label in labels])
        options: dict[str, Any] = {"color": COLOURS[style.colour], "label": model}
        errors = mean - low, high - mean
        line, *_ = axes.errorbar(
            x + 0.05 * number, mean, errors, capsize=3, elinewidth=1, **options
        )
        line.set(ls=style.dash, lw=style.width, marker=style.marker)
        for label, *interval in points:
            texts.append("{} at {} {:.3f} [{:.3f}, {:.3f}]".format(model, label, *interval))
    ticks = [value if len(value) < 25 else f"{value[:23]}…" for value in values]
    has_long_names = max(map(len, values)) > 8
    rotated: dict[str, Any] = {"rotation": 25, "ha": "right"} if has_long_names else {}
    axes.set_xticks(range(len(ticks)), ticks, **rotated)
    axes.set(xlabel=x_title, ylabel=title)
    figure.legend(loc="outside lower center", ncols=2)
    return svg(figure, f"{title} over {x_title}: {'; '.join(texts)}.", name)


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
    charts: dict[str, list[str]] = {"differences": [], "calibration": [], "training": []}
    for kind in _CURVES:
        charts[kind] = [_curve_chart(comparison, assessment, kind)]
    fpr_title = "FPR at TPR .90: left is better"
    for metric, title in (("auc", "ROC-AUC: right is better"), ("fpr_at_90", fpr_title)):
        bars, name = {}, f"differences-{metric}"
        for model, gaps in assessment.differences.items():
            bars[model] = gaps[metric].interval
        charts["differences"].append(bar_chart(bars, title, name, percent=metric != "auc"))
    for name in (assessment.reference, *comparison.trained):
        charts["calibration"].append(_calibration_chart(comparison, name))
    for name, trained in comparison.trained.items():
        by_fpr = trained.model.builder.config.training.select == "test"
        score = "−FPR on test" if by_fpr else "−loss on valid"
        for step, histories in trained.model.history.items():
            if runs := [run for run in histories if run.score]:
                charts["training"].append(_training_chart(name, step, runs, score))
    return charts


@chart_style
def _curve_chart(comparison: Comparison, assessment: Assessment, kind: str) -> str:
    description, legend, metric, x_title, y_title = _CURVES[kind]
    test = comparison.prepared.split.test
    label = comparison.prepared.label[test]
    chance = float(label.mean()) if kind == "likes" else 1 - float(label.mean())
    display = RocCurveDisplay if kind == "roc" else PrecisionRecallDisplay
    names, texts = [name for name in comparison.metrics if name != ALWAYS_LIKE], []
    height = 4.1 + 0.19 * -(-len(names) // 2)  # two models a line of the legend
    figure = Figure(figsize=(4.3, height), layout="constrained")
    axes = figure.subplots()
    grid = {"color": COLOURS["grid"], "linestyle": "-", "linewidth": 2.2}
    for name in names:
        probability, style = comparison.probability[name][test], style_for(name)
        texts.append(f"{name} {comparison.metrics[name][metric]:.3f}")
        options: dict[str, Any] = {"ax": axes, "plot_chance_level": name == names[-1]}
        options["chance_level_kw"] = grid
        scores = (~label, -probability) if kind == "dislikes" else (label, probability)
        line = display.from_predictions(*scores, **options).line_
        colour = COLOURS[style.colour]
        line.set(color=colour, ls=style.dash, lw=style.width, label=texts[-1])
        if rates := assessment.operating_points.get(name):
            mark: dict[str, Any] = {"marker": style.marker, "mec": COLOURS["card"]}
            line.set(**mark, ms=7, markevery=[])  # in the legend alone
            x, y = _position(kind, rates, chance)
            axes.plot(x, y, color=colour, ms=9, clip_on=False, zorder=5, **mark)
    axes.legend().remove()
    _set_share_axes(axes, x_title, y_title)
    if kind != "roc":
        # The first few reviews of a list swing widely and would squeeze the rest.
        axes.set(ylim=(max(-0.01, chance - 0.1), 1.01), aspect="auto")
    figure.legend(loc="outside lower center", ncols=2, title=legend)
    return svg(figure, f"{description}; {legend}: {'; '.join(texts)}.", kind)


def _position(kind: str, rates: dict[str, float], dislike_share: float) -> tuple[float, float]:
    if kind == "roc":
        return rates["fpr"], rates["tpr"]
    if kind == "likes":
        return rates["tpr"], rates["precision"]
    # Shares of all rows: those held back, and the dislikes among them.
    held_back, dislikes_held_back = 1 - rates["share"], (1 - rates["fpr"]) * dislike_share
    return 1 - rates["fpr"], dislikes_held_back / held_back if held_back else np.nan


@chart_style
def _calibration_chart(comparison: Comparison, name: str) -> str:
    test = comparison.prepared.split.test
    label = comparison.prepared.label[test]
    probability = comparison.probability[name][test]
    bins = calibration_bins(label, probability)
    predicted, observed, count = bins.T
    figure = Figure(figsize=(2.9, 2.9), layout="constrained")
    axes, colour, texts = figure.subplots(), COLOURS[style_for(name).colour], []
    display = CalibrationDisplay(observed, predicted, probability, estimator_name=name)
    display.plot(ax=axes, color=colour, lw=1, ms=4)
    axes.lines[0].set(color=COLOURS["grid"], ls="-", lw=2.2)  # predicted = observed
    for x, share, rows in bins:
        interval = binomtest(round(share * rows), int(rows)).proportion_ci(method="wilson")
        axes.vlines(x, interval.low, interval.high, color=colour, lw=1.2)
        texts.append(f"{x:.0%} predicted {share:.0%} observed of {rows:.0f}")
    axes.legend().remove()
    _set_share_axes(axes, "predicted", "observed")
    lowest = max(0.0, bins[:, :2].min() - 0.1)
    axes.set(xlim=(lowest, 1.02), ylim=(lowest, 1.02))
    axes.set_title(f"{name}: {count.min():,.0f} reviews or more a dot", loc="left")
    return svg(figure, f"Calibration of {name}: {', '.join(texts)}.", f"calibration-{name}")


@chart_style
def _training_chart(name: str, step: str, runs: list[TrainingHistory], score: str) -> str:
    best = max(runs, key=lambda run: run.score[run.best])
    epoch, best_score = best.best + 1, f"{best.score[best.best]:.3f}"
    figure = Figure(figsize=(2.9, 2.9), layout="constrained")
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
    text = f"Training of {name}, {step}: {len(runs)} runs; the best has {len(best.loss)} "
    text += f"epochs, best epoch {epoch} with {score} {best_score}."
    return svg(figure, text, f"training-{name}-{step}")
