"""The feature builder: what features are made with, and the features of any views (paper, section 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from threadpoolctl import threadpool_limits

from mmrec.config import Config
from mmrec.console import track
from mmrec.data import files
from mmrec.data.schema import EntityKind
from mmrec.errors import ConfigError
from mmrec.evidence.policies import NO_GROUP, VALIDATION_FOLD, Evidence, EvidenceViews
from mmrec.features.dataset import Dataset, annotation_sums
from mmrec.features.mixed_effects import PRIOR_TEXTS, MixedEffects, TextSums, choose_penalties
from mmrec.features.tables import Constants, EntityFeatures, EvidenceSums, Features, rating_sums
from mmrec.llm.types import PRICE_TAGS, Note, Summary

PRIOR_PRICE_VOTES = 5.0
"""For no price, beside the votes of an item's reviews for each tag."""


class FeatureBuilder(BaseModel):
    """Makes the features of any views, in training and in service alike; saved with the model."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False
    )

    config: Config
    constants: Constants
    vocabulary: list[str]  # categories by code, the most frequent in the evidence first
    image: bool  # whether items have an image block: there are photos and a model
    penalties: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)  # of the effects of users and items
    unknown_effects: dict[EntityKind, dict[str, float]] = {}  # by column
    factor_count: int = Field(0, ge=0, le=10_000)  # length of the factors of users and items
    # Numbers of reviews that train rows see, and that make up the features of all users and items:
    # who has twice the reviews because twice as many are known has not become more popular.
    trained_reviews: PositiveInt = 1
    known_reviews: PositiveInt = 1
    # By fold, fitted on what its rows may see; under `NO_GROUP` on all evidence.
    mixed_effects: dict[int, MixedEffects] = Field(default={}, exclude=True)

    @classmethod
    def fit(cls, dataset: Dataset, evidence: Evidence, config: Config) -> FeatureBuilder:
        """Learn the constants and effects, and collect the vocabulary from all evidence; a ConfigError
        for mixed effects under another policy than `fold`."""
        kind, rows = config.ranker.features, evidence.evidence_rows
        if kind == "mmrec" and evidence.policy != "fold":
            raise ConfigError(
                f"--features mmrec needs --policy fold, not {evidence.policy}: its effects "
                "are fitted on everyone's reviews, once for every fold; take --features proposed"
            )
        annotations: Sequence[Note | Summary] = []
        if kind != "baseline" and config.annotation.strategy == "notes":
            annotations = [dataset.notes[row] for row in rows]
        elif kind != "baseline":
            views = EvidenceViews.all_reviews(dataset.data.item, rows)
            annotations = dataset.summaries("item", views)
        counts = Counter[str]()
        for annotation in annotations:
            counts.update(annotation.categories)
        visible = evidence.visible_rows(VALIDATION_FOLD)
        train_rows = np.flatnonzero(evidence.fold > VALIDATION_FOLD)
        has_photos = dataset.has_photos(rows, captions=kind != "baseline")
        builder = cls(
            config=config,
            constants=Constants.estimate(dataset.data, visible, train_rows),
            vocabulary=sorted(counts, key=lambda name: (-counts[name], name)),
            image=has_photos and (kind != "baseline" or dataset.models.image_encoder.available()),
        )
        return builder._fit_effects(dataset, evidence) if kind == "mmrec" else builder

    def _fit_effects(self, dataset: Dataset, evidence: Evidence) -> FeatureBuilder:
        validation_rows = np.flatnonzero(evidence.fold == VALIDATION_FOLD)
        visible = evidence.visible_rows(VALIDATION_FOLD)
        texts, effects = dataset.rated_texts, {}
        folds = np.unique(evidence.fold).tolist()
        # PyTorch's and NumPy's threads would wait for each other: three times as slow on 2 cores.
        with threadpool_limits(1, "openmp"), track("fitting effects", len(folds)) as advance:
            penalties = choose_penalties(dataset.data, visible, validation_rows)
            # A fold's sums are those of all texts less those of the few that it must not see.
            all_sums = TextSums.from_rows(texts, evidence.evidence_rows)
            for fold in folds:
                visible = evidence.visible_rows(fold)
                hidden = np.setdiff1d(evidence.evidence_rows, visible, assume_unique=True)
                fold_sums = all_sums.without(texts, hidden)
                effects[fold] = MixedEffects.fit(texts, visible, penalties, fold_sums)
                advance(1)
        # A train row does not see its own fold.
        sizes = [len(evidence.visible_rows(fold)) for fold in folds if fold > VALIDATION_FOLD]
        known = len(evidence.evidence_rows)
        counts = {"trained_reviews": int(np.mean(sizes)), "known_reviews": known}
        return self._with_effects(effects, penalties).model_copy(update=counts)

    def refit(self, dataset: Dataset) -> FeatureBuilder:
        """The same builder, with effects fitted on all reviews of a dataset."""
        if self.config.ranker.features != "mmrec":
            return self
        with threadpool_limits(1, "openmp"):
            final = MixedEffects.fit(dataset.rated_texts, np.arange(len(dataset)), self.penalties)
        builder = self._with_effects({NO_GROUP: final}, self.penalties)
        return builder.model_copy(update={"known_reviews": len(dataset)})

    def _with_effects(
        self, effects: dict[int, MixedEffects], penalties: tuple[float, float]
    ) -> FeatureBuilder:
        final = effects[NO_GROUP]
        unknown: dict[EntityKind, dict[str, float]] = {}
        for kind, columns in final.columns.items():
            # The last row is that of an unknown user or item.
            unknown[kind] = {name: float(values[-1]) for name, values in columns.items()}
        changes = {"mixed_effects": effects, "penalties": penalties, "unknown_effects": unknown}
        factor_count = final.factors["user"].shape[1]
        return self.model_copy(update={**changes, "factor_count": factor_count})

    def block_names(self, kind: EntityKind) -> list[str]:
        """Names of the vector blocks of users or items."""
        names = ["summary"]
        if self.config.ranker.features == "baseline":
            names = ["reviews"]
        elif self.config.annotation.strategy == "notes":
            names = ["gist", "likes", "dislikes"]
        return [*names, "photos"] if kind == "item" and self.image else names

    def column_names(self, kind: EntityKind) -> tuple[str, ...]:
        """Names of the dense columns of users or items."""
        none, votes = np.zeros(0), np.zeros((0, len(self.vocabulary)))
        texts = dict.fromkeys(self.block_names(kind), none)
        sums = EvidenceSums(none, none, {}, texts, np.zeros((0, len(PRICE_TAGS))), votes)
        effects = {name: np.zeros(1) for name in self.unknown_effects.get(kind, {})}
        return self.from_sums(kind, sums, effects).names

    def build(self, kind: EntityKind, views: EvidenceViews, dataset: Dataset) -> EntityFeatures:
        """Features of the views of users or items; of items also price, categories and photos."""
        sums = self.evidence_sums(kind, views, dataset)
        sees_all = views.group == NO_GROUP
        return self.from_sums(kind, sums, *self.entity_effects(kind, views), sees_all=sees_all)

    def evidence_sums(
        self, kind: EntityKind, views: EvidenceViews, dataset: Dataset
    ) -> EvidenceSums:
        """What the reviews of every view add up to."""
        ratings = rating_sums(dataset.data.rating)  # of single reviews, as yet
        is_baseline = self.config.ranker.features == "baseline"
        if is_baseline:
            vectors = {"reviews": dataset.text_vectors}
            ones = np.ones(len(dataset), np.float32)
            sums = replace(ratings, vectors=vectors, text_count={"reviews": ones}).over(views)
        elif self.config.annotation.strategy == "notes":
            sums = dataset.note_sums(self.vocabulary).over(views)
        else:
            summarised, position = views, np.arange(len(views))
            if self.config.evidence.summaries == "all":
                # The paper's summaries are of all evidence of an entity, whichever view they are for.
                entity = dataset.data.user if kind == "user" else dataset.data.item
                summarised = EvidenceViews.all_reviews(entity, np.sort(views.order))
                position = np.searchsorted(summarised.entity, views.entity)
            summaries = dataset.summaries(kind, summarised)
            of_summaries = annotation_sums(summaries, dataset.models.encoder, self.vocabulary)
            sums = of_summaries.map(lambda values: values[position])
        if not is_baseline:
            total = ratings.over(views)
            sums = replace(sums, rating_count=total.rating_count, rating_sum=total.rating_sum)
        if kind == "item" and self.image:
            photos = dataset.image_vectors if is_baseline else dataset.caption_vectors
            mean, photo_count = photos.view_means(views)
            vectors = {**sums.vectors, "photos": mean}
            text_count = {**sums.text_count, "photos": photo_count}
            sums = replace(sums, vectors=vectors, text_count=text_count)
        return sums

    def entity_effects(
        self, kind: EntityKind, views: EvidenceViews, block_views: int = 1 << 16
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Effects by column, (v + 1,), and factors, (v + 1, t), of views whose groups are folds; in the
        last row, and for folds without effects, those of an unknown user or item."""
        columns = {}
        for name, value in self.unknown_effects.get(kind, {}).items():
            columns[name] = np.full(len(views) + 1, value, dtype=np.float32)
        if not columns:
            return {}, None
        factors = files.allocate((len(views) + 1, self.factor_count), np.float16)
        for fold, effects in self.mixed_effects.items():
            of_fold = np.flatnonzero(views.group == fold)
            for name, values in effects.columns[kind].items():
                columns[name][of_fold] = values[views.entity[of_fold]]
            # In blocks, since a copy for all views would take as much memory as the result.
            for block in np.array_split(of_fold, 1 + len(of_fold) // block_views):
                factors[block] = effects.factors[kind][views.entity[block]]
        return columns, factors

    def from_sums(
        self,
        kind: EntityKind,
        sums: EvidenceSums,
        effects: Mapping[str, np.ndarray] | None = None,
        factors: np.ndarray | None = None,
        *,
        sees_all: np.ndarray | bool = True,
        new: np.ndarray | bool = False,
    ) -> EntityFeatures:
        """Features of v views from what their reviews add up to, and from `entity_effects`.

        Numbers of reviews are comparable: those of views that see all known reviews, (v,) bool, are
        reduced to what train rows see of them. How popular `new` users or items, (v,) bool, will be is not
        known, so that theirs says nothing: they are not like those that have stayed unpopular.
        """
        is_mmrec = self.config.ranker.features == "mmrec"
        count, constants = sums.rating_count, self.constants
        prior, usual = constants.user_prior, constants.user_log_count
        if kind == "item":
            prior, usual = constants.item_prior, constants.item_log_count
        columns = {
            "mean rating": (sums.rating_sum + prior * constants.mean) / (count + prior),
            "no rating": count == 0,
        }
        if is_mmrec or kind == "item":
            scale = np.where(sees_all, self.trained_reviews / self.known_reviews, 1.0)
            columns["log count"] = np.where(new, usual, np.log1p(count * scale))
        categories = np.zeros((len(count) + 1, 0), dtype=np.int64)
        if kind == "item" and self.config.ranker.features != "baseline":
            columns |= _price_columns(sums.price)
            categories = _top_categories(sums.categories, self.config.annotation.max_categories)
        # Likes and dislikes have no such column: a review may well praise nothing.
        for name in sorted({"gist", "photos", "reviews", "summary"} & sums.text_count.keys()):
            columns[f"no {name}"] = sums.text_count[name] == 0
        # An unknown one has the overall mean, nothing of anything, and every modality missing.
        unknown = {name: float(name.startswith("no ")) for name in columns}
        unknown["mean rating"] = constants.mean
        if "log count" in columns:
            unknown["log count"] = usual
        for name, values in (effects or {}).items():
            columns[name], unknown[name] = values[:-1], float(values[-1])
        # (v + 1, p); filled by column, since it may be larger than memory.
        dense = files.allocate((len(count) + 1, len(columns)), np.float32)
        for column, (name, values) in enumerate(columns.items()):
            dense[:-1, column], dense[-1, column] = values, unknown[name]
        present, vectors = {}, {}
        for name, texts in sums.text_count.items():
            # The mean vector of few texts is mostly chance, so ours weighs less.
            prior_texts = PRIOR_TEXTS if is_mmrec and name != "photos" else 0.0
            weight = texts / np.maximum(texts + prior_texts, 1e-9)
            present[name] = np.append(weight, 0).astype(np.float32)
        for name, means in sums.vectors.items():
            vectors[name] = files.allocate((len(means) + 1, means.shape[1]), np.float16)
            vectors[name][:-1] = means
        built = EntityFeatures(tuple(columns), dense, vectors, present, categories)
        return built if factors is None else replace(built, factors=factors)


def _price_columns(votes: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of (v, 4) votes by tag, shrunk towards "no price": one vote is not yet a price."""
    tags = votes[:, : PRICE_TAGS.index("none")]
    total = tags.sum(axis=1) + PRIOR_PRICE_VOTES
    shares = tags / total[:, None]  # (v, 3)
    columns = dict(zip(PRICE_TAGS, shares.T, strict=False))
    return columns | {"no price": PRIOR_PRICE_VOTES / total}


def _top_categories(
    votes: np.ndarray, limit: int, min_share: float = 0.1, block_views: int = 1 << 14
) -> np.ndarray:
    """(v + 1, limit) codes with the most of (v, c) votes, best first, padded with c, as the last row;
    only those with `min_share` of the first one's votes, since single mentions mean little."""
    codes = np.full((len(votes) + 1, limit), votes.shape[1], dtype=np.int64)
    for start in range(0, len(votes), block_views):
        block = votes[start : start + block_views]
        order = np.argsort(-block, axis=1, kind="stable")[:, :limit]
        ranked = np.take_along_axis(block, order, axis=1)
        enough = (ranked > 0) & (ranked >= min_share * ranked[:, :1])
        codes[start : start + len(block), : order.shape[1]][enough] = order[enough]
    return codes


def build_features(
    dataset: Dataset, evidence: Evidence, config: Config
) -> tuple[FeatureBuilder, Features]:
    """Fit a builder, and make the features of all rows."""
    builder = FeatureBuilder.fit(dataset, evidence, config)
    user = builder.build("user", evidence.user, dataset)
    item = builder.build("item", evidence.item, dataset)
    return builder, Features(user, item, evidence.user.view, evidence.item.view)
