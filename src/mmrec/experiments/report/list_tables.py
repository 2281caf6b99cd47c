"""Tables and sentences about lists, for the terminal and for pages; and the chart of their trade."""

from collections.abc import Collection
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmrec.evaluation.list_metrics import ListComparison, TradePoint
from mmrec.evaluation.simple_baselines import BIAS_MODEL
from mmrec.experiments.report.charts import COLOURS, chart_style, style_for, svg
from mmrec.experiments.report.html import ResultTable, format_metric

LIST_COLUMNS = {
    # Field of `ListMetrics`: title, format, whether higher is better; nothing is said of variety.
    "recall": ("recall@20", ".3f", True),
    "ndcg": ("NDCG@10", ".3f", True),
    "mrr": ("MRR", ".3f", True),
    "dislikes": ("dislikes", ".1%", False),
    "coverage": ("coverage", ".2f", None),
    "difference": ("difference", ".2f", None),
}
_DASHES: list[str | tuple[float, tuple[float, ...]]] = ["-", (0, (7, 1.5)), "--", "-.", ":"]
_EXPLANATION = (
    "Lists of 20 leave out what evidence has; a user counts who liked a held-out item. "
    "recall@20: liked held-out items that the list has, of all of them or of 20. MRR: 1 / "
    "place of the first liked item, 0 without one. Dislikes: share of the disliked among the "
    "held-out items in lists. Coverage: share of the items in anybody's first ten. Difference: share "
    "of the first ten that another user does not have, on average"
)


def short_list_table(lists: ListComparison) -> ResultTable:
    """What lists are worth, in a table that fits a terminal."""
    users = next(iter(lists.metrics.values())).users
    title = f"Lists for {users:,} users with liked test reviews"
    return _list_table(lists, title, ["recall", "ndcg", "dislikes", "coverage"])


def list_tables(lists: ListComparison) -> list[ResultTable]:
    """All metrics of lists with intervals, and the differences from the best peer."""
    tables = [_list_table(lists, "Lists of every model", [*LIST_COLUMNS], intervals=True)]
    chosen = list[str]()
    for name, settings in lists.settings.items():
        if settings:
            values = ", ".join(f"{key} {value:g}" for key, value in settings.items())
            chosen.append(f"{name} {values}")
    tables[0].notes.extend([_EXPLANATION, f"Lists of {lists.own} are {_judge(lists)}"])
    tables[0].notes.append(f"Chosen on validation: {'; '.join(chosen)}")
    header, rows = ["model"], list[list[str]]()
    for name, gaps in lists.differences.items():
        if name != lists.reference and gaps:
            rows.append([name, *(gap.as_text(3) for gap in gaps.values())])
            header = ["model", *(LIST_COLUMNS[metric][0] for metric in gaps)]
    title = f"Differences to {lists.reference}, the peer with the highest recall"
    note = "Mean and 95% interval by a bootstrap over users, who are the same for both"
    if rows:
        tables.append(ResultTable(title, header, rows, notes=[note]))
    return tables


def _list_table(
    lists: ListComparison, title: str, columns: Collection[str], *, intervals: bool = False
) -> ResultTable:
    titles = [LIST_COLUMNS[column][0] for column in columns]
    table = ResultTable(title, ["model", *titles], [])
    for name, metrics in lists.metrics.items():
        cells = [name]
        for column in columns:
            form, interval = LIST_COLUMNS[column][1], lists.intervals[name].get(column)
            cells.append(format_metric(getattr(metrics, column), form))
            if intervals and interval:
                ends = [format_metric(end, form) for end in (interval.low, interval.high)]
                cells[-1] += f" ({'–'.join(ends)})"
        table.rows.append(cells)
    for position, column in enumerate(columns, 1):
        higher_is_better = LIST_COLUMNS[column][2]
        values = [getattr(metrics, column) for metrics in lists.metrics.values()]
        if higher_is_better is not None and not np.isnan(values).all():
            best = np.nanmax(values) if higher_is_better else np.nanmin(values)
            table.bold.update((row, position) for row in np.flatnonzero(values == best).tolist())
    return table


