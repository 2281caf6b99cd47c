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
from mmrec.experiments.report.html import write_page
from mmrec.experiments.reproduce import GRID, MODELS, Stacks, metric_by_setting

__all__ = ["ablation_page", "reproduce_page", "sweep_page"]


def reproduce_page(stacks: Stacks, path: Path, command: str) -> Path:
    """Write the page of what `mmrec.experiments.reproduce.reproduce` returned."""
    protocols = reproduce.complete_protocols(stacks)
    train, test, *leak = reproduce.reproduction_tables(stacks)
    leak_charts = []
    if leak:
        leak_charts = [
            bar_chart(_leak_bars(protocols, "auc"), "ROC-AUC", "leak-auc"),
            bar_chart(_leak_bars(protocols, "fpr"), "FPR, points of 100", "leak-fpr", 100, 1),
        ]
    content: dict[str, Any] = {"train": train, "test": test, "leak": leak}
    content["leak_charts"] = leak_charts
    content["setting_charts"] = [_settings_chart(model, protocols) for model in MODELS]
    title = "The paper's experiment"
    return write_page(path, title, command, "reproduce.html.jinja", **content)


def _settings_chart(model: str, protocols: Stacks) -> str:
    """False positive rate against accuracy of every setting, in each protocol."""
    marks = []  # protocol, setting, and (repeats,) values of both metrics
    texts = []
    for protocol, stacks in protocols.items():
        accuracies = metric_by_setting(stacks[model], "test", "accuracy")
        fprs = metric_by_setting(stacks[model], "test", "fpr")
        for (loss, dropout), accuracy, fpr in zip(GRID, accuracies, fprs, strict=True):
            marks.append((protocol, loss, dropout, accuracy, fpr))
            values = f"{fpr.mean():.1%} at {accuracy.mean():.1%}"
            texts.append(f"{protocol} {loss} {dropout:g} {values}")

    def draw(figure: Figure) -> None:
        axes, colour = figure.subplots(), COLOURS[style_for(model).colour]
        set_share_axes(axes, "accuracy", "false positive rate")
        axes.autoscale()
        axes.locator_params(nbins=5)
        axes.set_title(model, loc="left", weight="bold")
        for protocol, loss, dropout, accuracy, fpr in marks:
            ddof = min(1, len(fpr) - 1)  # of one repeat the deviation is 0
            deviations = fpr.std(ddof=ddof), accuracy.std(ddof=ddof)
            # One entry of the legend for all dropouts.
            label = f"{protocol}, {loss}" if dropout == GRID[1][1] else None
            fill = COLOURS["card"] if protocol == "paper" else colour
            marker, size = "o" if loss == "basic" else "s", 4 + 8 * dropout
            options: dict[str, Any] = {"color": colour, "mfc": fill, "label": label}
            place = accuracy.mean(), fpr.mean()
            axes.errorbar(*place, *deviations, fmt=marker, ms=size, elinewidth=0.8, **options)
        figure.legend(loc="outside lower center", ncols=2)

    label = f"FPR at accuracy on test, of {model}: {'; '.join(texts)}."
    return svg(label, (4.3, 4.5), draw, f"settings-{model}")


def _leak_bars(protocols: Stacks, metric: str) -> list[Bar]:
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
        ends = [mean - half_width, mean + half_width] if half_width else []
        return Bar(name, [mean, *ends], colour)

    changes, alone = [], []
    for metric, title, prefix, scale, digits in (
        ("auc", "ROC-AUC: left is worse", "less-auc", 1, 3),
        ("fpr_at_90", "FPR at TPR .90: right is worse", "less-fpr", 100, 1),
    ):
        bars = []
        for name, mean, gap in ablation.metric_rows(results, metric):
            if name.startswith("with"):
                bars.append(Bar(name, gap[:3], colour))
            elif metric == "auc" and name.endswith(" alone"):
                alone.append(bar(name, mean, 0.5))
        changes.append(bar_chart(bars, title, prefix, scale, digits))
    shares = [bar(*share) for share in ablation.shapley_values(results).items()]
    synergy, synergy_chart = ablation.synergy(results), []
    if synergy:
        bars = [Bar("text and photos", synergy[:3], colour)]
        synergy_chart = [bar_chart(bars, "ROC-AUC", "synergy")]
    return write_page(
        path,
        f"What the inputs of {model} add",
        command,
        "ablation.html.jinja",
        changes=changes,
        alone=[bar_chart(alone, "ROC-AUC above .5", "alone")],
        shares=[bar_chart(shares, "ROC-AUC above .5", "shapley")] if shares else [],
        synergy=synergy,
        synergy_chart=synergy_chart,
        tables=ablation.ablation_tables(results),
    )


def sweep_page(
    results: sweep.SweepResults, over: str, model: str, path: Path, command: str
) -> Path:
    """Write the page of what `mmrec.experiments.sweep.sweep` returned for `model`."""
    panels = []
    if any(results.values()):
        panels = [
            _sweep_chart(results, over, model, "auc", "ROC-AUC: up is better"),
            _sweep_chart(results, over, model, "fpr_at_90", "FPR at TPR .90: down is better"),
        ]
    content: dict[str, Any] = {
        "model": model,
        "panels": panels,
        "results": sweep.sweep_table(results, over),
    }
    return write_page(path, f"Sweep over {over}", command, "sweep.html.jinja", **content)


def _sweep_chart(
    results: sweep.SweepResults, over: str, model: str, metric: str, title: str
) -> str:
    """A metric over the values of a setting, of the model and of the bias model."""
    lines: dict[str, list[tuple[float, float]]] = {model: [], "bias model": []}
    values = [value for value, seeds in results.items() if seeds]
    texts = []
    for key, (name, points) in zip(("model", "bias model"), lines.items(), strict=True):
        for value in values:
            by_seed = [metrics[key][metric] for metrics in results[value].values()]
            mean, error = mean_and_standard_error(by_seed)
            points.append((mean, error))
            texts.append(f"{name} at {value} {mean:.3f} ±{error:.3f}")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (name, points) in enumerate(lines.items()):
            style, x = style_for(name), np.arange(len(values)) + 0.05 * number  # bars side by side
            options: dict[str, Any] = {"color": COLOURS[style.colour], "label": name}
            mean, error = np.transpose(points)
            line, *_ = axes.errorbar(x, mean, error, capsize=3, elinewidth=1, **options)
            line.set(ls=style.dash, lw=style.width, marker=style.marker)
        ticks = [value if len(value) < 25 else f"{value[:23]}…" for value in values]
        layout: dict[str, Any] = (
            {"rotation": 25, "ha": "right"} if max(map(len, values)) > 8 else {}
        )
        axes.set_xticks(range(len(ticks)), ticks, **layout)
        axes.set(xlabel=over, ylabel=title)
        figure.legend(loc="outside lower center", ncols=2)

    return svg(f"{title} over {over}: {'; '.join(texts)}.", (4.3, 4.1), draw, f"sweep-{metric}")
