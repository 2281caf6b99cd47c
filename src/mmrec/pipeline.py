"""From a corpus and a split to a trained model: features, then the ranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from safetensors.torch import load, save

from mmrec.config import Config
from mmrec.data.split import Split
from mmrec.evaluation import class_weights
from mmrec.evidence.policies import Evidence
from mmrec.features.builder import Assembler, assemble
from mmrec.features.dataset import Corpus
from mmrec.features.groups import dense_columns
from mmrec.features.tables import Features
from mmrec.ranker.dlrm import Ranker, Run
from mmrec.ranker.inputs import Inputs
from mmrec.ranker.linear import fit_linear
from mmrec.ranker.shard import Share
from mmrec.ranker.training import History, Task, logits, train

__all__ = ["Model", "learn", "train_runs"]


@dataclass(frozen=True)
class Model:
    """A trained ranker with all that its features are made with.

    Attributes:
        assembler: makes features.
        ranker: gives logits, with the loss's class weights in them.
        weights: those of (dislike, like).
        course: what happened in training, by step and run.
    """

    assembler: Assembler
    ranker: Ranker
    weights: tuple[float, float]
    course: dict[str, list[History]]

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """(B,) probability of a like from (R, B) logits: runs averaged, class weights taken out (w0 / w1)."""
        shift = np.log(self.weights[0] / self.weights[1])
        return np.asarray(1 / (1 + np.exp(-(logit.astype(np.float64).mean(0) + shift))))


def train_runs(
    assembler: Assembler, features: Features, label: np.ndarray, split: Split, runs: Sequence[Run]
) -> tuple[Ranker, dict[str, list[History]]]:
    """Train runs of one model side by side.

    Args:
        assembler, features: the model's inputs; the assembler's `config` says how to train.
        label: (n,) bool, likes.
        split: rows to learn from, and rows that choose the epoch.
        runs: what sets them apart.
    """
    config = assembler.config
    if config.engine.engine == "ray":
        from mmrec.distributed.training import train_together  # heavy, and an extra

        lean = assembler.model_copy(update={"effects": {}})
        work = partial(_trained, lean, features, label, split, runs)
        weights, course = train_together(config.engine, config.training.batch_size, work)
        ranker = _ranker(assembler, features, Inputs(features), runs)
        ranker.load_state_dict(load(weights))
        return ranker.eval(), course
    return _train_runs(assembler, features, label, split, runs, Share())


def _trained(*given: Any) -> tuple[bytes, dict[str, list[History]]]:
    """What `_train_runs` has trained, fit to be sent."""
    ranker, course = _train_runs(*given)
    return save(ranker.state_dict()), course


def _ranker(assembler: Assembler, features: Features, inputs: Inputs, runs: Sequence[Run]) -> Ranker:
    """A stack of runs, before training."""
    ranker = Ranker(assembler.shape(inputs, len(runs)), runs)
    if any(run.deaf for run in runs):
        ranker.hear(dense_columns(features), [run.deaf for run in runs])
    return ranker


def _train_runs(
    assembler: Assembler,
    features: Features,
    label: np.ndarray,
    split: Split,
    runs: Sequence[Run],
    share: Share,
) -> tuple[Ranker, dict[str, list[History]]]:
    """What `train_runs` does, by this process for its share."""
    config = assembler.config
    inputs = Inputs(features)
    on_test = config.training.select == "test"
    task = Task(inputs, label, split.train, split.test if on_test else split.valid, by_fpr=on_test)
    ranker = _ranker(assembler, features, inputs, runs)
    ranker.standardise(inputs, split.train)
    if ranker.linear is not None:
        free = np.array([name.endswith("rating effect") for name in dense_columns(features)])
        fit_linear(ranker, runs, inputs, label, split.train, split.valid, free)
    return ranker, train(ranker, runs, task, config.ranker, config.training, config.seed, share)


def learn(
    corpus: Corpus, evidence: Evidence, split: Split, config: Config
) -> tuple[Model, Features, np.ndarray]:
    """Train one model.

    Returns:
        The model; the features of all rows; (n,) probability of a like of every row.
    """
    assembler, features = assemble(corpus, evidence, config)
    label = corpus.data.rating >= config.like_rating
    weights = class_weights(label[split.train], config.training.loss)
    repeats = config.ranker.ensemble if config.ranker.features == "mmrec" else 1
    seeds = np.random.SeedSequence(config.seed).generate_state(repeats)
    runs = [Run(int(seed), config.ranker.dropout, weights) for seed in seeds]
    ranker, course = train_runs(assembler, features, label, split, runs)
    model = Model(assembler, ranker, weights, course)
    return model, features, model.probability(logits(ranker, Inputs(features), np.arange(len(label))))
