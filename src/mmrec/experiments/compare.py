"""Baseline and proposed beside the simple peers, on one split, from the same evidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.evaluation import Metrics, evaluate
from mmrec.experiments.baselines import baseline_probabilities
from mmrec.experiments.trained_baselines import trained_baseline_probabilities
from mmrec.features.dataset import Models
from mmrec.features.tables import Features
from mmrec.pipeline import (
    PreparedData,
    TrainedModel,
    TrainingResult,
    config_warnings,
    prepare_data,
    train_model,
)
from mmrec.ranker.loss import class_weights

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What came out of one run.

    Attributes:
        prepared: the data.
        metrics: name -> figures on the test rows; peers first.
        probability: name -> (n,) probability of a like of every row.
        thresholds: of the trained ones, the probability from which on to recommend, chosen on valid.
        trained, models, features: of the trained ones, by name.
        seconds: name -> time taken by preparing features and training.
        remarks: what was skipped or must be known to read the figures.
    """

    prepared: PreparedData
    metrics: dict[str, Metrics]
    probability: dict[str, np.ndarray]
    thresholds: dict[str, float] = field(default_factory=dict)
    trained: dict[str, TrainingResult] = field(default_factory=dict)
    models: dict[str, TrainedModel] = field(default_factory=dict)
    features: dict[str, Features] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def compare(
    reviews: Reviews,
    config: Config,
    models: Models,
    model_names: Sequence[str] = ("baseline", "proposed", "mmrec"),
    *,
    trained_baselines: bool = False,
) -> Comparison:
    """Run the peers and the models named on one split.

    Args:
        reviews: as read; filtered here.
        config: everything else; `config.ranker.features` is replaced by each of `model_names`.
        models: what reads.
        model_names: any of `baseline`, `proposed` and `mmrec`.
        trained_baselines: whether to train the peers too that take features (`trained_baselines.py`).
    """
    prepared = prepare_data(reviews, config, models)
    split, label = prepared.split, prepared.label
    weights = class_weights(label[split.train], config.training.loss)
    probability = baseline_probabilities(prepared.dataset.data, split, label)
    if set(model_names) - {"baseline"} and config.annotation.strategy == "notes":
        _ = prepared.dataset.notes  # What may fail goes before what takes long.
    result = Comparison(prepared, {}, probability, remarks=config_warnings(config))
    for name in model_names:
        start = time.perf_counter()
        ranker = config.ranker.model_copy(update={"features": name})
        own = config.model_copy(update={"ranker": ranker})
        trained = train_model(replace(prepared, config=own))
        result.trained[name], probability[name] = trained, trained.probability
        result.models[name], result.features[name] = trained.model, trained.features
        result.seconds[name] = time.perf_counter() - start
        result.thresholds[name] = trained.threshold
        result.remarks.extend(_pictures(name, prepared, trained.model, config))
    if trained_baselines:
        start = time.perf_counter()
        # The features of the paper's model; ours come with fitted effects, which are part of the ranker.
        features = result.features.get("proposed") or next(iter(result.features.values()))
        others, remarks = trained_baseline_probabilities(
            features, prepared.dataset.data, split, label, config.seed
        )
        probability.update(others)
        result.remarks.extend(remarks)
        result.seconds["peers"] = time.perf_counter() - start
    if failed := models.annotator.failure_summary:
        result.remarks.append(f"{models.annotator.note_provenance['model']}: {failed}")
    for name in sorted(probability, key=lambda name: name in result.models):  # peers first
        result.metrics[name] = evaluate(label[split.test], probability[name][split.test], weights)
    return result


def _pictures(name: str, prepared: PreparedData, model: TrainedModel, config: Config) -> list[str]:
    """What must be known of the photos that a model was trained with, or without."""
    corpus = prepared.dataset
    if model.builder.image:
        failed = "" if name == "baseline" else str(corpus.captions)
        return [f"{name}: {failed}"] if failed else []
    if not corpus.has_photos(prepared.evidence.evidence_rows, captions=name != "baseline"):
        return [f"{name}: no image block, since no item has a photo"]
    model_name = config.vision.image_model
    return [
        f"{name}: no image block, since the weights of {model_name} are not here; name a folder that holds "
        f"them with --image-model, or bring them with `hf download {model_name}`"
    ]
