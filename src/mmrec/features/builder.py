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
from mmrec.errors import ConfigError
from mmrec.evidence.policies import VALID, Evidence, Side
from mmrec.features.annotations import Sums, rating_sums, summary_sums
from mmrec.features.dataset import Corpus
from mmrec.features.mixed_effects import Effects, choose_penalties
from mmrec.features.tables import Constants, Features, SideFeatures, side_features
from mmrec.features.text_regression import TextSums
from mmrec.llm.prompts import Of
from mmrec.ranker.dlrm import Shape
from mmrec.ranker.inputs import Inputs

__all__ = ["Assembler", "assemble"]

_LAST = -1
_VOICES = 4.0
_VIEWS_AT_ONCE = 1 << 16


class Assembler(BaseModel):
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
    nobody: dict[Of, dict[str, float]] = {}
    """Effects of a user and an item of whom nothing is known."""
    taste_size: int = 0
    """Width of tastes."""
    effects: dict[int, Effects] = Field(default={}, exclude=True)
    """By fold, what its rows may hear; under -1 what is known at last."""

    @classmethod
    def of(cls, corpus: Corpus, evidence: Evidence, config: Config) -> Assembler:
        """Learn constants from what valid may hear, and the vocabulary from all known reviews.

        Raises:
            ConfigError: effects under another policy than `fold`.
        """
        known, model = evidence.known, config.ranker.features
        vocabulary = [] if model == "baseline" else _vocabulary(corpus, evidence, config)
        image = corpus.pictured(known, captions=model != "baseline")
        assembler = cls(
            config=config,
            constants=Constants.of(corpus.data, evidence.heard(VALID)),
            vocabulary=vocabulary,
            image=image and (model != "baseline" or corpus.models.image.available()),
        )
        if model != "mmrec":
            return assembler
        # PyTorch's threads and NumPy's would wait for each other's cores: three times as slow on two.
        with threadpool_limits(1, "openmp"):
            return assembler._with_effects(corpus, evidence)

    def _with_effects(self, corpus: Corpus, evidence: Evidence) -> Assembler:
        if evidence.policy != "fold":
            raise ConfigError(
                f"--features mmrec needs --policy fold, not {evidence.policy}: its effects are fitted on "
                "everyone's reviews, once for every fold; take --features proposed"
            )
        heard, valid = evidence.heard(VALID), np.flatnonzero(evidence.fold == VALID)
        penalties = choose_penalties(corpus.data, heard, valid)
        folds = np.unique(evidence.fold).tolist()
        effects, reviewed = {}, corpus.reviewed
        with track("fitting effects", len(folds)) as advance:
            everyone = TextSums.of(reviewed, evidence.known)
            for fold in folds:
                heard = evidence.heard(fold)
                silent = np.setdiff1d(evidence.known, heard, assume_unique=True)
                texts = everyone.without(reviewed, silent)
                effects[fold] = Effects.fit(reviewed, heard, penalties, texts)
                advance(1)
        return self.model_copy(update={"penalties": penalties, "effects": effects})._final()

    def knowing(self, corpus: Corpus) -> Assembler:
        """The same, for views that hear all reviews of a corpus."""
        if self.config.ranker.features != "mmrec":
            return self
        everything = np.arange(len(corpus))
        with threadpool_limits(1, "openmp"):
            effects = {_LAST: Effects.fit(corpus.reviewed, everything, self.penalties)}
        return self.model_copy(update={"effects": effects})._final()

    def _final(self) -> Assembler:
        last = self.effects[_LAST]
        nobody = {
            side: {name: float(values[-1]) for name, values in columns.items()}
            for side, columns in (("user", last.user), ("item", last.item))
        }
        return self.model_copy(update={"nobody": nobody, "taste_size": last.user_taste.shape[1]})

    def user(self, side: Side, corpus: Corpus) -> SideFeatures:
        """Features of the views of users."""
        return self.features("user", self.sums("user", side, corpus), *self.fitted("user", side))

    def item(self, side: Side, corpus: Corpus) -> SideFeatures:
        """Features of the views of items: also their number of reviews, price, categories, photos."""
        return self.features("item", self.sums("item", side, corpus), *self.fitted("item", side))

    def sums(self, of: Of, side: Side, corpus: Corpus) -> Sums:
        """What the reviews of every view add up to."""
        sums = self._words(of, side, corpus)
        rated = rating_sums(side, corpus.data.rating)
        sums = replace(sums, ratings=rated.ratings, stars=rated.stars)
        if of == "item" and self.image:
            photos = corpus.image_vectors if self._averaged else corpus.caption_vectors
            mean, count = photos.means(side)
            sums = replace(
                sums, vectors=sums.vectors | {"photos": mean}, voices=sums.voices | {"photos": count}
            )
        return sums

    def features(
        self, of: Of, sums: Sums, effects: dict[str, np.ndarray], taste: np.ndarray | None
    ) -> SideFeatures:
        """Features of views, from their sums and (v + 1,) effects and tastes, the last of nobody."""
        ours, constants = self.config.ranker.features == "mmrec", self.constants
        return side_features(
            sums,
            constants.mean,
            constants.user_prior if of == "user" else constants.item_prior,
            # A mean over few voices is mostly chance, so ours is drawn towards the mean of all.
            voices=_VOICES if ours else 0.0,
            counted=ours or of == "item",
            priced=of == "item" and not self._averaged,
            max_categories=self.config.profile.max_categories,
            effects=effects,
            taste=taste,
        )

    @property
    def captioned(self) -> bool:
        """Whether what photos show is read in words."""
        return self.image and not self._averaged

    @property
    def _averaged(self) -> bool:
        """Whether words are averages of whole reviews, as in the paper's baseline."""
        return self.config.ranker.features == "baseline"

    def fitted(self, of: Of, side: Side) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Effects and tastes of views, from what the fold of each may hear; the last are nobody's."""
        return self._effects(of, side), self._taste(of, side)

    def _effects(self, of: Of, side: Side) -> dict[str, np.ndarray]:
        """(v + 1,) columns: of every view's entity, from what the view's fold may hear, and of nobody."""
        columns = {
            name: np.full(len(side) + 1, value, dtype=np.float32)
            for name, value in self.nobody.get(of, {}).items()
        }
        for fold, effects in self.effects.items():
            views = np.flatnonzero(side.fold == fold)
            for name, values in (effects.user if of == "user" else effects.item).items():
                columns[name][views] = values[side.entity[views]]
        return columns

    def _taste(self, of: Of, side: Side) -> np.ndarray | None:
        """(v + 1, d) of every view's entity; of nobody, and of a stranger, zero."""
        if not self.nobody:
            return None
        taste = arrays.empty((len(side) + 1, self.taste_size), np.float16)
        taste[np.append(np.isin(side.fold, [*self.effects], invert=True), True)] = 0
        for fold, effects in self.effects.items():
            views = np.flatnonzero(side.fold == fold)
            whole = effects.user_taste if of == "user" else effects.item_taste
            for part in np.array_split(views, 1 + len(views) // _VIEWS_AT_ONCE):
                taste[part] = whole[side.entity[part]]
        return taste

    def stranger(self, corpus: Corpus) -> SideFeatures:
        """Features of a user of whom there are words alone."""
        side = Side.listed(np.zeros(1, dtype=np.int64), [np.zeros(1, dtype=np.int64)])
        return self.model_copy(update={"effects": {}}).user(side, corpus)

    def _words(self, of: Of, side: Side, corpus: Corpus) -> Sums:
        if self._averaged:
            sums = rating_sums(side, np.full(len(corpus), np.nan))
            count = side.sum(np.ones((len(corpus), 1), dtype=np.float32))[:, 0]
            mean = side.mean(corpus.text_vectors, count)
            return replace(sums, vectors={"reviews": mean}, voices={"reviews": count})
        if self.config.profile.strategy == "notes":
            return corpus.note_arrays(self.vocabulary).sums(side)
        encoder = corpus.models.encoder
        if self.config.evidence.summaries == "policy":
            return summary_sums(corpus.summaries(of, side), encoder, self.vocabulary)
        entity = corpus.data.user if of == "user" else corpus.data.item
        whole = _whole(entity, np.sort(side.order))
        sums = summary_sums(corpus.summaries(of, whole), encoder, self.vocabulary)
        return sums.at(np.searchsorted(whole.entity, side.entity))

    def shape(self, inputs: Inputs, runs: int = 1) -> Shape:
        """The ranker that fits these features, for so many runs.

        One reducer over text and one over captions; the baseline's has text and photos in one (paper,
        section 3).
        """
        apart = set() if self._averaged else {"item photos"}
        image = {name: size for name, size in inputs.blocks.items() if name in apart}
        text = {name: size for name, size in inputs.blocks.items() if name not in image}
        ranker = self.config.ranker
        return Shape(
            dense=inputs.dense_size,
            groups={"text": text, **({"image": image} if image else {})},
            categories=len(self.vocabulary),
            embedding_size=ranker.embedding_size,
            hidden_size=ranker.hidden_size,
            runs=runs,
            linear=ranker.features == "mmrec",
        )


def _whole(entity: np.ndarray, known: np.ndarray) -> Side:
    """One view an entity, which hears all of its known reviews."""
    return Side.excluding(entity, known, np.full(len(entity), -1))


def _vocabulary(corpus: Corpus, evidence: Evidence, config: Config) -> list[str]:
    if config.profile.strategy == "notes":
        said = (corpus.notes[row].categories for row in evidence.known)
    else:
        whole = _whole(corpus.data.item, evidence.known)
        said = (summary.categories for summary in corpus.summaries("item", whole))
    counts = Counter(category for categories in said for category in categories)
    return [category for category, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def assemble(corpus: Corpus, evidence: Evidence, config: Config) -> tuple[Assembler, Features]:
    """What makes features, and those of all rows."""
    assembler = Assembler.of(corpus, evidence, config)
    user, item = assembler.user(evidence.user, corpus), assembler.item(evidence.item, corpus)
    return assembler, Features.of(evidence, user, item)
