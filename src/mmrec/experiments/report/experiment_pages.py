"""The pages of `mmrec reproduce`, `mmrec ablate` and `mmrec sweep`: their tables, and charts of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmrec.evaluation.metrics import mean_and_standard_error
from mmrec.evaluation.statistics import paired_t_test
from mmrec.experiments import ablation, reproduce, sweep
from mmrec.experiments.report.charts import COLOURS, Bar, bar_chart, set_share_axes, style_for, svg
from mmrec.experiments.report.html import Plot, Section, write_page
from mmrec.experiments.reproduce import GRID, MODELS, metric_by_setting

__all__ = ["ablation_page", "reproduce_page", "sweep_page"]


def reproduce_page(stacks: dict[str, dict[str, Any]], path: Path, command: str) -> Path:
    """Write the page of what `mmrec.experiments.reproduce.reproduce` returned."""
    protocols = reproduce.complete_protocols(stacks)
    train, test, *leak = reproduce.reproduction_tables(stacks)
    panels = [_settings_chart(model, protocols) for model in MODELS]
    caption = (
        "A mark is a setting: circles for the loss `basic`, squares for `sqrt`, the larger the more dropout; "
        "hollow in the protocol `paper`, filled in `honest`. Bars: one standard deviation over repeats. "
        "Further down and to the right is better, where it is honest."
    )
    settings = Plot("False positives against accuracy", panels, caption)
    sections = [
        Section("Test reviews", [settings], [test]),
        Section("Training reviews", [], [train]),
    ]
    if leak:
        panels = [
            bar_chart(_leak_bars(protocols, "auc"), "ROC-AUC", "leak-auc"),
            bar_chart(_leak_bars(protocols, "fpr"), "FPR, points of 100", "leak-fpr", 100, 1),
        ]
        caption = "Mean of all settings. Whiskers: 95% interval over repeats."
        plot = Plot("Paper minus honest", panels, caption)
        sections.insert(0, Section("What the leak is worth", [plot], leak))
    return write_page(path, "The paper's experiment", command, sections=sections)


def _settings_chart(model: str, protocols: dict[str, dict[str, Any]]) -> str:
    """False positive rate against accuracy of every setting, in each protocol."""
    marks = []  # protocol, setting, and (repeats,) values of both metrics
    for protocol, stacks in protocols.items():
        accuracies = metric_by_setting(stacks[model], "test", "accuracy")
        fprs = metric_by_setting(stacks[model], "test", "fpr")
        marks += [(protocol, *values) for values in zip(GRID, accuracies, fprs, strict=True)]

    def draw(figure: Figure) -> None:
        axes, colour = figure.subplots(), COLOURS[style_for(model).colour]
        set_share_axes(axes, "accuracy", "false positive rate")
        axes.autoscale()
        axes.locator_params(nbins=5)
        axes.set_title(model, loc="left", weight="bold")
        for protocol, (loss, dropout), accuracy, fpr in marks:
            ddof = min(1, len(fpr) - 1)  # of one repeat the deviation is 0
            axes.errorbar(
                accuracy.mean(),
                fpr.mean(),
                fpr.std(ddof=ddof),
                accuracy.std(ddof=ddof),
                fmt="o" if loss == "basic" else "s",
                ms=4 + 8 * dropout,
                color=colour,
                mfc=COLOURS["card"] if protocol == "paper" else colour,
                elinewidth=0.8,
                label=f"{protocol}, {loss}" if dropout == GRID[1][1] else None,
            )
        figure.legend(loc="outside lower center", ncols=2)

    texts = [
        f"{protocol} {loss} {dropout:g} {fpr.mean():.1%} at {accuracy.mean():.1%}"
        for protocol, (loss, dropout), accuracy, fpr in marks
    ]
    label = f"FPR at accuracy on test, of {model}: {'; '.join(texts)}."
    return svg(label, (4.3, 4.5), draw, f"settings-{model}")


def _leak_bars(protocols: dict[str, dict[str, Any]], metric: str) -> list[Bar]:
    bars = []
    for model in MODELS:
        # (repeats,) means over settings, so that repeats are compared in pairs
        paper, honest = (
            metric_by_setting(stacks[model], "test", metric).mean(axis=0)
            for stacks in protocols.values()
        )
        interval = [float((paper - honest).mean())]
        if len(paper) > 1:
            interval = list(paired_t_test(paper.tolist(), honest.tolist())[:3])
        bars.append(Bar(model, interval, style_for(model).colour))
    return bars


def ablation_page(
    results: Sequence[ablation.SeedResult], model: str, path: Path, command: str
) -> Path:
    """Write the page of what `mmrec.experiments.ablation.ablate` returned for `model`."""
    colour = style_for(model).colour

    def bar(name: str, interval: ablation.MeanInterval, guessing: float = 0) -> Bar:
        mean, half_width = interval[0] - guessing, interval[1]
        return Bar(
            name, [mean, mean - half_width, mean + half_width] if half_width else [mean], colour
        )

    def change_bars(metric: str) -> list[Bar]:
        rows = ablation.metric_rows(results, metric)
        return [Bar(name, gap[:3], colour) for name, _, gap in rows if name.startswith("with")]

    auc_rows = ablation.metric_rows(results, "auc")
    alone = [bar(name, mean, 0.5) for name, mean, _ in auc_rows if name.endswith(" alone")]
    plots = [
        Plot(
            "Left out or replaced",
            [
                bar_chart(change_bars("auc"), "ROC-AUC: left is worse", "less-auc"),
                bar_chart(
                    change_bars("fpr_at_90"), "FPR at TPR .90: right is worse", "less-fpr", 100, 1
                ),
            ],
            "What changes when a group of inputs is left out, or replaced by others; FPR in points of 100. "
            "Whiskers: 95% interval; where they cross the line, the change may be chance.",
        ),
        Plot(
            "Alone",
            [bar_chart(alone, "ROC-AUC above .5", "alone")],
            "A group of inputs as the only one: ROC-AUC above .5, which is guessing. Whiskers: 95% interval.",
        ),
    ]
    if shares := ablation.shapley_values(results):
        bars = [bar(group, share) for group, share in shares.items()]
        caption = "What a group is worth, over all orders in which groups may come (Shapley); bars add up."
        plots.append(Plot("Shares", [bar_chart(bars, "ROC-AUC above .5", "shapley")], caption))
    if synergy := ablation.synergy(results):
        chart = bar_chart([Bar("text and photos", synergy[:3], colour)], "ROC-AUC", "synergy")
        caption = "Above 0, text and photos complement each other; below, they hold the same information. "
        plots.append(
            Plot("Synergy", [chart], f"{caption}Whiskers: 95% interval; p {synergy.p_value:.3f}.")
        )
    sections = [
        Section("Plots", plots, []),
        Section("Tables", [], ablation.ablation_tables(results)),
    ]
    return write_page(path, f"What the inputs of {model} add", command, sections=sections)


def sweep_page(
    results: sweep.SweepResults, over: str, model: str, path: Path, command: str
) -> Path:
    """Write the page of what `mmrec.experiments.sweep.sweep` returned for `model`."""
    plots = []
    if any(results.values()):
        panels = [
            _sweep_chart(results, over, model, "auc", "ROC-AUC: up is better"),
            _sweep_chart(results, over, model, "fpr_at_90", "FPR at TPR .90: down is better"),
        ]
        caption = "Mean over seeds on test reviews; bars: one standard error."
        plots.append(Plot(f"{model} beside the bias model", panels, caption))
    sections = [Section("Test reviews", plots, [sweep.sweep_table(results, over)])]
    return write_page(path, f"Sweep over {over}", command, sections=sections)


def _sweep_chart(
    results: sweep.SweepResults, over: str, model: str, metric: str, title: str
) -> str:
    """A metric over the values of a setting, of the model and of the bias model."""
    values = [value for value, seeds in results.items() if seeds]
    lines = {}
    for key, name in (("model", model), ("bias model", "bias model")):
        by_value = [[row[key][metric] for row in results[value].values()] for value in values]
        lines[name] = np.array(
            [mean_and_standard_error(seeds) for seeds in by_value]
        )  # (values, 2)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (name, points) in enumerate(lines.items()):
            style, x = style_for(name), np.arange(len(values)) + 0.05 * number  # bars side by side
            options: dict[str, Any] = {"color": COLOURS[style.colour], "label": name}
            mean, error = points.T
            (line, *_) = axes.errorbar(x, mean, error, capsize=3, elinewidth=1, **options)
            line.set(ls=style.dash, lw=style.width, marker=style.marker)
        ticks = [value if len(value) < 25 else f"{value[:23]}…" for value in values]
        long = max(map(len, values)) > 8
        axes.set_xticks(
            range(len(ticks)), ticks, rotation=25 * long, ha="right" if long else "center"
        )
        axes.set(xlabel=over, ylabel=title)
        figure.legend(loc="outside lower center", ncols=2)

    texts = []
    for name, points in lines.items():
        for value, (mean, error) in zip(values, points.tolist(), strict=True):
            texts.append(f"{name} at {value} {mean:.3f} ±{error:.3f}")
    return svg(f"{title} over {over}: {'; '.join(texts)}.", (4.3, 4.1), draw, f"sweep-{metric}")
