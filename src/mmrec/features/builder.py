"""From a corpus to features: constants, effects, the vocabulary of categories, and views of both sides."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from threadpoolctl import threadpool_limits

from mmrec.config import Config
from mmrec.console import track
from mmrec.data import arrays
from mmrec.data.schema import EntityKind
from mmrec.errors import ConfigError
from mmrec.evidence.policies import VALIDATION_FOLD, Evidence, EvidenceViews
from mmrec.features.annotations import EvidenceSums, rating_sums, summary_sums
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import MixedEffects, choose_penalties
from mmrec.features.tables import Constants, EntityFeatures, Features, entity_features
from mmrec.features.text_regression import TextSums
from mmrec.ranker.dlrm import RankerShape
from mmrec.ranker.inputs import RankerInputs

__all__ = ["FeatureBuilder", "build_features"]

_LAST = -1
_VOICES = 4.0
_VIEWS_AT_ONCE = 1 << 16


class FeatureBuilder(BaseModel):
    """Makes the features of any views, in training and in service alike; saved with the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    config: Config
    constants: Constants
    vocabulary: list[str]
    """Categories by code, most frequent first; from known reviews only."""
    image: bool
    """Whether items have an image block: some photo was there to learn from, and what looks at it."""
    penalties: tuple[float, float] = (1.0, 1.0)
    """Of the effects of users and items (`mmrec.features.mixed_effects`)."""
    unknown_effects: dict[EntityKind, dict[str, float]] = {}
    """Effects of a user and an item of whom nothing is known."""
    factor_count: int = 0
    """Width of tastes."""
    mixed_effects: dict[int, MixedEffects] = Field(default={}, exclude=True)
    """By fold, what its rows may hear; under -1 what is known at last."""

    @classmethod
    def fit(cls, corpus: Dataset, evidence: Evidence, config: Config) -> FeatureBuilder:
        """Learn constants from what valid may hear, and the vocabulary from all known reviews.

        Raises:
            ConfigError: effects under another policy than `fold`.
        """
        known, model = evidence.evidence_rows, config.ranker.features
        vocabulary = [] if model == "baseline" else _vocabulary(corpus, evidence, config)
        image = corpus.has_photos(known, captions=model != "baseline")
        assembler = cls(
            config=config,
            constants=Constants.estimate(corpus.data, evidence.visible_rows(VALIDATION_FOLD)),
            vocabulary=vocabulary,
            image=image and (model != "baseline" or corpus.models.image_encoder.available()),
        )
        if model != "mmrec":
            return assembler
        # PyTorch's threads and NumPy's would wait for each other's cores: three times as slow on two.
        with threadpool_limits(1, "openmp"):
            return assembler._with_effects(corpus, evidence)

    def _with_effects(self, corpus: Dataset, evidence: Evidence) -> FeatureBuilder:
        if evidence.policy != "fold":
            raise ConfigError(
                f"--features mmrec needs --policy fold, not {evidence.policy}: its effects are fitted on "
                "everyone's reviews, once for every fold; take --features proposed"
            )
        heard, valid = (
            evidence.visible_rows(VALIDATION_FOLD),
            np.flatnonzero(evidence.fold == VALIDATION_FOLD),
        )
        penalties = choose_penalties(corpus.data, heard, valid)
        folds = np.unique(evidence.fold).tolist()
        effects, reviewed = {}, corpus.rated_texts
        with track("fitting effects", len(folds)) as advance:
            everyone = TextSums.from_rows(reviewed, evidence.evidence_rows)
            for fold in folds:
                heard = evidence.visible_rows(fold)
                silent = np.setdiff1d(evidence.evidence_rows, heard, assume_unique=True)
                texts = everyone.without(reviewed, silent)
                effects[fold] = MixedEffects.fit(reviewed, heard, penalties, texts)
                advance(1)
        return self.model_copy(update={"penalties": penalties, "mixed_effects": effects})._final()

    def refit(self, corpus: Dataset) -> FeatureBuilder:
        """The same, for views that hear all reviews of a corpus."""
        if self.config.ranker.features != "mmrec":
            return self
        everything = np.arange(len(corpus))
        with threadpool_limits(1, "openmp"):
            effects = {_LAST: MixedEffects.fit(corpus.rated_texts, everything, self.penalties)}
        return self.model_copy(update={"mixed_effects": effects})._final()

    def _final(self) -> FeatureBuilder:
        last = self.mixed_effects[_LAST]
        nobody = {
            side: {name: float(values[-1]) for name, values in columns.items()}
            for side, columns in (("user", last.user), ("item", last.item))
        }
        return self.model_copy(
            update={"unknown_effects": nobody, "factor_count": last.user_factors.shape[1]}
        )

    def build_user(self, side: EvidenceViews, corpus: Dataset) -> EntityFeatures:
        """Features of the views of users."""
        return self.features(
            "user", self.evidence_sums("user", side, corpus), *self.entity_effects("user", side)
        )

    def build_item(self, side: EvidenceViews, corpus: Dataset) -> EntityFeatures:
        """Features of the views of items: also their number of reviews, price, categories, photos."""
        return self.features(
            "item", self.evidence_sums("item", side, corpus), *self.entity_effects("item", side)
        )

    def evidence_sums(self, of: EntityKind, side: EvidenceViews, corpus: Dataset) -> EvidenceSums:
        """What the reviews of every view add up to."""
        sums = self._words(of, side, corpus)
        rated = rating_sums(side, corpus.data.rating)
        sums = replace(sums, rating_count=rated.rating_count, rating_sum=rated.rating_sum)
        if of == "item" and self.image:
            photos = corpus.image_vectors if self._averaged else corpus.caption_vectors
            mean, count = photos.view_means(side)
            sums = replace(
                sums,
                vectors=sums.vectors | {"photos": mean},
                text_count=sums.text_count | {"photos": count},
            )
        return sums

    def features(
        self,
        of: EntityKind,
        sums: EvidenceSums,
        effects: dict[str, np.ndarray],
        taste: np.ndarray | None,
    ) -> EntityFeatures:
        """Features of views, from their sums and (v + 1,) effects and tastes, the last of nobody."""
        ours, constants = self.config.ranker.features == "mmrec", self.constants
        return entity_features(
            sums,
            constants.mean,
            constants.user_prior if of == "user" else constants.item_prior,
            # A mean over few voices is mostly chance, so ours is drawn towards the mean of all.
            prior_texts=_VOICES if ours else 0.0,
            with_count=ours or of == "item",
            with_price=of == "item" and not self._averaged,
            max_categories=self.config.annotation.max_categories,
            effects=effects,
            factors=taste,
        )

    @property
    def uses_captions(self) -> bool:
        """Whether what photos show is read in words."""
        return self.image and not self._averaged

    @property
    def _averaged(self) -> bool:
        """Whether words are averages of whole reviews, as in the paper's baseline."""
        return self.config.ranker.features == "baseline"

    def entity_effects(
        self, of: EntityKind, side: EvidenceViews
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Effects and tastes of views, from what the fold of each may hear; the last are nobody's."""
        return self._effects(of, side), self._taste(of, side)

    def _effects(self, of: EntityKind, side: EvidenceViews) -> dict[str, np.ndarray]:
        """(v + 1,) columns: of every view's entity, from what the view's fold may hear, and of nobody."""
        columns = {
            name: np.full(len(side) + 1, value, dtype=np.float32)
            for name, value in self.unknown_effects.get(of, {}).items()
        }
        for fold, effects in self.mixed_effects.items():
            views = np.flatnonzero(side.fold == fold)
            for name, values in (effects.user if of == "user" else effects.item).items():
                columns[name][views] = values[side.entity[views]]
        return columns

    def _taste(self, of: EntityKind, side: EvidenceViews) -> np.ndarray | None:
        """(v + 1, d) of every view's entity; of nobody, and of a stranger, zero."""
        if not self.unknown_effects:
            return None
        taste = arrays.allocate((len(side) + 1, self.factor_count), np.float16)
        taste[np.append(np.isin(side.fold, [*self.mixed_effects], invert=True), True)] = 0
        for fold, effects in self.mixed_effects.items():
            views = np.flatnonzero(side.fold == fold)
            whole = effects.user_factors if of == "user" else effects.item_factors
            for part in np.array_split(views, 1 + len(views) // _VIEWS_AT_ONCE):
                taste[part] = whole[side.entity[part]]
        return taste

    def describe_user(self, corpus: Dataset) -> EntityFeatures:
        """Features of a user of whom there are words alone."""
        side = EvidenceViews.from_lists(np.zeros(1, dtype=np.int64), [np.zeros(1, dtype=np.int64)])
        return self.model_copy(update={"mixed_effects": {}}).build_user(side, corpus)

    def _words(self, of: EntityKind, side: EvidenceViews, corpus: Dataset) -> EvidenceSums:
        if self._averaged:
            sums = rating_sums(side, np.full(len(corpus), np.nan))
            count = side.sum(np.ones((len(corpus), 1), dtype=np.float32))[:, 0]
            mean = side.mean(corpus.text_vectors, count)
            return replace(sums, vectors={"reviews": mean}, text_count={"reviews": count})
        if self.config.annotation.strategy == "notes":
            return corpus.note_arrays(self.vocabulary).sums(side)
        encoder = corpus.models.encoder
        if self.config.evidence.summaries == "policy":
            return summary_sums(corpus.summaries(of, side), encoder, self.vocabulary)
        entity = corpus.data.user if of == "user" else corpus.data.item
        whole = _whole(entity, np.sort(side.order))
        sums = summary_sums(corpus.summaries(of, whole), encoder, self.vocabulary)
        return sums.take(np.searchsorted(whole.entity, side.entity))

    def ranker_shape(self, inputs: RankerInputs, runs: int = 1) -> RankerShape:
        """The ranker that fits these features, for so many runs.

        One reducer over text and one over captions; the baseline's has text and photos in one (paper,
        section 3).
        """
        apart = set() if self._averaged else {"item photos"}
        image = {name: size for name, size in inputs.block_sizes.items() if name in apart}
        text = {name: size for name, size in inputs.block_sizes.items() if name not in image}
        ranker = self.config.ranker
        return RankerShape(
            dense=inputs.dense_size,
            groups={"text": text, **({"image": image} if image else {})},
            categories=len(self.vocabulary),
            embedding_size=ranker.embedding_size,
            hidden_size=ranker.hidden_size,
            runs=runs,
            linear=ranker.features == "mmrec",
        )


def _whole(entity: np.ndarray, known: np.ndarray) -> EvidenceViews:
    """One view an entity, which hears all of its known reviews."""
    return EvidenceViews.excluding(entity, known, np.full(len(entity), -1))


def _vocabulary(corpus: Dataset, evidence: Evidence, config: Config) -> list[str]:
    if config.annotation.strategy == "notes":
        said = (corpus.notes[row].categories for row in evidence.evidence_rows)
    else:
        whole = _whole(corpus.data.item, evidence.evidence_rows)
        said = (summary.categories for summary in corpus.summaries("item", whole))
    counts = Counter(category for categories in said for category in categories)
    return [
        category for category, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def build_features(
    corpus: Dataset, evidence: Evidence, config: Config
) -> tuple[FeatureBuilder, Features]:
    """What makes features, and those of all rows."""
    assembler = FeatureBuilder.fit(corpus, evidence, config)
    user, item = (
        assembler.build_user(evidence.user, corpus),
        assembler.build_item(evidence.item, corpus),
    )
    return assembler, Features.from_views(evidence, user, item)
