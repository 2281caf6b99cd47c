"""The paper's models and ours beside baselines, on one split, with the same evidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.evaluation.metrics import Metrics, evaluate
from mmrec.experiments.baselines import simple_baseline_probabilities
from mmrec.experiments.trained_baselines import trained_baseline_probabilities
from mmrec.features.dataset import Models
from mmrec.pipeline import PreparedData, TrainingResult, prepare_data, train_model
from mmrec.ranker.training import class_weights

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """The results of one run, by name of the model; baselines come first."""

    prepared: PreparedData
    metrics: dict[str, Metrics]  # on the test rows
    probability: dict[str, np.ndarray]  # (n,) of a like, of every row
    trained: dict[str, TrainingResult] = field(default_factory=dict)  # without baselines
    seconds: dict[str, float] = field(default_factory=dict)  # to build features and train
    remarks: list[str] = field(default_factory=list)  # what readers of the metrics must know


def compare(
    reviews: Reviews,
    config: Config,
    models: Models,
    model_names: Sequence[str] = ("baseline", "proposed", "mmrec"),
    *,
    trained_baselines: bool = False,
) -> Comparison:
    """Train baselines and models on one split, and evaluate them on its test rows.

    `config.ranker.features` is replaced by each of `model_names`. `trained_baselines` adds those
    that take features.
    """
    prepared = prepare_data(reviews, config, models)
    dataset, split, label = prepared.dataset, prepared.split, prepared.label
    probability = simple_baseline_probabilities(dataset.data, split, label)
    if set(model_names) - {"baseline"} and config.annotation.strategy == "notes":
        _ = dataset.notes  # Annotate first, to fail early.
    result = Comparison(prepared, {}, probability, remarks=config.warnings())
    for name in model_names:
        start = time.perf_counter()
        ranker = config.ranker.model_copy(update={"features": name})
        named_config = config.model_copy(update={"ranker": ranker})
        trained = train_model(replace(prepared, config=named_config))
        result.seconds[name] = time.perf_counter() - start
        result.trained[name], probability[name] = trained, trained.probability
        if remark := _photo_remark(name, trained):
            result.remarks.append(f"{name}: {remark}")
    if trained_baselines:
        start = time.perf_counter()
        # Features of the paper's model; ours hold fitted effects, which are part of the ranker.
        source = result.trained.get("proposed") or next(iter(result.trained.values()))
        inputs = source.features, dataset.data, split, label, config.seed
        added, remarks = trained_baseline_probabilities(*inputs)
        result.seconds["trained baselines"] = time.perf_counter() - start
        probability.update(added)
        result.remarks.extend(remarks)
    if failures := models.annotator.failure_summary:
        result.remarks.append(f"{models.annotator.note_provenance['model']}: {failures}")
    weights = class_weights(label[split.train], config.training.loss)
    # False sorts before True: baselines first.
    for name in sorted(probability, key=lambda name: name in result.trained):
        test_probability = probability[name][split.test]
        result.metrics[name] = evaluate(label[split.test], test_probability, weights)
    return result


def _photo_remark(name: str, trained: TrainingResult) -> str:
    """Why a model has no photos, or which captions failed; else empty."""
    dataset, evidence = trained.prepared.dataset, trained.prepared.evidence
    if trained.model.builder.image:
        return "" if name == "baseline" else str(dataset.captions)
    if not dataset.has_photos(evidence.evidence_rows, captions=name != "baseline"):
        return "no image block, since no item has a photo"
    model = trained.prepared.config.vision.image_model
    return (
        f"no image block, since the weights of {model} are not here; name a folder that holds them "
        f"with --image-model, or bring them with `hf download {model}`"
    )
