"""The paper's experiment, in its way (`paper`) and without its leaks (`honest`), on the same test rows.

What comes out is plain data by protocol and model, whose runs train as one stack. A stack has `seconds`;
`epochs` by step of training, of the run that took longest; number of `rows` by part; `remarks`; and `runs` in
order of `GRID`, then of repeats. A run has `loss`, `dropout`, `seed`, number of `epochs`, the `best` of them,
the `score` that chose it, and by part (`train`, `valid`, `test`; `paper` has no valid rows) figures, those of
`mmrec.evaluation.Scores` and `log_loss`: cross entropy without class weights, by which settings compare.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import log_loss

from mmrec.config import PaperConfig
from mmrec.console import console
from mmrec.data.schema import Reviews
from mmrec.errors import ConfigError
from mmrec.evaluation import evaluate
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.features.builder import build_features
from mmrec.features.dataset import Models
from mmrec.pipeline import PreparedData, TrainedModel, config_warnings, prepare_data, train_runs
from mmrec.ranker.dlrm import TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.loss import class_weights
from mmrec.ranker.training import predict_logits

__all__ = ["GRID", "MODELS", "PROTOCOLS", "prepare_protocol", "reproduce"]

PROTOCOLS, MODELS = ("paper", "honest"), ("baseline", "proposed")
GRID = tuple(product(("basic", "sqrt"), (0.1, 0.3, 0.5)))
"""Loss and dropout of every setting."""


def reproduce(
    reviews: Reviews,
    config: PaperConfig,
    models: Models,
    path: Path,
    repeats: int,
    protocols: list[str],
) -> dict[str, dict[str, Any]]:
    """Train each stack that the `Journal` at `path` does not hold yet, and write it there.

    Raises:
        ConfigError: no such protocol, no repeats, or a setting given that is `decided`.
        DataError: too few reviews, or a file at `path` that is no journal.
    """
    _check(config, repeats, protocols)
    journal, name = (
        Checkpoint(path, reviews, config, models),
        f"seed {config.seed}, {repeats} repeats",
    )
    done: dict[str, dict[str, Any]] = {one: {} for one in PROTOCOLS} | journal.results.get(name, {})
    for protocol in protocols:
        if missing := [model for model in MODELS if model not in done[protocol]]:
            prepared = prepare_protocol(reviews, config, models, protocol)
            for model in missing:
                console.print(
                    f"{protocol}, {model}: {len(GRID) * repeats} runs as one", highlight=False
                )
                done[protocol][model] = _stack(prepared, model, repeats)
                journal.put(name, done)
    return done


def prepare_protocol(
    reviews: Reviews, config: PaperConfig, models: Models, protocol: str
) -> PreparedData:
    """The rows, evidence and settings of a protocol; both have the same test rows.

    `paper` has no valid rows: they are train too, and test rows choose. Numbers leave a row's own review
    out, and summaries are made of all known reviews. `honest` is `fold`, and valid rows choose.
    """
    paper = protocol == "paper"
    policy, summaries, select = (
        ("leave_one_out", "all", "test") if paper else ("fold", "policy", "valid")
    )
    heard = {"policy": policy, "summaries": summaries, "filtered_rows": False}
    evidence = config.evidence.model_copy(update=heard)
    training = config.training.model_copy(update={"select": select})
    own = config.model_copy(update={"evidence": evidence, "training": training})
    prepared = prepare_data(reviews, own, models)
    split = replace(
        prepared.split, train=prepared.split.evidence_rows, valid=prepared.split.valid[:0]
    )
    return replace(prepared, split=split) if paper else prepared


def _check(config: PaperConfig, repeats: int, protocols: list[str]) -> None:
    if not protocols or set(protocols) - {*PROTOCOLS}:
        raise ConfigError(
            f"--protocols {','.join(protocols)}: name paper, honest, or both as paper,honest"
        )
    if repeats < 1:
        raise ConfigError(f"--repeats {repeats}: there must be at least 1; the paper has 5")
    parts = (config.evidence, config.ranker, config.training)
    given = set[str]().union(*(part.model_fields_set for part in parts))
    fixed = [name.replace("_", "-") for name in config.fixed_fields if name in given]
    if flags := ", ".join(f"--{name}" for name in fixed):
        raise ConfigError(
            f"{flags}: protocols and grid decide that; leave it out, or use `mmrec fit`"
        )


def _stack(prepared: PreparedData, name: str, repeats: int) -> dict[str, Any]:
    start = time.perf_counter()
    split, label, config = prepared.split, prepared.label, prepared.config
    config = config.model_copy(
        update={"ranker": config.ranker.model_copy(update={"features": name})}
    )
    assembler, features = build_features(prepared.dataset, prepared.evidence, config)
    # The same seeds in every setting, model and protocol, so that differences can be taken in pairs.
    seeds = np.random.SeedSequence(config.seed).generate_state(repeats).tolist()
    grid = [(*setting, seed) for setting in GRID for seed in seeds]
    runs = [
        TrainingRun(seed, dropout, class_weights(label[split.train], loss))
        for loss, dropout, seed in grid
    ]
    ranker, course = train_runs(assembler, features, label, split, runs)
    logit = predict_logits(ranker, RankerInputs(features), np.arange(len(label)))
    parts = {part: rows for part in ("train", "valid", "test") if len(rows := getattr(split, part))}
    trained = []
    for at, (loss, dropout, seed) in enumerate(grid):
        history, weights = course["ranker"][at], runs[at].class_weights
        p, best = (
            TrainedModel(assembler, ranker, weights, {}).probability(logit[at : at + 1]),
            history.best,
        )
        one: dict[str, Any] = {"loss": loss, "dropout": dropout, "seed": seed}
        one |= {"epochs": len(history.score), "best": best, "score": history.score[best]}
        for part, rows in parts.items():
            figures = evaluate(label[rows], p[rows], weights).dict()
            one[part] = figures | {"log_loss": float(log_loss(label[rows], p[rows]))}
        trained.append(one)
    blind = "" if assembler.image else f"{name}: no image block; `mmrec fit` says why"
    return {
        "seconds": time.perf_counter() - start,
        "epochs": {step: max(len(one.score) for one in own) for step, own in course.items()},
        "rows": {part: len(rows) for part, rows in parts.items()},
        "remarks": [
            *config_warnings(config),
            *filter(None, (prepared.dataset.models.annotator.failure_summary, blind)),
        ],
        "runs": trained,
    }
