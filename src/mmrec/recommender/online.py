"""Live reviews: what one more review changes at once, from stored sums; nothing is trained again.

A user and an item are what their reviews add up to, so a review is added to both. Effects that were fitted on
everyone's reviews are brought up to date where the review touches them, the other side held fixed: a step of
the same regression, which a later `fit` solves for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    TEXT_COLUMNS,
    review_statistics,
    ridge_factors,
)
from mmrec.features.tables import EntityFeatures, Features
from mmrec.features.text_regression import PRIOR_TEXTS, TextRegression
from mmrec.llm.types import Note, Summary

__all__ = ["KnownReviews", "LiveReview", "OnlineState"]

_ZERO = np.zeros(1, dtype=np.int64)
_MOST = 5.0  # stars
_SIDES: tuple[EntityKind, EntityKind] = ("user", "item")
_ONE = EvidenceViews.from_lists(_ZERO, [_ZERO])


@dataclass(frozen=True)
class KnownReviews:
    """What is kept of the reviews that a model knows, so that others can be added.

    Attributes:
        data: who rated what.
        features: of every user and every item, by code.
        evidence_sums: what their reviews add up to, but for vectors, which `features` has the means of.
        text_regression: how texts were read for the effects, where the model has any.
    """

    data: Interactions
    features: Features
    evidence_sums: dict[EntityKind, EvidenceSums]
    text_regression: TextRegression | None

    @classmethod
    def from_dataset(cls, corpus: Dataset, assembler: FeatureBuilder) -> KnownReviews:
        """All reviews of a corpus; the assembler is one that knows them all."""
        data, sides, tally = corpus.data, {}, {}
        for of, entity in _entities(data):
            side = EvidenceViews.all_reviews(entity)
            sums = assembler.evidence_sums(of, side, corpus)
            sides[of] = assembler.from_sums(of, sums, *assembler.entity_effects(of, side))
            tally[of] = replace(sums, vectors={})
        effects = assembler.mixed_effects.get(NO_GROUP)
        features = Features(sides["user"], sides["item"], data.user, data.item)
        return cls(data, features, tally, effects.text_regression if effects else None)


@dataclass(frozen=True)
class LiveReview:
    """A live review: what was rated how, in which words, and what was read out of them."""

    user: str
    item: str
    rating: float
    text: str
    note: Note


@dataclass
class _Entity:
    """A user or an item that a live review has touched; of a user also what was rated how."""

    sums: EvidenceSums
    columns: dict[str, float]
    taste: np.ndarray
    ratings: list[tuple[int, float]]

    @property
    def count(self) -> float:
        return float(self.sums.rating_count[0])


class OnlineState:
    """All users and items as they stand, live reviews among them.

    Args:
        known: what there was before; its features are changed in place.
        assembler: makes features.
        models: put words into vectors.

    Attributes:
        features: of every user and every item by code; in front of the last view, of which nothing is known,
            there may be some that nobody has yet.
        codes: `user` and `item` -> code by name.
    """

    def __init__(self, known: KnownReviews, assembler: FeatureBuilder, models: Models) -> None:
        self._known, self._assembler, self._models = known, assembler, models
        self.features, data = known.features, known.data
        names: dict[EntityKind, list[str]] = {"user": data.users, "item": data.items}
        self.codes: dict[EntityKind, dict[str, int]] = {
            of: {name: code for code, name in enumerate(own)} for of, own in names.items()
        }
        self._touched: dict[tuple[EntityKind, int], _Entity] = {}

    def add_review(self, review: LiveReview) -> tuple[int, int]:
        """Add a review; the codes of its user and its item, whose features are others from then on."""
        # A summary cannot take a review in without being written again; the numbers can.
        corpus = Dataset.single_review(
            review.text, review.rating, self._models, review.note, Summary(text="")
        )
        # What may fail goes first, so that nothing is changed by halves.
        vector = corpus.text_vectors[0].astype(np.float64)
        of_user, of_item = (self._assembler.evidence_sums(of, _ONE, corpus) for of in _SIDES)
        codes = self._code("user", review.user), self._code("item", review.item)
        user, item = self._entity("user", codes[0]), self._entity("item", codes[1])
        user.ratings.append((codes[1], review.rating))
        if self._known.text_regression is not None:
            self._bring_up_to_date(self._known.text_regression, user, item, review, vector)
        user.sums += of_user
        item.sums += of_item
        self.features.user.replace_view(codes[0], self._made("user", user))
        self.features.item.replace_view(codes[1], self._made("item", item))
        return codes

    def add_item(self, item: str, text: str, note: Note, captions: Sequence[str]) -> int:
        """Learn of an item what it says of itself and what its photos show; its code.

        Args:
            item: its id; it may be known already.
            text, note: a description, "" where there is none, and what it says.
            captions: of photos.

        Raises:
            DataError: there is nothing in it that the model can use.
        """
        self.check_item_content(text, captions)
        corpus = Dataset.single_review(text, np.nan, self._models, note, captions=captions)
        told = self._assembler.evidence_sums("item", _ONE, corpus)
        code = self._code("item", item)
        entity = self._entity("item", code)
        entity.sums += told
        self.features.item.replace_view(code, self._made("item", entity))
        return code

    def check_item_content(self, text: str, captions: Sequence[str]) -> None:
        """Look whether the model can use what an item is to be introduced by.

        Raises:
            DataError: it cannot.
        """
        if captions and not text.strip() and not self._assembler.uses_captions:
            raise DataError(
                "this model has learned nothing from captions: describe the item in words"
            )
        if not text.strip() and not captions:
            raise DataError("describe the item in words, or bring a photo of it")

    def new_user_features(self, liked: Sequence[int]) -> EntityFeatures:
        """Features, one view, of someone of whom only some liked items are known: five stars each."""
        user, codes = self._untouched("user", self.features.user.unknown_index), list(liked)
        if (lens := self._known.text_regression) is not None:
            rated = [
                self._touched.get(("item", code)) or self._untouched("item", code) for code in codes
            ]
            above = (
                _MOST - lens.mean_rating - np.array([one.columns["rating effect"] for one in rated])
            )
            user.columns["rating effect"] = above.sum() / (
                len(codes) + self._assembler.penalties[0]
            )
            residual = above - user.columns["rating effect"]
            for what, values in review_statistics(
                np.full(len(codes), _MOST), residual, np.ones(len(codes))
            ).items():
                if what not in TEXT_COLUMNS:
                    old = user.columns[what] * PRIOR_REVIEWS
                    user.columns[what] = float(old + values.sum()) / (len(codes) + PRIOR_REVIEWS)
            user.taste = ridge_factors(np.stack([one.taste for one in rated]), residual)
        # Whoever likes an item might have said what those say who liked it.
        side = self.features.item
        spoken = [name for name in user.sums.vectors if name in side.vectors and name != "dislikes"]
        vectors = {
            name: side.vectors[name][codes].astype(np.float32).mean(0)[None] for name in spoken
        }
        voices = {name: np.array([len(codes)], dtype=np.float32) for name in spoken}
        stars = np.array([len(codes), _MOST * len(codes)])[:, None]
        told = replace(
            user.sums.zeros(),
            rating_count=stars[0],
            rating_sum=stars[1],
            vectors=vectors,
            text_count=voices,
        )
        return self._made("user", replace(user, sums=user.sums + told))

    def _code(self, of: EntityKind, name: str) -> int:
        codes, features = self.codes[of], self.features
        if name not in codes:
            codes[name] = len(codes)
            if of == "user" and codes[name] == features.user.unknown_index:
                self.features = replace(features, user=features.user.with_capacity())
            if of == "item" and codes[name] == features.item.unknown_index:
                self.features = replace(features, item=features.item.with_capacity())
        return codes[name]

    def _entity(self, of: EntityKind, code: int) -> _Entity:
        if (of, code) not in self._touched:
            self._touched[of, code] = self._untouched(of, code)
        return self._touched[of, code]

    def _untouched(self, of: EntityKind, code: int) -> _Entity:
        """As fitted; of a code that has come since, nothing."""
        data, tally = self._known.data, self._known.evidence_sums[of]
        side = self.features.user if of == "user" else self.features.item
        sums = tally.take(np.array([min(code, len(tally.rating_count) - 1)]))
        if code >= len(tally.rating_count):
            sums = sums.zeros()
        vectors = {name: x[[code]].astype(np.float32) for name, x in side.vectors.items()}
        rows = np.flatnonzero(data.user == code) if of == "user" else ()
        ratings = [(int(data.item[row]), float(data.rating[row])) for row in rows]
        own = EFFECT_COLUMNS if self._known.text_regression else ()
        columns = {what: float(side.dense[code, side.names.index(what)]) for what in own}
        taste = side.factors[code].astype(np.float64) if columns else np.zeros(0)
        return _Entity(replace(sums, vectors=vectors), columns, taste, ratings)

    def _bring_up_to_date(
        self,
        lens: TextRegression,
        user: _Entity,
        item: _Entity,
        said: LiveReview,
        vector: np.ndarray,
    ) -> None:
        """Effects and topics, as if the penalised means had heard this too; then the user's taste."""
        before = user.count, item.count
        told = {
            "rating effect": said.rating - lens.mean_rating,
            "text rating effect": float(lens.predict(vector)),
        }
        both = tuple(
            zip((user, item), (item, user), before, self._assembler.penalties, strict=True)
        )
        fresh = {
            what: [
                (one.columns[what] * (count + penalty) + value - other.columns[what])
                / (count + 1 + penalty)
                for one, other, count, penalty in both
            ]
            for what, value in told.items()
        }
        for what, (of_user, of_item) in fresh.items():
            user.columns[what], item.columns[what] = of_user, of_item
        residual = told["rating effect"] - sum(fresh["rating effect"])
        brought = review_statistics(
            *(np.array([one]) for one in (said.rating, residual, len(said.text)))
        )
        for one, count in zip((user, item), before, strict=True):
            for what, value in brought.items():
                old = one.columns[what] * (count + PRIOR_REVIEWS)
                one.columns[what] = (old + float(value[0])) / (count + 1 + PRIOR_REVIEWS)
        centred = (vector - lens.mean_vector) @ lens.topic_axes
        item.taste = (item.taste * (before[1] + PRIOR_TEXTS) + centred) / (
            before[1] + 1 + PRIOR_TEXTS
        )
        codes, stars = zip(*user.ratings, strict=True)
        rated = [
            self._touched.get(("item", code)) or self._untouched("item", code) for code in codes
        ]
        effects = np.array([one.columns["rating effect"] for one in rated])
        residuals = np.array(stars) - lens.mean_rating - user.columns["rating effect"] - effects
        user.taste = ridge_factors(np.stack([one.taste for one in rated]), residuals)

    def _made(self, of: EntityKind, entity: _Entity) -> EntityFeatures:
        nobody = self._assembler.unknown_effects.get(of, {})
        columns = {what: np.array([value, nobody[what]]) for what, value in entity.columns.items()}
        taste = np.stack([entity.taste, np.zeros_like(entity.taste)]).astype(np.float16)
        return self._assembler.from_sums(of, entity.sums, columns, taste if columns else None)


def _entities(
    data: Interactions,
) -> tuple[tuple[EntityKind, np.ndarray], tuple[EntityKind, np.ndarray]]:
    return ("user", data.user), ("item", data.item)
