"""The pages of `mmrec reproduce`, `mmrec ablate` and `mmrec sweep`: their tables, and plots of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmrec.evaluation import mean_and_standard_error, paired_t_test
from mmrec.experiments import ablation, sweep
from mmrec.experiments.report import tables
from mmrec.experiments.report.html import Plot, Section, write_page
from mmrec.experiments.report.svg import (
    CARD,
    LARGE,
    Bar,
    bar_plot,
    bar_plots,
    square,
    style_for,
    svg,
)
from mmrec.experiments.report.tables import metric_by_setting
from mmrec.experiments.reproduce import GRID, MODELS

__all__ = ["ablation_page", "reproduce_page", "sweep_page"]

_LEAK = {"auc": ("ROC-AUC", 1, 3), "fpr": ("FPR, points of 100", 100, 1)}
_LESS = {
    "auc": ("ROC-AUC: left is worse", 1, 3),
    "fpr_at_90": ("FPR at TPR .90: right is worse", 100, 1),
}
"""Figure -> title, scale, digits."""
_SWEPT = {"auc": "ROC-AUC: up is better", "fpr_at_90": "FPR at TPR .90: down is better"}
_SETTINGS = (
    "A mark is a setting: circles for the loss `basic`, squares for `sqrt`, the larger the more dropout; "
    "hollow in the protocol `paper`, filled in `honest`, the same setting joined by a line. Bars: one "
    "standard deviation over repeats. Further down and to the right is better, where it is honest."
)
_SIZE = "Mean of all settings. Whiskers: 95% interval over repeats."
_WITHOUT = (
    "What changes when a group of inputs is left out, or others take their place; FPR in points of 100. "
    "Whiskers: 95% interval; where they cross the line, the change may be luck."
)
_ALONE = "A group of inputs as all that there is: ROC-AUC above .5, which is guessing. "
_ALONE += "Whiskers: 95% interval."
_SHARES = (
    "What a group is worth, over all orders in which groups may come (Shapley); all bars add up."
)
_SYNERGY = "Above 0, text and photos complement each other; below, they say the same. "
_SYNERGY += "Whiskers: 95% interval; p"


def reproduce_page(stacks: dict[str, dict[str, Any]], path: Path, command: str) -> Path:
    """Write what `mmrec.experiments.reproduce` gave."""
    whole = tables.complete_protocols(stacks)
    train, test, *leak = tables.reproduction_tables(stacks)
    panels = [
        _settings(model, {name: own[model] for name, own in whole.items()}) for model in MODELS
    ]
    sections = [
        Section(
            "Test reviews", [Plot("False positives against accuracy", panels, _SETTINGS), test]
        ),
        Section("Training reviews", [train]),
    ]
    if leak:
        plot = Plot("Paper minus honest", bar_plots(_LEAK, "leak", partial(_leak, whole)), _SIZE)
        sections.insert(0, Section("What the leak is worth", [plot, *leak]))
    return write_page(path, "The paper's experiment", sections, command)


def _settings(model: str, stacks: dict[str, Any]) -> str:
    values = {
        name: [metric_by_setting(own, "test", figure) for figure in ("accuracy", "fpr")]
        for name, own in stacks.items()
    }

    def draw(figure: Figure) -> None:
        axes, colour = square(figure, "accuracy", "false positive rate"), style_for(model).colour
        axes.autoscale()
        axes.locator_params(nbins=5)
        axes.set_title(model, loc="left", weight="bold")
        means = np.array([[one.mean(1) for one in both] for both in values.values()])
        axes.plot(*means.transpose(1, 0, 2), color=colour, lw=0.8, ls=":")
        for name, both in values.items():
            for (loss, dropout), *at in zip(GRID, *both, strict=True):
                x, y = ((one.mean(), one.std(ddof=min(1, len(one) - 1))) for one in at)
                axes.errorbar(
                    *(x[0], y[0], y[1], x[1]),
                    fmt="o" if loss == "basic" else "s",
                    ms=4 + 8 * dropout,
                    color=colour,
                    mfc=CARD if name == "paper" else colour,
                    elinewidth=0.8,
                    label=f"{name}, {loss}" if dropout == GRID[1][1] else None,
                )
        figure.legend(loc="outside lower center", ncols=2)

    told = "; ".join(
        f"{name} {loss} {dropout:g} {fpr:.1%} at {accuracy:.1%}"
        for name, both in values.items()
        for (loss, dropout), accuracy, fpr in zip(GRID, *(one.mean(1) for one in both), strict=True)
    )
    return svg(
        f"FPR at accuracy on test, of {model}: {told}.", (LARGE[0], 4.5), draw, f"settings-{model}"
    )


def _leak(whole: dict[str, dict[str, Any]], key: str) -> list[Bar]:
    bars = []
    for model in MODELS:
        a, b = (metric_by_setting(own[model], "test", key).mean(0) for own in whole.values())
        gap = paired_t_test(a.tolist(), b.tolist())[:3] if len(a) > 1 else [float((a - b).mean())]
        bars.append(Bar(model, gap, style_for(model).colour))
    return bars


def ablation_page(
    trials: Sequence[ablation.SeedResult], model: str, path: Path, command: str
) -> Path:
    """Write what `mmrec.experiments.ablation` gave for `model`."""
    colour = style_for(model).colour

    def spread(name: str, one: ablation.MeanInterval, base: float = 0) -> Bar:
        mean, half = one[0] - base, one[1]
        return Bar(name, (mean, mean - half, mean + half) if half else (mean,), colour)

    def less(key: str) -> list[Bar]:
        rows = ablation.metric_rows(trials, key)
        return [Bar(name, gap[:3], colour) for name, _, gap in rows if name.startswith("with")]

    own = [
        (name, one)
        for name, one, _ in ablation.metric_rows(trials, "auc")
        if name.endswith(" alone")
    ]
    alone = bar_plot([spread(name, one, 0.5) for name, one in own], "ROC-AUC above .5", "alone")
    plots = [
        Plot("Left out or replaced", bar_plots(_LESS, "less", less), _WITHOUT),
        Plot("Alone", [alone], _ALONE),
    ]
    if shares := ablation.shapley_values(trials):
        bars = [spread(group, one) for group, one in shares.items()]
        plots.append(Plot("Shares", [bar_plot(bars, "ROC-AUC above .5", "shapley")], _SHARES))
    if both := ablation.synergy(trials):
        drawn = bar_plot([Bar("text and photos", both[:3], colour)], "ROC-AUC", "synergy")
        plots.append(Plot("Synergy", [drawn], f"{_SYNERGY} {both.p_value:.3f}."))
    sections = [Section("Plots", plots), Section("Tables", ablation.tables(trials))]
    return write_page(path, f"What the inputs of {model} add", sections, command)


def sweep_page(points: sweep.SweepResults, over: str, model: str, path: Path, command: str) -> Path:
    """Write what `mmrec.experiments.sweep` gave for `model`."""
    there = {value: [*seeds.values()] for value, seeds in points.items() if seeds}
    panels = []
    for key, title in _SWEPT.items() if there else ():
        values = {
            name: np.array(
                [
                    mean_and_standard_error([one[who][key] for one in seeds])
                    for seeds in there.values()
                ]
            )
            for who, name in (("model", model), ("bias model", "bias model"))
        }
        told = "; ".join(
            f"{name} at {value} {mean:.3f} ±{error:.3f}"
            for name, own in values.items()
            for value, (mean, error) in zip(there, own, strict=True)
        )
        draw = partial(_draw_sweep, ticks=list(there), values=values, over=over, title=title)
        panels.append(svg(f"{title} over {over}: {told}.", LARGE, draw, f"sweep-{key}"))
    caption = "Mean over seeds on test reviews; bars: one standard error."
    plots = [Plot(f"{model} beside the bias model", panels, caption)] if panels else []
    section = Section("Test reviews", [*plots, sweep.sweep_table(points, over)])
    return write_page(path, f"Sweep over {over}", [section], command)


def _draw_sweep(
    figure: Figure, ticks: list[str], values: dict[str, np.ndarray], over: str, title: str
) -> None:
    axes = figure.subplots()
    for at, (name, own) in enumerate(values.items()):
        look, x = style_for(name), np.arange(len(ticks)) + 0.05 * at  # bars side by side
        (line, *_) = axes.errorbar(
            x, own[:, 0], own[:, 1], capsize=3, elinewidth=1, color=look.colour, label=name
        )
        line.set(ls=look.dash, lw=look.width, marker=look.marker)
    long = max(map(len, ticks)) > 8
    short = [value if len(value) < 25 else f"{value[:23]}…" for value in ticks]
    axes.set_xticks(range(len(ticks)), short, rotation=25 * long, ha="right" if long else "center")
    axes.set(xlabel=over, ylabel=title)
    figure.legend(loc="outside lower center", ncols=2)
