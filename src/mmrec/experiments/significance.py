"""What figures are worth: intervals, paired differences, slices, lists, the operating point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from mmrec.console import track
from mmrec.evaluation import (
    Difference,
    ListMetrics,
    ListTask,
    SliceMetrics,
    ThresholdRates,
    bootstrap_interval,
    full_lists,
    holm_correction,
    paired_bootstrap,
    rates_at_threshold,
    sampled_lists,
    slice_masks,
    slice_metrics,
    weighted_auc,
    weighted_fpr_at_tpr,
)
from mmrec.evidence.views import EvidenceViews
from mmrec.experiments.compare import Comparison
from mmrec.features.tables import EntityFeatures, Features
from mmrec.llm.types import PRICE_TAGS
from mmrec.pipeline import PreparedData, TrainedModel
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.training import predict_logits

__all__ = ["BOOTSTRAPPED_METRICS", "Assessment", "assess"]

_REFERENCE = "bias model"
_CONSTANT = "always like"
_ROUNDS = 500
BOOTSTRAPPED_METRICS = {"auc": weighted_auc, "fpr_at_90": weighted_fpr_at_tpr}
"""Figures that get an interval."""


@dataclass(frozen=True)
class Assessment:
    """All on test rows; intervals are 95% by a bootstrap over users.

    Attributes:
        reference: the model that others are compared with.
        intervals: model -> figure -> (value, low, high).
        differences: model -> figure -> difference to the reference; p-values are Holm-corrected over models.
        operating_points: trained model -> (threshold chosen on valid, what it gave on test).
        lists: trained model -> `sampled` and `full` candidate lists.
        slices: model -> slice -> figures, of the reference and the trained models.
    """

    reference: str
    intervals: dict[str, dict[str, tuple[float, float, float]]]
    differences: dict[str, dict[str, Difference]]
    operating_points: dict[str, tuple[float, ThresholdRates]]
    lists: dict[str, dict[str, ListMetrics]]
    slices: dict[str, dict[str, SliceMetrics]]

    def dict(self) -> dict[str, Any]:
        """Figures alone, for JSON."""
        return {
            "reference": self.reference,
            "intervals": self.intervals,
            "differences": {
                name: {key: one._asdict() for key, one in own.items()}
                for name, own in self.differences.items()
            },
            "operating": {
                name: {"threshold": threshold, **given._asdict()}
                for name, (threshold, given) in self.operating_points.items()
            },
            "lists": {
                name: {kind: _means(scores) for kind, scores in own.items()}
                for name, own in self.lists.items()
            },
            "slices": {
                name: {
                    at: {
                        "rows": one.rows,
                        "likes": one.likes,
                        **(one.metrics.dict() if one.metrics else {}),
                    }
                    for at, one in own.items()
                }
                for name, own in self.slices.items()
            },
        }


def _means(scores: ListMetrics) -> dict[str, float]:
    return {key: value for key, value in asdict(scores).items() if key not in ("user", "each")}


def assess(comparison: Comparison) -> Assessment:
    """Judge every model of a comparison on its test rows."""
    prepared = comparison.prepared
    test, config = prepared.split.test, prepared.config
    label, user = prepared.label[test], prepared.dataset.data.user[test]
    on_test = {name: p[test] for name, p in comparison.probability.items() if name != _CONSTANT}
    intervals: dict[str, dict[str, tuple[float, float, float]]] = {}
    differences: dict[str, dict[str, Difference]] = {}
    with track("judging", len(on_test)) as advance:
        for name, p in on_test.items():
            sure = partial(bootstrap_interval, user, label, p, rounds=_ROUNDS, seed=config.seed)
            intervals[name] = {key: sure(figure) for key, figure in BOOTSTRAPPED_METRICS.items()}
            if name != _REFERENCE:
                than = partial(
                    paired_bootstrap, user, label, p, on_test[_REFERENCE], rounds=_ROUNDS
                )
                differences[name] = {
                    key: than(figure, seed=config.seed)
                    for key, figure in BOOTSTRAPPED_METRICS.items()
                }
            advance(1)
    for key in BOOTSTRAPPED_METRICS:
        adjusted = holm_correction([own[key].p_value for own in differences.values()])
        for own, p in zip(differences.values(), adjusted, strict=True):
            own[key] = own[key]._replace(p_value=float(p))
    masks = _masks(
        prepared, next(reversed(comparison.features.values()))
    )  # baseline knows of no prices
    weights = next(iter(comparison.models.values())).class_weights
    trained = comparison.models
    return Assessment(
        _REFERENCE,
        intervals,
        differences,
        {name: _operated(comparison, name) for name in trained},
        {name: _lists(prepared, model) for name, model in trained.items()},
        {
            name: slice_metrics(label, on_test[name], weights, masks)
            for name in (_REFERENCE, *trained)
        },
    )


def _operated(comparison: Comparison, name: str) -> tuple[float, ThresholdRates]:
    prepared, p = comparison.prepared, comparison.probability[name]
    test = prepared.split.test
    threshold = comparison.thresholds[name]
    return threshold, rates_at_threshold(prepared.label[test], p[test], threshold)


def _masks(prepared: PreparedData, features: Features) -> dict[str, np.ndarray]:
    """Slices of the test rows, by what is known of their user and item."""
    data, known, test = prepared.dataset.data, prepared.split.evidence_rows, prepared.split.test
    user = np.bincount(data.user[known], minlength=len(data.users))[data.user[test]]
    item = np.bincount(data.item[known], minlength=len(data.items))[data.item[test]]
    corpus, at = prepared.dataset, data.item[test]
    own = zip(corpus.item_photos, corpus.item_captions, strict=True)
    shown = np.array([bool(photos or captions) for photos, captions in own])
    for row in known:
        shown[data.item[row]] |= bool(corpus.photos[row] or corpus.review_captions[row])
    return slice_masks(user, item, shown[at], _price(features.item, features.item_view[test]), {})


def _price(items: EntityFeatures, view: np.ndarray) -> np.ndarray:
    """(n,) the price tag with most votes in each view; `none` where nobody spoke of the price."""
    tags = [tag for tag in PRICE_TAGS if tag in items.names]
    if not tags:
        return np.full(len(view), "none")
    shares = items.dense[view][:, [items.names.index(tag) for tag in tags]]
    return np.where(shares.any(axis=1), np.array(tags)[shares.argmax(axis=1)], "none")


def _lists(prepared: PreparedData, model: TrainedModel) -> dict[str, ListMetrics]:
    """Candidate lists, scored with what all known reviews say of users and items."""
    data, split, seed = prepared.dataset.data, prepared.split, prepared.config.seed
    pairs = np.stack([data.user, data.item], axis=1)
    task = ListTask(
        pairs[split.evidence_rows], pairs[split.test], prepared.label[split.test], len(data.items)
    )
    score = _scorer(prepared, model)
    return {
        "sampled": sampled_lists(score, task, np.random.default_rng(seed)),
        "full": full_lists(score, task, np.random.default_rng(seed)),
    }


def _scorer(
    prepared: PreparedData, model: TrainedModel
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    corpus, known = prepared.dataset, prepared.split.evidence_rows
    user_views = EvidenceViews.all_reviews(corpus.data.user, known)
    item_views = EvidenceViews.all_reviews(corpus.data.item, known)
    user = model.builder.build("user", user_views, corpus)
    item = model.builder.build("item", item_views, corpus)

    def score(users: np.ndarray, items: np.ndarray) -> np.ndarray:
        # Views that hear all are one an entity, in the order of codes.
        inputs = RankerInputs(Features(user, item, users, items))
        return model.probability(predict_logits(model.ranker, inputs, np.arange(len(users))))

    return score
