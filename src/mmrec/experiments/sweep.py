"""One setting over a range of values, beside the bias model: what a model gains or loses by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.errors import ConfigError
from mmrec.evaluation.metrics import Metrics, evaluate, mean_and_standard_error
from mmrec.evidence.policies import Evidence
from mmrec.experiments.baselines import calibrate, choose_bias_model
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.report.html import ResultTable
from mmrec.features.dataset import Models
from mmrec.pipeline import PreparedData, open_models, prepare_data, train_model
from mmrec.ranker.training import class_weights

__all__ = ["SWEPT_SETTINGS", "SweepResults", "drop_dislikes", "sweep", "sweep_table"]

SWEPT_SETTINGS = {
    "imbalance": ("", "", ("2", "5", "10", "20", "50")),
    "K": ("evidence", "folds", ("2", "3", "5", "10", "20")),
    "policy": ("evidence", "policy", ("fold", "leave_one_out", "all", "past")),
    "reduction": ("ranker", "reduction", ("staged", "joint")),
    "llm": ("language", "llm", ()),
    "captioner": ("vision", "captioner", ()),
}
"""What can be swept: the section and field of `Config` that is set, and usual values."""
SweepResults = dict[str, dict[str, dict[str, Metrics]]]
"""Value -> seed -> `model` or `bias model` -> metrics on test rows."""


def sweep(
    reviews: Reviews,
    config: Config,
    models: Models,
    path: Path,
    over: str,
    values: Sequence[str],
    seeds: int,
) -> SweepResults:
    """Train what the `Checkpoint` at `path` lacks, for `seeds` seeds from the config's on.

    Raises:
        ConfigError: the setting does not take a value.
        DataError: too few reviews, or a file at `path` that is no checkpoint.
    """
    configs = {value: _with_value(config, over, value) for value in values}
    checkpoint = Checkpoint(path, reviews, config, models)
    seed_names = [str(seed) for seed in range(config.seed, config.seed + seeds)]
    results: SweepResults = {}
    for value, changed in configs.items():
        # Other models; the store keeps what they answered before.
        if over in ("llm", "captioner"):
            models = open_models(changed, store=models.store)
        done = checkpoint.results.get(value, {})
        for seed in seed_names:
            if seed in done:
                continue
            prepared = prepare_data(reviews, changed.model_copy(update={"seed": int(seed)}), models)
            thinned = prepared if over != "imbalance" else drop_dislikes(prepared, float(value))
            if thinned:
                done[seed] = _train_and_evaluate(thinned)
            checkpoint.put(value, done)
        results[value] = {seed: done[seed] for seed in seed_names if seed in done}
    return results


def drop_dislikes(
    prepared: PreparedData, ratio: float, min_dislikes: int = 5
) -> PreparedData | None:
    """Drop dislikes of evidence rows, so that there are `ratio` likes to each; test stays.

    Dropped rows are not used at all: neither to train, nor to choose, nor as evidence. What is kept
    at a ratio is kept at every lower one. None where the data have no more dislikes, or would keep
    fewer than `min_dislikes` in train or valid.
    """
    config, split, label = prepared.config, prepared.split, prepared.label

    def thin(rows: np.ndarray) -> np.ndarray:
        likes, dislikes = rows[label[rows]], rows[~label[rows]]
        # The order does not depend on the ratio, so a lower ratio keeps more of the same.
        shuffled = np.random.default_rng([config.seed, len(rows)]).permutation(dislikes)
        return np.sort(np.append(likes, shuffled[: round(len(likes) / ratio)]))

    train, valid = thin(split.train), thin(split.valid)
    smallest = min((~label[train]).sum(), (~label[valid]).sum())
    likes, dislikes = label[split.train].sum(), (~label[split.train]).sum()
    if smallest < min_dislikes or likes > ratio * dislikes:
        return None
    split = replace(split, train=train, valid=valid, filtered_rows=thin(split.filtered_rows))
    # Folds are assigned anew to the rows that are left.
    rng = np.random.default_rng(config.seed)
    policy, folds = config.evidence.policy, config.evidence.folds
    evidence = Evidence.derive(prepared.dataset.data, split, policy, folds, rng)
    prepared.dataset.part = evidence.fold
    return replace(prepared, split=split, evidence=evidence)


def _with_value(config: Config, over: str, value: str) -> Config:
    section, name, usual = SWEPT_SETTINGS[over]
    tree = {**config.model_dump(), "engine": config.engine}
    try:
        if over == "imbalance" and float(value) > 0:
            return config
        return Config.model_validate({**tree, section: {**tree.get(section, {}), name: value}})
    except ValueError as error:
        values = ", ".join(usual)
        raise ConfigError(f"--over {over} cannot be {value}; usual values are {values}") from error


def _train_and_evaluate(prepared: PreparedData) -> dict[str, Metrics]:
    data, split, label = prepared.dataset.data, prepared.split, prepared.label
    probability = train_model(prepared).probability
    bias_probability = calibrate(choose_bias_model(data, split, label), data, split, label)
    weights = class_weights(label[split.train], prepared.config.training.loss)
    test = split.test
    return {
        "model": evaluate(label[test], probability[test], weights),
        "bias model": evaluate(label[test], bias_probability[test], weights),
    }


def sweep_table(results: SweepResults, over: str) -> ResultTable:
    """The model's metrics and the bias model's, by value; values without results are left out."""
    columns = {"auc": "ROC-AUC", "fpr_at_90": "FPR at TPR .90", "ap_negative": "AP of dislikes"}
    rows, seed_count = [], max(map(len, results.values()))
    for value, seeds in results.items():
        name = value if len(seeds) == seed_count else f"{value} ({len(seeds)} of {seed_count})"
        for model in ("model", "bias model") if seeds else ():
            row = [name, model]
            for metric in columns:
                values = [metrics[model][metric] for metrics in seeds.values()]
                mean, error = mean_and_standard_error(values)
                row.append(f"{mean:.4f} ±{error:.4f}")
            rows.append(row)
    note = f"test, mean ±standard error over {seed_count} seeds; "
    note += "imbalances without rows: too few dislikes"
    return ResultTable(f"Over {over}", [over, "", *columns.values()], rows, notes=[note])
