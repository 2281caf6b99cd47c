"""The report of `mmrec fit`: a single HTML file that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmrec.evaluation.metrics import METRICS, Metric, Metrics
from mmrec.evidence.audit import Audit
from mmrec.experiments.baselines import ALWAYS_LIKE
from mmrec.experiments.compare import Comparison
from mmrec.experiments.report.charts import style_for
from mmrec.experiments.report.curves import draw_charts
from mmrec.experiments.report.html import format_metric, write_page
from mmrec.experiments.significance import Assessment
from mmrec.experiments.trained_baselines import TRAINED_BASELINES

__all__ = ["headline", "write_report"]

_ROLES = {"mmrec": "our model", "proposed": "the paper's model", "baseline": "the paper's baseline"}


def write_report(
    comparison: Comparison,
    assessment: Assessment,
    audits: Mapping[str, Audit],
    path: Path,
    *,
    command: str,
    read: int | None = None,
) -> Path:
    """Write the results of a run as one HTML file; `read` counts reviews before the filter."""
    trained = list(comparison.trained)
    metrics = [metric for metric in METRICS if metric.in_report]
    return write_page(
        path,
        f"Recommender report: {Path(comparison.prepared.reviews.source).name}",
        command,
        "fit_report.html.jinja",
        facts=_provenance(comparison),
        config=_config_json(comparison),
        comparison=comparison,
        assessment=assessment,
        audits=audits,
        operating=comparison.prepared.config.operating,
        headline=headline(comparison.metrics, trained),
        bars=_summary_bars(comparison.metrics, trained),
        main=_main_model(comparison.metrics, trained)[0],
        metrics=metrics,
        best={metric.name: _best_value(comparison.metrics, metric) for metric in metrics},
        charts=draw_charts(comparison, assessment),
        data=_data_facts(comparison, read),
    )


def _best_value(metrics: Mapping[str, Metrics], metric: Metric) -> str:
    """The best value of a column, as text, so that values which look the same are all marked."""
    # Metrics that are nan are no one's best.
    values = [row[metric.name] for row in metrics.values() if not np.isnan(row[metric.name])]
    best = max(values, default=np.nan) if metric.higher_is_better else min(values, default=np.nan)
    return format_metric(best, metric.format)


def _main_model(metrics: Mapping[str, Metrics], trained: list[str]) -> tuple[str, str | None]:
    """The model that the headline is about, and the best of the baselines."""
    others = [name for name in metrics if name not in trained and name != ALWAYS_LIKE]
    best_baseline = min(others, key=lambda name: metrics[name]["fpr_at_90"], default=None)
    if not trained:
        return best_baseline or ALWAYS_LIKE, None
    return next((name for name in _ROLES if name in trained), trained[-1]), best_baseline


def _baseline_role(name: str) -> str:
    """Trained baselines need features, simple ones nothing but ratings."""
    return "baseline" if name in TRAINED_BASELINES else "simple baseline"


def headline(metrics: Mapping[str, Metrics], trained: list[str]) -> str:
    """The result in a sentence, from the false positive rate at 90% of the likes."""
    name, baseline = _main_model(metrics, trained)
    of_100 = {model: round(100 * row["fpr_at_90"]) for model, row in metrics.items()}
    model = f"the simple baseline `{name}`"
    if trained:
        model = name if name == "mmrec" else f"the {name} model"
    start = f"At a setting that keeps 90% of the liked items, {of_100[name]} of 100 disliked ones "
    start += f"are still recommended by {model}"
    if baseline is None:
        return f"{start}."
    result = f"lets through {of_100[baseline]}"
    if of_100[baseline] < of_100[name]:
        result = f"does better and lets through only {of_100[baseline]}"
    elif of_100[baseline] == of_100[name]:
        result = "lets through as many"
    return f"{start}; the best {_baseline_role(baseline)} ({baseline}) {result}."


def _summary_bars(metrics: Mapping[str, Metrics], trained: list[str]) -> list[dict[str, Any]]:
    name, baseline = _main_model(metrics, trained)
    roles = {model: _ROLES.get(model, "trained") for model in (name, *trained)}
    if baseline:
        roles[baseline] = f"best {_baseline_role(baseline)}"
    elif not trained:
        roles[name] = "simple baseline"
    bars = []
    for model, role in roles.items():
        # The colour is a CSS variable of the page.
        bar = {"name": model, "role": role, "colour": style_for(model).colour}
        bars.append(bar | {"percent": 100 * metrics[model]["fpr_at_90"]})
    return bars


def _data_facts(comparison: Comparison, read: int | None) -> dict[str, str]:
    """The size of the data; rows that the filter dropped are counted apart from those of the split."""
    prepared, split = comparison.prepared, comparison.prepared.split
    dataset, label = prepared.dataset, prepared.label
    parts = {"train": split.train, "validation": split.valid, "test": split.test}
    rows = np.concatenate([*parts.values()])
    facts = {"Reviews read": f"{read:,}"} if read is not None else {}
    share = f" ({len(rows) / read:.1%})" if read else ""
    facts["Reviews kept by the filter"] = f"{len(rows):,}{share}"
    if dropped := len(split.filtered_rows):
        facts["Reviews dropped by the filter"] = f"{dropped:,}, used as evidence only"
    facts["Users"] = f"{len(np.unique(dataset.data.user[rows])):,}"
    facts["Items"] = f"{len(np.unique(dataset.data.item[rows])):,}"
    facts["Likes"] = f"{np.mean(label[rows]):.1%}"
    review_photos, item_photos = sum(map(len, dataset.photos)), sum(map(len, dataset.item_photos))
    facts["Photos"] = f"{review_photos:,} in reviews, {item_photos:,} of items"
    facts["Rows rejected"] = f"{prepared.reviews.rejects.height:,}"
    for name, part in parts.items():
        if len(part):
            facts[f"Part {name}"] = f"{len(part):,} reviews, {np.mean(label[part]):.1%} likes"
    return facts


def _provenance(comparison: Comparison) -> dict[str, str]:
    """What annotated, captioned and encoded, and how long it took."""
    dataset = comparison.prepared.dataset
    models = dataset.models
    config = next((result.model.builder.config for result in comparison.trained.values()), None)
    facts = {"Seed": str(config.seed) if config else "not recorded"}
    how = "picks sentences by a word list and sentence vectors; it is not an LLM"
    facts["Language model"] = _model_name(models.annotator.note_provenance, how)
    if dataset.has_photos(comparison.prepared.evidence.evidence_rows, captions=True):
        how = "describes colours and light by rules; it is not a neural vision model"
        facts["Captioner"] = _model_name(models.captioner.provenance, how)
    facts["Sentence encoder"] = models.encoder.description
    seconds = [f"{name} {seconds:.1f} s" for name, seconds in comparison.seconds.items()]
    facts["Time for features and training"] = ", ".join(seconds) or "nothing was trained"
    return facts


def _model_name(provenance: Mapping[str, object], builtin: str) -> str:
    """A model's name and settings; `builtin` describes what the built-in one does."""
    shown = {key: value for key, value in provenance.items() if key not in ("model", "kind")}
    details = ", ".join(f"{key} {value}" for key, value in shown.items())
    if provenance.get("model") == "builtin":
        return f"builtin, offline: {builtin} ({details})"
    return f"{provenance.get('model', 'unnamed')} ({details})"


def _config_json(comparison: Comparison) -> str:
    """The configuration as JSON; `ranker.features` names every model that ran."""
    for result in comparison.trained.values():
        tree = result.model.builder.config.model_dump(mode="json")
        tree["ranker"]["features"] = list(comparison.trained)
        return json.dumps(tree, indent=2, ensure_ascii=False)
    return ""
