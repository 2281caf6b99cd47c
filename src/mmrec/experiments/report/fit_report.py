"""The report of `mmrec fit`: a single HTML file that needs nothing but itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrec.evaluation.metrics import METRICS, Metrics, Verdict
from mmrec.evaluation.simple_baselines import ALWAYS_LIKE
from mmrec.experiments.baselines import TRAINED_BASELINES
from mmrec.experiments.compare import Assessment, Comparison
from mmrec.experiments.report.charts import draw_charts, style_for
from mmrec.experiments.report.html import format_metric, write_page
from mmrec.experiments.report.list_tables import (
    list_sentence,
    list_tables,
    trade_chart,
    trade_sentence,
)
from mmrec.features.audit import Audit

_ROLES = {"mmrec": "our model", "proposed": "the paper's model", "baseline": "the paper's baseline"}


def write_report(
    comparison: Comparison,
    assessment: Assessment,
    audits: Mapping[str, Audit],
    path: Path,
    *,
    command: str,
    verdict: Verdict | None = None,
    read: int | None = None,
) -> Path:
    """Write the results of a run as one HTML file; `read` counts reviews before the filter."""
    content: dict[str, Any] = {"comparison": comparison, "assessment": assessment}
    content["verdict"] = verdict
    prepared, trained = comparison.prepared, list(comparison.trained)
    main, baseline = _main_model_and_baseline(comparison.metrics, trained)
    bars = {name: _ROLES[name] for name in (main, *trained)}
    # The best value of a column as text, so that values which look the same are all marked.
    columns, best = [metric for metric in METRICS if metric.in_report], {}
    for metric in columns:
        values = [row[metric.name] for row in comparison.metrics.values()]
        best_value = np.nanmax(values) if metric.higher_is_better else np.nanmin(values)
        best[metric.name] = format_metric(best_value, metric.format)
    config = prepared.config.model_dump(mode="json")
    config["ranker"]["features"] = trained
    data, split = prepared.dataset.data, prepared.split
    rows = np.concatenate([split.train, split.valid, split.test])
    content |= {"audits": audits, "read": read, "main": main, "rows": rows}
    content |= {"metrics": columns, "best": best}
    content |= {"users": len(np.unique(data.user[rows])), "items": len(np.unique(data.item[rows]))}
    content |= {"config": json.dumps(config, indent=2, ensure_ascii=False)}
    content |= {"headline": headline(comparison.metrics, trained), "style_for": style_for}
    content |= {"bars": bars | {baseline: f"best {_baseline_role(baseline)}"}}
    charts, lists = draw_charts(comparison, assessment), assessment.lists
    content |= {"list_sentences": [list_sentence(lists), trade_sentence(lists)]}
    charts["trade"] = [trade_chart(lists)] if lists.intervals[lists.reference] else []
    content |= {"charts": charts, "list_tables": list_tables(lists)}
    title = f"Recommender report: {Path(prepared.reviews.source).name}"
    return write_page(path, title, command, "fit_report", **content)


def _main_model_and_baseline(
    metrics: Mapping[str, Metrics], trained: Sequence[str]
) -> tuple[str, str]:
    baselines = [name for name in metrics if name not in (*trained, ALWAYS_LIKE)]
    main = next(name for name in _ROLES if name in trained)
    return main, min(baselines, key=lambda name: metrics[name]["fpr_at_90"])


def _baseline_role(name: str) -> str:
    return "baseline" if name in TRAINED_BASELINES else "simple baseline"


def headline(metrics: Mapping[str, Metrics], trained: Sequence[str]) -> str:
    """The result in a sentence, from the false positive rate at 90% of the likes."""
    name, baseline = _main_model_and_baseline(metrics, trained)
    of_100 = round(100 * metrics[name]["fpr_at_90"])
    of_baseline = round(100 * metrics[baseline]["fpr_at_90"])
    result = f"lets through {of_baseline}"
    if of_baseline < of_100:
        result = f"does better and lets through only {of_baseline}"
    elif of_baseline == of_100:
        result = "lets through as many"
    model = name if name == "mmrec" else f"the {name} model"
    return (
        f"At a setting that keeps 90% of the liked items, {of_100} of 100 disliked ones "
        f"are still recommended by {model}; the best {_baseline_role(baseline)} "
        f"({baseline}) {result}."
    )
