"""One setting over a range of values, beside the bias model: what a model gains or loses by it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.errors import ConfigError
from mmrec.evaluation.metrics import Metrics, evaluate
from mmrec.evaluation.simple_baselines import BIAS_MODEL, choose_bias_model
from mmrec.evidence.policies import Evidence
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.report.charts import interval_chart
from mmrec.experiments.report.html import ResultTable, write_page
from mmrec.features.dataset import Models
from mmrec.pipeline import PreparedData, open_models, prepare_data, train_model
from mmrec.ranker.training import class_weights

SWEPT_SETTINGS = {
    "imbalance": ("", "", ("2", "5", "10", "20", "50")),
    "K": ("evidence", "folds", ("2", "3", "5", "10", "20")),
    "policy": ("evidence", "policy", ("fold", "leave_one_out", "all", "past")),
    "reduction": ("ranker", "reduction", ("staged", "joint")),
    "llm": ("language", "llm", ()),
    "captioner": ("vision", "captioner", ()),
}
"""What can be swept: the section and field of `Config` that is set, and usual values."""
_METRICS = {"auc": "ROC-AUC", "fpr_at_90": "FPR at TPR .90", "ap_negative": "AP of dislikes"}
SweepResults = dict[str, dict[str, dict[str, Metrics]]]
"""Value -> seed -> `model` or `bias model` -> metrics on test rows."""


def sweep(checkpoint: Checkpoint, over: str, values: Sequence[str], seeds: int) -> SweepResults:
    """Train what the checkpoint lacks, from the config's seed on; a ConfigError for a wrong value."""
    models = checkpoint.models
    configs = {value: _with_value(checkpoint.config, over, value) for value in values}
    results: SweepResults = {}
    for value, config in configs.items():
        if over in ("llm", "captioner"):
            models = open_models(config, store=models.store)
        results[value], ratio = {}, float(value) if over == "imbalance" else None
        for seed in range(config.seed, config.seed + seeds):
            seed_config = config.model_copy(update={"seed": seed})
            compute = partial(_train_and_evaluate, checkpoint.reviews, seed_config, models, ratio)
            if metrics := checkpoint.get(f"{value}, seed {seed}", compute):
                results[value][str(seed)] = metrics
    return results


def _with_value(config: Config, over: str, value: str) -> Config:
    section, name, usual = SWEPT_SETTINGS[over]
    tree = {**config.model_dump(), "engine": config.engine}
    try:
        if over == "imbalance" and float(value) > 0:
            return config
        return Config.model_validate({**tree, section: {**tree.get(section, {}), name: value}})
    except ValueError as error:
        values = ", ".join(usual)
        problem = f"--over {over} cannot be {value}"
        raise ConfigError(f"{problem}; usual values are {values}") from error


def _train_and_evaluate(
    reviews: Reviews, config: Config, models: Models, ratio: float | None
) -> dict[str, Metrics] | None:
    """Metrics on test rows; None where `drop_dislikes` cannot make the ratio."""
    prepared = prepare_data(reviews, config, models)
    thinned = prepared if ratio is None else drop_dislikes(prepared, ratio)
    if thinned is None:
        return None
    task = thinned.baseline_task
    probability = {"model": train_model(thinned).probability}
    probability[BIAS_MODEL] = task.calibrate(choose_bias_model(task))
    weights = class_weights(task.label[task.split.train], config.training.loss)
    test, label = task.split.test, task.label[task.split.test]
    return {name: evaluate(label, p[test], weights) for name, p in probability.items()}


def drop_dislikes(prepared: PreparedData, ratio: float) -> PreparedData | None:
    """Drop dislikes of evidence rows until there are `ratio` likes to each; None if too few are left."""
    config, split, label = prepared.config, prepared.split, prepared.label

    def thin(rows: np.ndarray) -> np.ndarray:
        likes, dislikes = rows[label[rows]], rows[~label[rows]]
        # The order does not depend on the ratio, so a lower ratio keeps more of the same.
        shuffled = np.random.default_rng([config.seed, len(rows)]).permutation(dislikes)
        return np.sort(np.append(likes, shuffled[: round(len(likes) / ratio)]))

    train, valid = thin(split.train), thin(split.valid)
    smallest = min((~label[train]).sum(), (~label[valid]).sum())
    likes, dislikes = label[split.train].sum(), (~label[split.train]).sum()
    if smallest < 5 or likes > ratio * dislikes:
        return None
    split = replace(split, train=train, valid=valid, filtered_rows=thin(split.filtered_rows))
    rng = np.random.default_rng(config.seed)
    policy, folds = config.evidence.policy, config.evidence.folds
    evidence = Evidence.derive(prepared.dataset.data, split, policy, folds, rng)
    prepared.dataset.part = evidence.fold
    return replace(prepared, split=split, evidence=evidence)


def _means(results: SweepResults) -> pl.DataFrame:
    """Number of `seeds`, mean and `_error` of each metric, by value and model."""
    rows = []
    for value, seeds in results.items():
        for models in seeds.values():
            for name, metrics in models.items():
                rows.append((value, name, *map(metrics.get, _METRICS)))
    table = pl.DataFrame(rows, ["value", "model", *_METRICS], orient="row")
    by_model = table.group_by("value", "model", maintain_order=True)
    metric = pl.col(*_METRICS)
    error = metric.std().fill_null(0) / pl.len().sqrt()
    return by_model.agg(metric.mean(), error.name.suffix("_error"), seeds=pl.len())


def sweep_table(results: SweepResults, over: str) -> ResultTable:
    """The model's metrics and the bias model's, by value; values without results are left out."""
    rows, seed_count = [], max(map(len, results.values()))
    for mean in _means(results).iter_rows(named=True):
        row = [mean["value"], mean["model"]]
        if mean["seeds"] < seed_count:
            row[0] += f" ({mean['seeds']} of {seed_count})"
        for name in _METRICS:
            row.append(f"{mean[name]:.4f} ±{mean[f'{name}_error']:.4f}")
        rows.append(row)
    note = f"test, mean ±standard error over {seed_count} seeds"
    notes = [f"{note}; imbalances without rows: too few dislikes"]
    return ResultTable(f"Over {over}", [over, "", *_METRICS.values()], rows, notes=notes)


def sweep_page(results: SweepResults, over: str, model: str, path: Path, command: str) -> Path:
    """Write the page of what `sweep` returned for `model`."""
    panels, table, means = [], sweep_table(results, over), _means(results)
    for metric, better in (("auc", "up"), ("fpr_at_90", "down")) if table.rows else ():
        title, curves = f"{_METRICS[metric]}: {better} is better", {}
        for key, rows in means.group_by("model", maintain_order=True):
            value, error = rows[metric], rows[f"{metric}_error"]
            name = model if key == ("model",) else "bias model"
            curves[name] = [*zip(rows["value"], value, value - error, value + error, strict=True)]
        panels.append(interval_chart(curves, over, title, f"sweep-{metric}"))
    content: dict[str, Any] = {"panels": panels, "results": table, "model": model}
    return write_page(path, f"Sweep over {over}", command, "sweep", **content)
