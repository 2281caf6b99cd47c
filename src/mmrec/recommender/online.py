"""Online state: users and items with live reviews, updated at once from stored sums, without training.

A live review is added to the sums of its user and its item, and their features are built again. Mixed
effects, which are fitted on all reviews, are updated where the review touches them, with everything else held
fixed: one step of the same regression, which the next `fit` solves for all reviews together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from mmrec.data.schema import EntityKind, Interactions
from mmrec.errors import DataError
from mmrec.evidence.views import NO_GROUP, EvidenceViews
from mmrec.features.annotations import EvidenceSums
from mmrec.features.builder import FeatureBuilder
from mmrec.features.dataset import Dataset, Models
from mmrec.features.mixed_effects import (
    EFFECT_COLUMNS,
    PRIOR_REVIEWS,
    review_statistics,
    ridge_factors,
)
from mmrec.features.tables import EntityFeatures, Features
from mmrec.features.text_regression import PRIOR_TEXTS, TextRegression
from mmrec.llm.types import Note, Summary

T = TypeVar("T", float, np.ndarray)
__all__ = ["EntityState", "KnownReviews", "LiveReview", "OnlineState"]


@dataclass(frozen=True)
class KnownReviews:
    """What is stored of the reviews that a model knows, so that others can be added.

    Attributes:
        data: who rated what.
        features: of every user and every item, by code.
        evidence_sums: sums over their reviews, without vectors, whose means are in `features`.
        text_regression: of the mixed effects, where the model has any.
    """

    data: Interactions
    features: Features
    evidence_sums: dict[EntityKind, EvidenceSums]
    text_regression: TextRegression | None

    @classmethod
    def from_dataset(cls, dataset: Dataset, builder: FeatureBuilder) -> KnownReviews:
        """All reviews of a dataset; the builder has been refitted on all of them."""
        data = dataset.data
        evidence_sums: dict[EntityKind, EvidenceSums] = {}
        features: dict[EntityKind, EntityFeatures] = {}
        entities: dict[EntityKind, np.ndarray] = {"user": data.user, "item": data.item}
        for kind, entity in entities.items():
            views = EvidenceViews.all_reviews(entity)
            sums = builder.evidence_sums(kind, views, dataset)
            features[kind] = builder.from_sums(kind, sums, *builder.entity_effects(kind, views))
            evidence_sums[kind] = replace(sums, vectors={})
        effects = builder.mixed_effects.get(NO_GROUP)
        return cls(
            data,
            Features(features["user"], features["item"], data.user, data.item),
            evidence_sums,
            effects.text_regression if effects else None,
        )


@dataclass(frozen=True)
class LiveReview:
    """A live review with the note that was made of it."""

    user: str
    item: str
    rating: float
    text: str
    note: Note


@dataclass
class EntityState:
    """A user or an item with its live reviews.

    Attributes:
        sums: over its reviews.
        columns: its mixed effects, by the name of the dense column.
        factors: (t,) of the factor score.
        ratings: items that a user rated, and the ratings.
    """

    sums: EvidenceSums
    columns: dict[str, float]
    factors: np.ndarray
    ratings: list[tuple[int, float]]

    @property
    def count(self) -> float:
        """Number of ratings."""
        return float(self.sums.rating_count[0])


class OnlineState:
    """All users and items with their live reviews.

    Attributes:
        known: reviews known before; its features are changed in place.
        builder, models: build features, and encode texts.
        features: of every user and every item by code; before the last view, of unknown ids, there
            may be some that no id has yet.
        codes: `user` and `item` -> code by id.
    """

    def __init__(self, known: KnownReviews, builder: FeatureBuilder, models: Models) -> None:
        self.known, self.builder, self.models = known, builder, models
        self.features = known.features
        self.codes: dict[EntityKind, dict[str, int]] = {
            "user": {user: code for code, user in enumerate(known.data.users)},
            "item": {item: code for code, item in enumerate(known.data.items)},
        }
        self._changed: dict[tuple[EntityKind, int], EntityState] = {}

    def add_review(self, review: LiveReview) -> tuple[int, int]:
        """Add a review and update the features of its user and its item; their codes."""
        # A summary is written of all reviews together, so a live review changes the numbers alone.
        dataset = Dataset.single_review(
            review.text, review.rating, self.models, review.note, Summary(text="")
        )
        # Encode first: if that fails, nothing has been changed.
        vector = dataset.text_vectors[0].astype(np.float64)
        user_sums, item_sums = self._sums("user", dataset), self._sums("item", dataset)
        codes = self._code("user", review.user), self._code("item", review.item)
        user, item = self._changed_entity("user", codes[0]), self._changed_entity("item", codes[1])
        user.ratings.append((codes[1], review.rating))
        if self.known.text_regression is not None:
            self._update_effects(self.known.text_regression, user, item, review, vector)
        user.sums += user_sums
        item.sums += item_sums
        self._rebuild("user", codes[0])
        self._rebuild("item", codes[1])
        return codes

    def add_item(self, item: str, text: str, note: Note, captions: Sequence[str]) -> int:
        """Add a description, "" for none, or captions of photos to a new or known item; its code.

        Raises:
            DataError: the model uses none of it.
        """
        self.check_item_content(text, captions)
        dataset = Dataset.single_review(text, np.nan, self.models, note, captions=captions)
        sums = self._sums("item", dataset)
        code = self._code("item", item)
        self._changed_entity("item", code).sums += sums
        self._rebuild("item", code)
        return code

    def check_item_content(self, text: str, captions: Sequence[str]) -> None:
        """Raise a DataError if the model uses neither the description nor the captions of an item."""
        if text.strip():
            return
        if not captions:
            raise DataError("describe the item in words, or bring a photo of it")
        if not self.builder.uses_captions:
            message = "this model has learned nothing from captions: describe the item in words"
            raise DataError(message)

    def views(self, kind: EntityKind, ids: Sequence[str]) -> np.ndarray:
        """(n,) views of users or of items; that of an unknown one for unknown ids."""
        codes, unknown = self.codes[kind], self._entity_features(kind).unknown_index
        return np.array([codes.get(name, unknown) for name in ids], dtype=np.int64)

    def item_codes(self, items: Sequence[str]) -> list[int]:
        """Codes of items.

        Raises:
            DataError: an item is unknown.
        """
        try:
            return [self.codes["item"][item] for item in items]
        except KeyError as error:
            raise DataError(f"no review speaks of item {error}; check the id") from None

    def entity(self, kind: EntityKind, code: int) -> EntityState:
        """A user or an item as it is now, not to be changed."""
        return self._changed.get((kind, code)) or self._known_entity(kind, code)

    def _sums(self, kind: EntityKind, dataset: Dataset) -> EvidenceSums:
        """Sums over the one review of a dataset."""
        row = np.zeros(1, dtype=np.int64)
        return self.builder.evidence_sums(kind, EvidenceViews.from_lists(row, [row]), dataset)

    def _code(self, kind: EntityKind, name: str) -> int:
        """The code of an id, which is new if need be."""
        codes = self.codes[kind]
        if name not in codes:
            codes[name] = len(codes)
            features = self._entity_features(kind)
            if codes[name] == features.unknown_index:  # no view is left for it
                larger: Any = {kind: features.with_capacity()}
                self.features = replace(self.features, **larger)
        return codes[name]

    def _entity_features(self, kind: EntityKind) -> EntityFeatures:
        return self.features.user if kind == "user" else self.features.item

    def _changed_entity(self, kind: EntityKind, code: int) -> EntityState:
        """A user or an item, to be changed."""
        return self._changed.setdefault((kind, code), self.entity(kind, code))

    def _known_entity(self, kind: EntityKind, code: int) -> EntityState:
        """A user or an item as fitted; empty for a code that is new."""
        data, known_sums = self.known.data, self.known.evidence_sums[kind]
        features = self._entity_features(kind)
        known_count = len(known_sums.rating_count)
        sums = known_sums.take(np.array([min(code, known_count - 1)]))
        if code >= known_count:
            sums = sums.zeros()
        # Means of vectors are stored in the features alone, not in the sums.
        vectors = {name: x[[code]].astype(np.float32) for name, x in features.vectors.items()}
        rows = np.flatnonzero(data.user == code) if kind == "user" else np.zeros(0, dtype=np.int64)
        ratings = list(zip(data.item[rows].tolist(), data.rating[rows].tolist(), strict=True))
        columns: dict[str, float] = {}
        factors = np.zeros(0)
        if self.known.text_regression is not None:
            dense = dict(zip(features.names, features.dense[code].tolist(), strict=True))
            columns = {name: dense[name] for name in EFFECT_COLUMNS}
            factors = features.factors[code].astype(np.float64)
        return EntityState(replace(sums, vectors=vectors), columns, factors, ratings)

    def _update_effects(
        self,
        regression: TextRegression,
        user: EntityState,
        item: EntityState,
        review: LiveReview,
        vector: np.ndarray,
    ) -> None:
        """Update the penalised means that mixed effects are, before the review enters the sums.

        With b the old effects, n ratings and penalty p of an entity, its new effect on the target y
        (the rating, or the text rating) is (b (n + p) + y - b_other) / (n + 1 + p).
        """
        targets = {
            "rating effect": review.rating - regression.mean_rating,
            "text rating effect": float(regression.predict(vector)),
        }
        user_penalty, item_penalty = self.builder.penalties
        # Both effects are updated from the old values, so the order does not matter.
        for name, target in targets.items():
            old_user, old_item = user.columns[name], item.columns[name]
            user_weight, item_weight = user.count + user_penalty, item.count + item_penalty
            user.columns[name] = _add_to_mean(old_user, user_weight, target - old_item)
            item.columns[name] = _add_to_mean(old_item, item_weight, target - old_user)
        effects = user.columns["rating effect"] + item.columns["rating effect"]
        residual = targets["rating effect"] - effects
        statistics = review_statistics(
            np.array([review.rating]), np.array([residual]), np.array([len(review.text)])
        )
        for entity in (user, item):
            for name, value in statistics.items():
                weight = entity.count + PRIOR_REVIEWS
                entity.columns[name] = _add_to_mean(entity.columns[name], weight, float(value[0]))
        # (t,) topics of the text, shrunk like those of a fit (`TextRegression.fit`).
        topics = (vector - regression.mean_vector) @ regression.topic_axes
        item.factors = _add_to_mean(item.factors, item.count + PRIOR_TEXTS, topics)
        user.factors = self._user_factors(regression, user)

    def _user_factors(self, regression: TextRegression, user: EntityState) -> np.ndarray:
        """(t,) ridge regression of a user's residuals on the factors of the rated items."""
        items = [self.entity("item", code) for code, _ in user.ratings]
        item_effects = np.array([item.columns["rating effect"] for item in items])
        ratings = np.array([rating for _, rating in user.ratings])
        residuals = ratings - regression.mean_rating - user.columns["rating effect"] - item_effects
        return ridge_factors(np.stack([item.factors for item in items]), residuals)

    def _rebuild(self, kind: EntityKind, code: int) -> None:
        built = self.build_features(kind, self._changed[kind, code])
        self._entity_features(kind).replace_view(code, built)

    def build_features(self, kind: EntityKind, entity: EntityState) -> EntityFeatures:
        """Features of one view, and of the unknown id behind it."""
        unknown = self.builder.unknown_effects.get(kind, {})
        columns = {name: np.array([value, unknown[name]]) for name, value in entity.columns.items()}
        factors = np.stack([entity.factors, np.zeros_like(entity.factors)]).astype(np.float16)
        return self.builder.from_sums(kind, entity.sums, columns, factors if columns else None)


def _add_to_mean(mean: T, weight: float, value: T) -> T:
    """The mean of `weight` values and one more."""
    return (mean * weight + value) / (weight + 1)
