"""The feature builder: what features are made with, and the features of any views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from threadpoolctl import threadpool_limits

from mmrec.config import Config
from mmrec.console import track
from mmrec.data.files import allocate
from mmrec.data.schema import EntityKind
from mmrec.errors import ConfigError
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence
from mmrec.evidence.views import NO_GROUP, EvidenceViews
from mmrec.features.annotations import EvidenceSums, annotation_sums, rating_sums
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import MixedEffects, choose_penalties
from mmrec.features.tables import Constants, EntityFeatures, Features, entity_features
from mmrec.features.text_regression import TextSums
from mmrec.llm.types import Note, Summary

__all__ = ["FeatureAudit", "FeatureBuilder", "build_features"]


class FeatureBuilder(BaseModel):
    """Makes the features of any views, in training and in service alike; saved with the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    config: Config
    constants: Constants
    vocabulary: list[str]
    """Categories by code, the most frequent in the evidence first."""
    image: bool
    """Whether items have an image block: there are photos, and a model to encode them."""
    penalties: tuple[float, float] = (1.0, 1.0)
    """Penalties of the effects of users and items (`mmrec.features.mixed_effects`)."""
    unknown_effects: dict[EntityKind, dict[str, float]] = {}
    """Effects of an unknown user and an unknown item, by column."""
    factor_count: int = 0
    """Length of the factors of users and items."""
    mixed_effects: dict[int, MixedEffects] = Field(default={}, exclude=True)
    """Effects by fold, fitted on what its rows may see; under `NO_GROUP` on all evidence."""

    @classmethod
    def fit(cls, dataset: Dataset, evidence: Evidence, config: Config) -> FeatureBuilder:
        """Learn the constants and effects, and collect the vocabulary from all evidence.

        Raises:
            ConfigError: mixed effects under another policy than `fold`.
        """
        kind = config.ranker.features
        has_photos = dataset.has_photos(evidence.evidence_rows, captions=kind != "baseline")
        builder = cls(
            config=config,
            constants=Constants.estimate(dataset.data, evidence.visible_rows(VALIDATION_FOLD)),
            vocabulary=[] if kind == "baseline" else _vocabulary(dataset, evidence, config),
            image=has_photos and (kind != "baseline" or dataset.models.image_encoder.available()),
        )
        if kind != "mmrec":
            return builder
        if evidence.policy != "fold":
            raise ConfigError(
                f"--features mmrec needs --policy fold, not {evidence.policy}: its effects are fitted on "
                "everyone's reviews, once for every fold; take --features proposed"
            )
        with _one_openmp_thread():
            return builder._fit_effects(dataset, evidence)

    def _fit_effects(self, dataset: Dataset, evidence: Evidence) -> FeatureBuilder:
        validation_rows = np.flatnonzero(evidence.fold == VALIDATION_FOLD)
        visible = evidence.visible_rows(VALIDATION_FOLD)
        penalties = choose_penalties(dataset.data, visible, validation_rows)
        texts, effects = dataset.rated_texts, {}
        folds = np.unique(evidence.fold).tolist()
        with track("fitting effects", len(folds)) as advance:
            # A fold's sums are those of all texts less those of the few that it must not see.
            all_sums = TextSums.from_rows(texts, evidence.evidence_rows)
            for fold in folds:
                visible = evidence.visible_rows(fold)
                hidden = np.setdiff1d(evidence.evidence_rows, visible, assume_unique=True)
                fold_sums = all_sums.without(texts, hidden)
                effects[fold] = MixedEffects.fit(texts, visible, penalties, fold_sums)
                advance(1)
        return self._with_effects(effects, penalties)

    def refit(self, dataset: Dataset) -> FeatureBuilder:
        """The same builder, with effects fitted on all reviews of a dataset."""
        if self.config.ranker.features != "mmrec":
            return self
        with _one_openmp_thread():
            final = MixedEffects.fit(dataset.rated_texts, np.arange(len(dataset)), self.penalties)
        return self._with_effects({NO_GROUP: final}, self.penalties)

    def _with_effects(
        self, effects: dict[int, MixedEffects], penalties: tuple[float, float]
    ) -> FeatureBuilder:
        final = effects[NO_GROUP]
        unknown: dict[EntityKind, dict[str, float]] = {"user": {}, "item": {}}
        for kind, columns in unknown.items():
            for name, values in final.columns(kind).items():
                columns[name] = float(values[-1])  # the last row is the unknown one's
        changes = {"mixed_effects": effects, "penalties": penalties, "unknown_effects": unknown}
        return self.model_copy(update=changes | {"factor_count": final.user_factors.shape[1]})

    def build(self, kind: EntityKind, views: EvidenceViews, dataset: Dataset) -> EntityFeatures:
        """Features of the views of users or items; of items also price, categories and photos."""
        sums = self.evidence_sums(kind, views, dataset)
        return self.from_sums(kind, sums, *self.entity_effects(kind, views))

    def evidence_sums(
        self, kind: EntityKind, views: EvidenceViews, dataset: Dataset
    ) -> EvidenceSums:
        """What the reviews of every view add up to."""
        ratings = rating_sums(dataset.data.rating)  # of single reviews, as yet
        if self._is_baseline:
            one = np.ones(len(dataset), dtype=np.float32)
            vectors, count = {"reviews": dataset.text_vectors}, {"reviews": one}
            sums = replace(ratings, vectors=vectors, text_count=count).over(views)
        else:
            sums = self._annotation_sums(kind, views, dataset)
            total = ratings.over(views)
            sums = replace(sums, rating_count=total.rating_count, rating_sum=total.rating_sum)
        if kind == "item" and self.image:
            photos = dataset.image_vectors if self._is_baseline else dataset.caption_vectors
            mean, photo_count = photos.view_means(views)
            vectors = {**sums.vectors, "photos": mean}
            count = {**sums.text_count, "photos": photo_count}
            sums = replace(sums, vectors=vectors, text_count=count)
        return sums

    def _annotation_sums(
        self, kind: EntityKind, views: EvidenceViews, dataset: Dataset
    ) -> EvidenceSums:
        if self.config.annotation.strategy == "notes":
            return dataset.note_sums(self.vocabulary).over(views)
        summarised = views
        if self.config.evidence.summaries == "all":
            # The paper's summaries are of all evidence of an entity, whichever view they are for.
            entity = dataset.data.user if kind == "user" else dataset.data.item
            summarised = EvidenceViews.all_reviews(entity, np.sort(views.order))
        summaries = dataset.summaries(kind, summarised)
        sums = annotation_sums(summaries, dataset.models.encoder, self.vocabulary)
        if summarised is not views:
            sums = sums.take(np.searchsorted(summarised.entity, views.entity))
        return sums

    def from_sums(
        self,
        kind: EntityKind,
        sums: EvidenceSums,
        effects: Mapping[str, np.ndarray],
        factors: np.ndarray | None,
    ) -> EntityFeatures:
        """Features of views from their sums, (v + 1,) effects, and (v + 1, t) factors."""
        return entity_features(kind, sums, self.constants, self.config, effects, factors)

    @property
    def uses_captions(self) -> bool:
        """Whether photos are represented by captions, not by features of an image model."""
        return self.image and not self._is_baseline

    @property
    def _is_baseline(self) -> bool:
        """Whether this is the paper's baseline, in which texts are averages of whole reviews."""
        return self.config.ranker.features == "baseline"

    def entity_effects(
        self, kind: EntityKind, views: EvidenceViews, block_views: int = 1 << 16
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Effects by column, (v + 1,), and factors, (v + 1, t), from what each view's fold may see.

        The last row, and views of a fold without effects, are those of an unknown user or item.
        """
        columns = {}
        for name, value in self.unknown_effects.get(kind, {}).items():
            columns[name] = np.full(len(views) + 1, value, dtype=np.float32)
        if not columns:
            return {}, None
        factors = allocate((len(views) + 1, self.factor_count), np.float16)
        factors[:] = 0
        for fold, effects in self.mixed_effects.items():
            of_fold = np.flatnonzero(views.fold == fold)
            for name, values in effects.columns(kind).items():
                columns[name][of_fold] = values[views.entity[of_fold]]
            entity_factors = effects.factors(kind)
            # In blocks, since a copy for all views would take as much memory as the result.
            for block in np.array_split(of_fold, 1 + len(of_fold) // block_views):
                factors[block] = entity_factors[views.entity[block]]
        return columns, factors

    def describe_user(self, dataset: Dataset) -> EntityFeatures:
        """Features of a user who is known by the text of one review alone."""
        views = EvidenceViews.from_lists(np.zeros(1, dtype=np.int64), [np.zeros(1, dtype=np.int64)])
        return self.model_copy(update={"mixed_effects": {}}).build("user", views, dataset)


def _one_openmp_thread() -> threadpool_limits:
    """PyTorch's and NumPy's threads would wait for each other: three times as slow on 2 cores."""
    return threadpool_limits(1, "openmp")


def _vocabulary(dataset: Dataset, evidence: Evidence, config: Config) -> list[str]:
    """Categories in the evidence, the most frequent first."""
    annotations: Sequence[Note | Summary]
    if config.annotation.strategy == "notes":
        annotations = [dataset.notes[row] for row in evidence.evidence_rows]
    else:
        views = EvidenceViews.all_reviews(dataset.data.item, evidence.evidence_rows)
        annotations = dataset.summaries("item", views)
    counts = Counter[str]()
    for annotation in annotations:
        counts.update(annotation.categories)
    return sorted(counts, key=lambda category: (-counts[category], category))


def build_features(
    dataset: Dataset, evidence: Evidence, config: Config
) -> tuple[FeatureBuilder, Features]:
    """Fit a builder, and make the features of all rows."""
    builder = FeatureBuilder.fit(dataset, evidence, config)
    user = builder.build("user", evidence.user, dataset)
    item = builder.build("item", evidence.item, dataset)
    return builder, Features(user, item, evidence.user.view, evidence.item.view)


@dataclass(frozen=True)
class FeatureAudit:
    """Features under audit, with their builder; see `mmrec.evidence.audit.AuditedFeatures`."""

    builder: FeatureBuilder
    dataset: Dataset
    features: Features

    def used(self, kind: EntityKind, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The features of the user, or the item, of some rows."""
        features = self.features
        if kind == "user":
            return features.user.by_name(features.user_view[rows])
        return features.item.by_name(features.item_view[rows])

    def rebuilt(self, kind: EntityKind, views: EvidenceViews) -> dict[str, np.ndarray]:
        """The same features, made from the reviews of some views."""
        return self.builder.build(kind, views, self.dataset).by_name(np.arange(len(views)))

    def fitted(
        self, fold: int, rows: np.ndarray, visible_rows: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Effects of a fold, or fitted again on visible rows, and factor scores of pairs."""
        effects = self.builder.mixed_effects.get(fold)
        if effects is None:
            return {}
        if visible_rows is not None:
            texts, penalties = self.dataset.rated_texts, self.builder.penalties
            effects = MixedEffects.fit(texts, visible_rows, penalties)
        # Factors may turn or change their sign; only the scores of pairs have a meaning.
        data = self.dataset.data
        named = {"factor score": effects.factor_score(data.user[rows], data.item[rows])}
        for kind in ("user", "item"):
            named |= {f"{kind} {name}": values for name, values in effects.columns(kind).items()}
        return named
