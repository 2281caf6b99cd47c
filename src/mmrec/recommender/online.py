"""Live reviews: what one more review changes at once, from stored sums; nothing is trained again.

A user and an item are what their reviews add up to, so a review is added to both. Effects that were fitted on
everyone's reviews are brought up to date where the review touches them, the other side held fixed: a step of
the same regression, which a later `fit` solves for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmrec.data.schema import Interactions
from mmrec.errors import DataError
from mmrec.evidence.policies import Side
from mmrec.features.annotations import Sums
from mmrec.features.builder import Assembler
from mmrec.features.dataset import Corpus, Models
from mmrec.features.mixed_effects import COLUMNS, PRIOR, TOLD, averaged, taste_of
from mmrec.features.tables import Features, SideFeatures
from mmrec.features.text_regression import VOICES, Lens
from mmrec.llm.prompts import Of
from mmrec.llm.types import Note, Summary

__all__ = ["Known", "Live", "Said"]

_ZERO = np.zeros(1, dtype=np.int64)
_MOST = 5.0  # stars
_SIDES: tuple[Of, Of] = ("user", "item")
_ONE = Side.listed(_ZERO, [_ZERO])


@dataclass(frozen=True)
class Known:
    """What is kept of the reviews that a model knows, so that others can be added.

    Attributes:
        data: who rated what.
        features: of every user and every item, by code.
        tally: what their reviews add up to, but for vectors, which `features` has the means of.
        lens: how texts were read for the effects, where the model has any.
    """

    data: Interactions
    features: Features
    tally: dict[Of, Sums]
    lens: Lens | None

    @classmethod
    def of(cls, corpus: Corpus, assembler: Assembler) -> Known:
        """All reviews of a corpus; the assembler is one that knows them all."""
        data, sides, tally = corpus.data, {}, {}
        for of, entity in _entities(data):
            side = Side.whole(entity)
            sums = assembler.sums(of, side, corpus)
            sides[of] = assembler.features(of, sums, *assembler.fitted(of, side))
            tally[of] = replace(sums, vectors={})
        effects = assembler.effects.get(-1)
        features = Features(sides["user"], sides["item"], data.user, data.item)
        return cls(data, features, tally, effects.lens if effects else None)


@dataclass(frozen=True)
class Said:
    """A live review: what was rated how, in which words, and what was read out of them."""

    user: str
    item: str
    rating: float
    text: str
    note: Note


@dataclass
class _Entity:
    """A user or an item that a live review has touched; of a user also what was rated how."""

    sums: Sums
    columns: dict[str, float]
    taste: np.ndarray
    ratings: list[tuple[int, float]]

    @property
    def count(self) -> float:
        return float(self.sums.ratings[0])


class Live:
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

    def __init__(self, known: Known, assembler: Assembler, models: Models) -> None:
        self._known, self._assembler, self._models = known, assembler, models
        self.features, data = known.features, known.data
        names: dict[Of, list[str]] = {"user": data.users, "item": data.items}
        self.codes: dict[Of, dict[str, int]] = {
            of: {name: code for code, name in enumerate(own)} for of, own in names.items()
        }
        self._touched: dict[tuple[Of, int], _Entity] = {}

    def add(self, said: Said) -> tuple[int, int]:
        """Add a review; the codes of its user and its item, whose features are others from then on."""
        # A summary cannot take a review in without being written again; the numbers can.
        corpus = Corpus.single(said.text, said.rating, self._models, said.note, Summary(text=""))
        # What may fail goes first, so that nothing is changed by halves.
        vector = corpus.text_vectors[0].astype(np.float64)
        of_user, of_item = (self._assembler.sums(of, _ONE, corpus) for of in _SIDES)
        codes = self._code("user", said.user), self._code("item", said.item)
        user, item = self._entity("user", codes[0]), self._entity("item", codes[1])
        user.ratings.append((codes[1], said.rating))
        if self._known.lens is not None:
            self._bring_up_to_date(self._known.lens, user, item, said, vector)
        user.sums += of_user
        item.sums += of_item
        self.features.user.put(codes[0], self._made("user", user))
        self.features.item.put(codes[1], self._made("item", item))
        return codes

    def introduce(self, item: str, text: str, note: Note, captions: Sequence[str]) -> int:
        """Learn of an item what it says of itself and what its photos show; its code.

        Args:
            item: its id; it may be known already.
            text, note: a description, "" where there is none, and what it says.
            captions: of photos.

        Raises:
            DataError: there is nothing in it that the model can use.
        """
        self.check(text, captions)
        corpus = Corpus.single(text, np.nan, self._models, note, captions=captions)
        told = self._assembler.sums("item", _ONE, corpus)
        code = self._code("item", item)
        entity = self._entity("item", code)
        entity.sums += told
        self.features.item.put(code, self._made("item", entity))
        return code

    def check(self, text: str, captions: Sequence[str]) -> None:
        """Look whether the model can use what an item is to be introduced by.

        Raises:
            DataError: it cannot.
        """
        if captions and not text.strip() and not self._assembler.captioned:
            raise DataError("this model has learned nothing from captions: describe the item in words")
        if not text.strip() and not captions:
            raise DataError("describe the item in words, or bring a photo of it")

    def newcomer(self, liked: Sequence[int]) -> SideFeatures:
        """Features, one view, of someone of whom only some liked items are known: five stars each."""
        user, codes = self._untouched("user", self.features.user.nothing), list(liked)
        if (lens := self._known.lens) is not None:
            rated = [self._touched.get(("item", code)) or self._untouched("item", code) for code in codes]
            above = _MOST - lens.mean - np.array([one.columns["rating effect"] for one in rated])
            user.columns["rating effect"] = above.sum() / (len(codes) + self._assembler.penalties[0])
            residual = above - user.columns["rating effect"]
            for what, values in averaged(np.full(len(codes), _MOST), residual, np.ones(len(codes))).items():
                if what not in TOLD:
                    old = user.columns[what] * PRIOR
                    user.columns[what] = float(old + values.sum()) / (len(codes) + PRIOR)
            user.taste = taste_of(np.stack([one.taste for one in rated]), residual)
        # Whoever likes an item might have said what those say who liked it.
        side = self.features.item
        spoken = [name for name in user.sums.vectors if name in side.vectors and name != "dislikes"]
        vectors = {name: side.vectors[name][codes].astype(np.float32).mean(0)[None] for name in spoken}
        voices = {name: np.array([len(codes)], dtype=np.float32) for name in spoken}
        stars = np.array([len(codes), _MOST * len(codes)])[:, None]
        told = replace(user.sums.nothing(), ratings=stars[0], stars=stars[1], vectors=vectors, voices=voices)
        return self._made("user", replace(user, sums=user.sums + told))

    def _code(self, of: Of, name: str) -> int:
        codes, features = self.codes[of], self.features
        if name not in codes:
            codes[name] = len(codes)
            if of == "user" and codes[name] == features.user.nothing:
                self.features = replace(features, user=features.user.grown())
            if of == "item" and codes[name] == features.item.nothing:
                self.features = replace(features, item=features.item.grown())
        return codes[name]

    def _entity(self, of: Of, code: int) -> _Entity:
        if (of, code) not in self._touched:
            self._touched[of, code] = self._untouched(of, code)
        return self._touched[of, code]

    def _untouched(self, of: Of, code: int) -> _Entity:
        """As fitted; of a code that has come since, nothing."""
        data, tally = self._known.data, self._known.tally[of]
        side = self.features.user if of == "user" else self.features.item
        sums = tally.at(np.array([min(code, len(tally.ratings) - 1)]))
        if code >= len(tally.ratings):
            sums = sums.nothing()
        vectors = {name: x[[code]].astype(np.float32) for name, x in side.vectors.items()}
        rows = np.flatnonzero(data.user == code) if of == "user" else ()
        ratings = [(int(data.item[row]), float(data.rating[row])) for row in rows]
        own = COLUMNS if self._known.lens else ()
        columns = {what: float(side.dense[code, side.names.index(what)]) for what in own}
        taste = side.taste[code].astype(np.float64) if columns else np.zeros(0)
        return _Entity(replace(sums, vectors=vectors), columns, taste, ratings)

    def _bring_up_to_date(
        self, lens: Lens, user: _Entity, item: _Entity, said: Said, vector: np.ndarray
    ) -> None:
        """Effects and topics, as if the penalised means had heard this too; then the user's taste."""
        before = user.count, item.count
        told = {"rating effect": said.rating - lens.mean, "tone effect": float(lens.tones(vector))}
        both = tuple(zip((user, item), (item, user), before, self._assembler.penalties, strict=True))
        fresh = {
            what: [
                (one.columns[what] * (count + penalty) + value - other.columns[what]) / (count + 1 + penalty)
                for one, other, count, penalty in both
            ]
            for what, value in told.items()
        }
        for what, (of_user, of_item) in fresh.items():
            user.columns[what], item.columns[what] = of_user, of_item
        residual = told["rating effect"] - sum(fresh["rating effect"])
        brought = averaged(*(np.array([one]) for one in (said.rating, residual, len(said.text))))
        for one, count in zip((user, item), before, strict=True):
            for what, value in brought.items():
                old = one.columns[what] * (count + PRIOR)
                one.columns[what] = (old + float(value[0])) / (count + 1 + PRIOR)
        centred = (vector - lens.centre) @ lens.axes
        item.taste = (item.taste * (before[1] + VOICES) + centred) / (before[1] + 1 + VOICES)
        codes, stars = zip(*user.ratings, strict=True)
        rated = [self._touched.get(("item", code)) or self._untouched("item", code) for code in codes]
        effects = np.array([one.columns["rating effect"] for one in rated])
        residuals = np.array(stars) - lens.mean - user.columns["rating effect"] - effects
        user.taste = taste_of(np.stack([one.taste for one in rated]), residuals)

    def _made(self, of: Of, entity: _Entity) -> SideFeatures:
        nobody = self._assembler.nobody.get(of, {})
        columns = {what: np.array([value, nobody[what]]) for what, value in entity.columns.items()}
        taste = np.stack([entity.taste, np.zeros_like(entity.taste)]).astype(np.float16)
        return self._assembler.features(of, entity.sums, columns, taste if columns else None)


def _entities(data: Interactions) -> tuple[tuple[Of, np.ndarray], tuple[Of, np.ndarray]]:
    return ("user", data.user), ("item", data.item)
