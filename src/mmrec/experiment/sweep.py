"""One setting over a range of values, beside the bias model: what a model gains or loses by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmrec.config import Config
from mmrec.corpus import Models
from mmrec.errors import ConfigError
from mmrec.evidence import Evidence
from mmrec.experiment.compare import Prepared, prepare
from mmrec.experiment.journal import Journal
from mmrec.experiment.peers import bias_model, calibrated
from mmrec.experiment.tables import Table
from mmrec.learning import learn
from mmrec.metrics import class_weights, evaluate, mean_and_error
from mmrec.reviews.table import Reviews

__all__ = ["OVER", "Points", "imbalanced", "sweep", "table"]

OVER = {
    "imbalance": ("", "", ("2", "5", "10", "20", "50")),
    "K": ("evidence", "folds", ("2", "3", "5", "10", "20")),
    "policy": ("evidence", "policy", ("fold", "leave_one_out", "all", "past")),
    "reduction": ("ranker", "reduction", ("staged", "joint")),
    "llm": ("language", "llm", ()),
    "captioner": ("vision", "captioner", ()),
}
"""What can be swept: the part and field of `Config` that is set, and usual values."""
Points = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Value -> seed -> `model` or `bias model` -> figures of `metrics.Scores` on test rows."""
_FIGURES = {"auc": "ROC-AUC", "fpr_at_90": "FPR at TPR .90", "ap_negative": "AP of dislikes"}
_FEWEST = 5


def sweep(
    reviews: Reviews, config: Config, models: Models, path: Path, over: str, values: Sequence[str], seeds: int
) -> Points:
    """Train and judge what the `Journal` at `path` does not hold yet, for so many seeds from the config's on.

    A point of imbalance that the data cannot give is left out.

    Raises:
        ConfigError: the setting does not take a value.
        DataError: too few reviews.
    """
    journal, tried = Journal(path, reviews, config), range(config.seed, config.seed + seeds)
    for value in values:
        own = _set(config, over, value)
        reading = Models.open(own, store=models.store) if over in ("llm", "captioner") else models
        for seed in tried:
            known = journal.results.get(value, {})
            if str(seed) not in known:
                prepared = prepare(reviews, own.model_copy(update={"seed": seed}), reading)
                thin = imbalanced(prepared, float(value)) if over == "imbalance" else prepared
                journal.put(value, known | ({str(seed): _point(thin)} if thin else {}))
    wanted = {str(seed) for seed in tried}
    return {v: {s: p for s, p in journal.results[v].items() if s in wanted} for v in values}


def imbalanced(prepared: Prepared, ratio: float) -> Prepared | None:
    """The same without some dislikes of known rows, so that there are `ratio` likes to each; test stays.

    What is left out is not known at all: nobody learns from it, chooses by it or hears it. What stays at a
    ratio stays at every lower one. None where the data have no more dislikes, or would keep too few.
    """
    config, split, label = prepared.config, prepared.split, prepared.label

    def thinned(rows: np.ndarray) -> np.ndarray:
        dislikes = np.random.default_rng([config.seed, len(rows)]).permutation(rows[~label[rows]])
        return np.sort(np.append(rows[label[rows]], dislikes[: round(label[rows].sum() / ratio)]))

    thin = replace(split, train=thinned(split.train), valid=thinned(split.valid), spare=thinned(split.spare))
    fewest = min((~label[rows]).sum() for rows in (thin.train, thin.valid))
    if fewest < _FEWEST or label[split.train].sum() > ratio * (~label[split.train]).sum():
        return None
    rng, rule = np.random.default_rng(config.seed), config.evidence
    evidence = Evidence.derive(prepared.corpus.data, thin, rule.policy, rule.folds, rng)
    prepared.corpus.part = evidence.fold
    return replace(prepared, split=thin, evidence=evidence)


def table(points: Points, over: str) -> Table:
    """The model's figures and the bias model's, by value."""
    rows = []
    for value, seeds in points.items():
        rows.append([value, str(len(seeds))])
        for key in _FIGURES:
            for who in ("model", "bias model"):
                mean, error = mean_and_error([point[who][key] for point in seeds.values()])
                rows[-1].append(f"{mean:.4f} ±{error:.4f}" if seeds else "")
    header = [over, "seeds", *(name for title in _FIGURES.values() for name in (title, "bias model"))]
    notes = ["mean ±standard error over seeds, on test rows; empty where the data have too few dislikes"]
    return Table(f"Over {over}", header, rows, frozenset(), notes)


def _set(config: Config, over: str, value: str) -> Config:
    (part, name, usual), tree = OVER[over], config.model_dump()
    try:
        if over == "imbalance" and float(value) > 0:
            return config
        return Config.model_validate({**tree, part: {**tree.get(part, {}), name: value}})
    except ValueError as error:
        raise ConfigError(f"--over {over} cannot be {value}; usual values are {', '.join(usual)}") from error


def _point(prepared: Prepared) -> dict[str, dict[str, float]]:
    data, split, label, config = prepared.corpus.data, prepared.split, prepared.label, prepared.config
    weights, test = class_weights(label[split.train], config.training.loss), split.test
    p = {"model": learn(prepared.corpus, prepared.evidence, split, config)[2]}
    p["bias model"] = calibrated(bias_model(data, split, label), data, split, label)
    return {name: evaluate(label[test], one[test], weights).dict() for name, one in p.items()}
