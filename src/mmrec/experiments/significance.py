"""How certain the metrics of a comparison are; metrics of slices, of lists and at thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrec.console import track
from mmrec.evaluation.list_metrics import ListMetrics, ListTask, full_lists, sampled_lists
from mmrec.evaluation.metrics import Metrics, slice_masks, slice_metrics
from mmrec.evaluation.statistics import (
    Difference,
    bootstrap_interval,
    holm_correction,
    paired_bootstrap,
    weighted_auc,
    weighted_fpr_at_tpr,
)
from mmrec.evaluation.thresholds import ThresholdRates, rates_at_threshold
from mmrec.evidence.views import EvidenceViews
from mmrec.experiments.baselines import ALWAYS_LIKE
from mmrec.experiments.compare import Comparison
from mmrec.features.tables import EntityFeatures, Features
from mmrec.llm.types import PRICE_TAGS
from mmrec.pipeline import PreparedData, TrainedModel
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.training import predict_logits

__all__ = ["BOOTSTRAPPED_METRICS", "Assessment", "assess"]

BOOTSTRAPPED_METRICS = {"auc": weighted_auc, "fpr_at_90": weighted_fpr_at_tpr}
"""Metrics that get an interval."""


@dataclass(frozen=True)
class Assessment:
    """Values on test rows by model; intervals are 95% by a bootstrap over users."""

    reference: str  # the model that others are compared with
    intervals: dict[str, dict[str, tuple[float, float, float]]]  # metric -> (value, low, high)
    differences: dict[str, dict[str, Difference]]  # metric -> to the reference, p by Holm
    operating_points: dict[str, tuple[float, ThresholdRates]]  # threshold chosen on valid
    lists: dict[str, dict[str, ListMetrics]]  # `sampled` and `full` candidate lists
    slices: dict[str, dict[str, Metrics]]  # slice -> metrics

    def as_dict(self) -> dict[str, Any]:
        """For JSON: tuples with names become dictionaries."""
        result: dict[str, Any] = _plain(vars(self))
        for model, (threshold, rates) in self.operating_points.items():
            result["operating_points"][model] = {"threshold": threshold} | rates._asdict()
        return result


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(element) for key, element in value.items()}
    return value


def assess(comparison: Comparison, reference: str = "bias model", rounds: int = 500) -> Assessment:
    """Assess every model on the test rows; at least one must be trained. `rounds` of the bootstrap."""
    prepared, trained = comparison.prepared, comparison.trained
    test, seed = prepared.split.test, prepared.config.seed
    label, user = prepared.label[test], prepared.dataset.data.user[test]
    on_test = {name: p[test] for name, p in comparison.probability.items() if name != ALWAYS_LIKE}
    intervals: dict[str, dict[str, tuple[float, float, float]]] = {}
    differences: dict[str, dict[str, Difference]] = {}
    with track("assessing", len(on_test)) as advance:
        for name, p in on_test.items():
            intervals[name], gaps, pair = {}, {}, (p, on_test[reference])
            for key, metric in BOOTSTRAPPED_METRICS.items():
                intervals[name][key] = bootstrap_interval(user, label, p, metric, rounds, seed)
                if name != reference:
                    gaps[key] = paired_bootstrap(user, label, *pair, metric, rounds, seed)
            if gaps:
                differences[name] = gaps
            advance(1)
    # As many tests as models, for each metric.
    for key in BOOTSTRAPPED_METRICS:
        corrected = holm_correction([gaps[key].p_value for gaps in differences.values()])
        for gaps, p_value in zip(differences.values(), corrected, strict=True):
            gaps[key] = gaps[key]._replace(p_value=float(p_value))
    operating_points = {}
    for name, result in trained.items():
        rates = rates_at_threshold(label, on_test[name], result.threshold)
        operating_points[name] = result.threshold, rates
    # The last features: the paper's baseline, which comes first, has no price.
    masks = _slice_masks(prepared, list(trained.values())[-1].features)
    weights = next(iter(trained.values())).model.class_weights
    slices, lists = {}, {}
    for name in (reference, *trained):
        slices[name] = slice_metrics(label, on_test[name], weights, masks)
    for name, result in trained.items():
        lists[name] = _list_metrics(prepared, result.model)
    return Assessment(reference, intervals, differences, operating_points, lists, slices)


def _slice_masks(prepared: PreparedData, features: Features) -> dict[str, np.ndarray]:
    """Slices of the test rows, by what the evidence rows tell of their user and item."""
    dataset, test, evidence = prepared.dataset, prepared.split.test, prepared.split.evidence_rows
    data = dataset.data
    user_count = np.bincount(data.user[evidence], minlength=len(data.users))[data.user[test]]
    item_count = np.bincount(data.item[evidence], minlength=len(data.items))[data.item[test]]
    # (items,): photos or captions of the item itself, or of an evidence review
    has_photo = np.zeros(len(data.items), dtype=bool)
    for item in range(len(data.items)):
        has_photo[item] = bool(dataset.item_photos[item] or dataset.item_captions[item])
    for row in evidence:
        has_photo[data.item[row]] |= bool(dataset.photos[row] or dataset.review_captions[row])
    price = _price_tags(features.item, features.item_view[test])
    return slice_masks(user_count, item_count, has_photo[data.item[test]], price)


def _price_tags(items: EntityFeatures, view: np.ndarray) -> np.ndarray:
    """(n,) the most frequent price tag of each view; `none` where no review mentions the price."""
    tags = [tag for tag in PRICE_TAGS if tag in items.names]
    if not tags:
        return np.full(len(view), "none")
    columns = [items.names.index(tag) for tag in tags]
    shares = items.dense[view][:, columns]  # (n, tags)
    return np.where(shares.any(axis=1), np.array(tags)[shares.argmax(axis=1)], "none")


def _list_metrics(prepared: PreparedData, model: TrainedModel) -> dict[str, ListMetrics]:
    """Metrics of candidate lists, scored with features of all evidence rows."""
    dataset, split, seed = prepared.dataset, prepared.split, prepared.config.seed
    data = dataset.data
    pairs = np.stack([data.user, data.item], axis=1)
    likes = prepared.label[split.test]
    task = ListTask(pairs[split.evidence_rows], pairs[split.test], likes, len(data.items))
    user_views = EvidenceViews.all_reviews(data.user, split.evidence_rows)
    item_views = EvidenceViews.all_reviews(data.item, split.evidence_rows)
    user = model.builder.build("user", user_views, dataset)
    item = model.builder.build("item", item_views, dataset)

    def score(users: np.ndarray, items: np.ndarray) -> np.ndarray:
        # There is one view an entity, in the order of codes, so codes serve as views.
        inputs = RankerInputs(Features(user, item, users, items))
        return model.probability(predict_logits(model.ranker, inputs, np.arange(len(users))))

    return {
        "sampled": sampled_lists(score, task, np.random.default_rng(seed)),
        "full": full_lists(score, task, np.random.default_rng(seed)),
    }