def list_sentence(lists: ListComparison) -> str:
    """How our lists compare with those of the best peer."""
    ours, peer = lists.metrics[lists.own], lists.metrics[lists.reference]
    if not ours.users or not peer.recall or not peer.dislikes:
        return "Too few liked test reviews to compare our lists."
    return (
        f"Of what users liked, the lists of {lists.own} ({_judge(lists)}) find "
        f"{ours.recall / peer.recall:.2f} times as much as {lists.reference}, the best peer, "
        f"with {ours.dislikes / peer.dislikes:.2f} times its share of dislikes."
    )


def _judge(lists: ListComparison) -> str:
    name = "the bias model" if lists.judge == BIAS_MODEL else lists.judge
    return f"judged by the probabilities of {name}"


def trade_sentence(lists: ListComparison) -> str | None:
    """The lowest share of dislikes, on test rows, of settings with no less than the best peer's recall;
    None without a trade."""
    peer = lists.metrics[lists.reference]
    reached = [point for point in lists.trade if point.recall >= peer.recall]
    if not lists.trade:
        return None
    if not reached:
        return f"No setting of {lists.own} reaches the recall of {lists.reference}."
    best = min(reached, key=lambda point: point.dislikes)
    return (
        f"Of all settings with no less than the recall of {lists.reference}, the lowest share "
        f"of dislikes is {best.dislikes:.1%} instead of {peer.dislikes:.1%} "
        f"({describe_setting(best)}). It is read off these test reviews; on others the best "
        "setting may be worth less."
    )


def describe_setting(point: TradePoint) -> str:
    """The setting of a point of the trade."""
    bound = "no bound" if point.max_fpr is None else f"max_fpr {point.max_fpr:g}"
    return f"caution {point.caution:g}, {bound}"


@chart_style
def trade_chart(lists: ListComparison) -> str:
    """An SVG of recall against the share of dislikes: ours at several settings, and a mark for each model."""
    figure, texts = Figure(figsize=(4.3, 5.0), layout="constrained"), list[str]()
    axes = figure.subplots()
    best = max(metrics.recall for metrics in lists.metrics.values())
    lowest = 0.6 * best  # a point far below would squeeze the rest
    bounds = dict.fromkeys(point.max_fpr for point in lists.trade)
    for bound, dash in zip(bounds, cycle(_DASHES), strict=False):
        points = sorted(point for point in lists.trade if point.max_fpr == bound)
        *_, recalls, dislikes = zip(*points, strict=True)
        (line,) = axes.plot(dislikes, recalls, ".", lw=1.4, ms=5)
        label = f"{lists.own}, {'no bound' if bound is None else f'max_fpr {bound:g}'}"
        line.set(color=COLOURS[style_for(lists.own).colour], ls=dash, label=label)
        for point in points:
            text = f"{describe_setting(point)}: {point.recall:.3f}, {point.dislikes:.1%}"
            texts.append(text)
    markers = cycle("os^vPX")
    for name, metrics in lists.metrics.items():
        is_peer, is_below = name != lists.own, metrics.recall < lowest
        mark: dict[str, Any] = {"marker": next(markers) if is_peer else "D", "ls": ""}
        mark |= {"mec": COLOURS["card"], "ms": 7 if is_peer else 11, "zorder": 5}
        mark["label"] = f"{name}{f', {metrics.recall:.3f}, below' if is_below else ''}"
        position = ([], []) if is_below else ([metrics.dislikes], [metrics.recall])
        axes.plot(*position, color=COLOURS[style_for(name).colour], **mark)
        texts.append(f"{name}: {metrics.recall:.3f}, {metrics.dislikes:.1%}")
    axes.set(xlabel="disliked, of the judged items in lists", ylabel="recall@20")
    axes.margins(0.08)
    axes.set_ylim(bottom=max(lowest, axes.get_ylim()[0]))
    axes.locator_params(nbins=6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    figure.legend(loc="outside lower center", ncols=2)
    title = "Recall of lists and their share of dislikes"
    return svg(figure, f"{title}; {'; '.join(texts)}.", "trade")
