"""One setting over a range of values, beside the bias model: what a model gains or loses by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.errors import ConfigError
from mmrec.evaluation import evaluate, mean_and_standard_error
from mmrec.evidence.policies import Evidence
from mmrec.experiments.baselines import bias_model, calibrated
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.report.tables import Table
from mmrec.features.dataset import Models
from mmrec.pipeline import PreparedData, open_models, prepare_data, train_model
from mmrec.ranker.loss import class_weights

__all__ = ["SWEPT_SETTINGS", "SweepResults", "drop_dislikes", "sweep", "sweep_table"]

SWEPT_SETTINGS = {
    "imbalance": ("", "", ("2", "5", "10", "20", "50")),
    "K": ("evidence", "folds", ("2", "3", "5", "10", "20")),
    "policy": ("evidence", "policy", ("fold", "leave_one_out", "all", "past")),
    "reduction": ("ranker", "reduction", ("staged", "joint")),
    "llm": ("language", "llm", ()),
    "captioner": ("vision", "captioner", ()),
}
"""What can be swept: the part and field of `Config` that is set, and usual values."""
SweepResults = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Value -> seed -> `model` or `bias model` -> figures of `metrics.Scores` on test rows."""
_FIGURES = {"auc": "ROC-AUC", "fpr_at_90": "FPR at TPR .90", "ap_negative": "AP of dislikes"}
_FEWEST = 5


def sweep(
    reviews: Reviews,
    config: Config,
    models: Models,
    path: Path,
    over: str,
    values: Sequence[str],
    seeds: int,
) -> SweepResults:
    """Train and judge what the `Journal` at `path` does not hold yet, for so many seeds from the config's on.

    Raises:
        ConfigError: the setting does not take a value.
        DataError: too few reviews, or a file at `path` that is no journal.
    """
    settings = {value: _set(config, over, value) for value in values}
    journal, tried = (
        Checkpoint(path, reviews, config, models),
        range(config.seed, config.seed + seeds),
    )
    for value, own in settings.items():
        reading = open_models(own, store=models.store) if over in ("llm", "captioner") else models
        for seed in tried:
            if str(seed) not in (known := journal.results.get(value, {})):
                prepared = prepare_data(reviews, own.model_copy(update={"seed": seed}), reading)
                thin = drop_dislikes(prepared, float(value)) if over == "imbalance" else prepared
                journal.put(value, {**known, **({str(seed): _point(thin)} if thin else {})})
    held = {value: journal.results[value] for value in settings}
    return {
        value: {str(s): own[str(s)] for s in tried if str(s) in own} for value, own in held.items()
    }


def drop_dislikes(prepared: PreparedData, ratio: float) -> PreparedData | None:
    """The same without some dislikes of known rows, so that there are `ratio` likes to each; test stays.

    What is left out is not known at all: nobody learns from it, chooses by it or hears it. What stays at a
    ratio stays at every lower one. None where the data have no more dislikes, or would keep too few.
    """
    config, split, label = prepared.config, prepared.split, prepared.label

    def thinned(rows: np.ndarray) -> np.ndarray:
        dislikes = np.random.default_rng([config.seed, len(rows)]).permutation(rows[~label[rows]])
        return np.sort(np.append(rows[label[rows]], dislikes[: round(label[rows].sum() / ratio)]))

    thin = replace(
        split,
        train=thinned(split.train),
        valid=thinned(split.valid),
        filtered_rows=thinned(split.filtered_rows),
    )
    fewest = min((~label[rows]).sum() for rows in (thin.train, thin.valid))
    if fewest < _FEWEST or label[split.train].sum() > ratio * (~label[split.train]).sum():
        return None
    rng, rule = np.random.default_rng(config.seed), config.evidence
    evidence = Evidence.derive(prepared.dataset.data, thin, rule.policy, rule.folds, rng)
    prepared.dataset.part = evidence.fold
    return replace(prepared, split=thin, evidence=evidence)


def sweep_table(points: SweepResults, over: str) -> Table:
    """The model's figures and the bias model's, by value; values without a point are left out."""
    rows, most = [], max(map(len, points.values()))
    for value, seeds in points.items():
        for who in ("model", "bias model") if seeds else ():
            spreads = [
                mean_and_standard_error([point[who][key] for point in seeds.values()])
                for key in _FIGURES
            ]
            name = value if len(seeds) == most else f"{value} ({len(seeds)} of {most})"
            rows.append([name, who, *(f"{mean:.4f} ±{error:.4f}" for mean, error in spreads)])
    notes = [
        f"test, mean ±standard error over {most} seeds; imbalances without rows: too few dislikes"
    ]
    return Table(f"Over {over}", [over, "", *_FIGURES.values()], rows, frozenset(), notes)


def _set(config: Config, over: str, value: str) -> Config:
    (part, name, usual), tree = (
        SWEPT_SETTINGS[over],
        {**config.model_dump(), "engine": config.engine},
    )
    try:
        if over == "imbalance" and float(value) > 0:
            return config
        return Config.model_validate({**tree, part: {**tree.get(part, {}), name: value}})
    except ValueError as error:
        raise ConfigError(
            f"--over {over} cannot be {value}; usual values are {', '.join(usual)}"
        ) from error


def _point(prepared: PreparedData) -> dict[str, dict[str, float]]:
    data, split, label, config = (
        prepared.dataset.data,
        prepared.split,
        prepared.label,
        prepared.config,
    )
    p = {"model": train_model(prepared).probability}
    p["bias model"] = calibrated(bias_model(data, split, label), data, split, label)
    weights, test = class_weights(label[split.train], config.training.loss), split.test
    return {name: evaluate(label[test], one[test], weights).dict() for name, one in p.items()}
