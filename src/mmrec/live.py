"""Live reviews: what one more review changes at once, from stored sums; nothing is trained again.

A user and an item are what their reviews add up to, so a review is added to both. Effects that were fitted on
everyone's reviews are brought up to date where the review touches them, the other side held fixed: a step of
the same regression, which a later `fit` solves for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrec.corpus import Corpus, Models
from mmrec.effects import PRIOR, VOICES, Effects, averaged, taste_of
from mmrec.evidence import Side
from mmrec.features import SideFeatures
from mmrec.language.base import Note, Summary
from mmrec.language.prompts import Of
from mmrec.learning import Assembler
from mmrec.profiles import Sums
from mmrec.reviews.table import Interactions

__all__ = ["Known", "Live", "Said"]

_ZERO = np.zeros(1, dtype=np.int64)
_ONE, _NONE = Side.listed(_ZERO, [_ZERO]), Side.listed(_ZERO, [_ZERO[:0]])


@dataclass(frozen=True)
class Known:
    """What is kept of the reviews that a model knows, so that others can be added.

    Attributes:
        data: who rated what.
        sums: of users, and of items, by code.
        effects: of all of them, where the model has any.
    """

    data: Interactions
    sums: dict[Of, Sums]
    effects: Effects | None

    @classmethod
    def of(cls, corpus: Corpus, assembler: Assembler) -> Known:
        """From all reviews of a corpus."""
        sides: dict[Of, Side] = {"user": Side.whole(corpus.data.user), "item": Side.whole(corpus.data.item)}
        sums = {of: assembler.sums(of, side, corpus) for of, side in sides.items()}
        return cls(corpus.data, sums, assembler.effects.get(-1))


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
    ratings: list[tuple[str, float]]

    @property
    def count(self) -> float:
        return float(self.sums.ratings[0])


class Live:
    """What is known of users and items, live reviews among it.

    Args:
        known: what there was before.
        assembler: makes features.
        models: read what is said, and put it into vectors.
    """

    def __init__(self, known: Known, assembler: Assembler, models: Models) -> None:
        self._known, self._assembler, self._models = known, assembler, models
        data = known.data
        self._names: dict[Of, Sequence[str]] = {"user": data.users, "item": data.items}
        self._code: dict[Of, dict[str, int]] = {
            of: {name: code for code, name in enumerate(names)} for of, names in self._names.items()
        }
        self._touched: dict[Of, dict[str, _Entity]] = {"user": {}, "item": {}}

    def add(self, said: Said) -> tuple[SideFeatures, SideFeatures]:
        """Add a review; the features of its user and of its item from then on, one view each."""
        # A summary cannot take a review in without being written again; the numbers can.
        corpus = Corpus.single(said.text, said.rating, self._models, said.note, Summary(text=""))
        user, item = self._entity("user", said.user), self._entity("item", said.item)
        user.ratings.append((said.item, said.rating))
        if (effects := self._known.effects) is not None:
            vector = corpus.text_vectors[0].astype(np.float64)
            self._bring_up_to_date(effects, user, item, said, vector)
        user.sums += self._assembler.sums("user", _ONE, corpus)
        item.sums += self._assembler.sums("item", _ONE, corpus)
        return self._features("user", user), self._features("item", item)

    def _entity(self, of: Of, name: str) -> _Entity:
        touched = self._touched[of]
        if name not in touched:
            touched[name] = self._untouched(of, name)
        return touched[name]

    def _untouched(self, of: Of, name: str) -> _Entity:
        """As fitted; of a name that was never heard of, nothing."""
        data, effects, code = self._known.data, self._known.effects, self._code[of].get(name)
        if code is None:
            sums = self._assembler.sums(of, _NONE, Corpus.single("", np.nan, self._models, Note(gist="")))
        else:
            sums = self._known.sums[of].at(np.array([code]))
        ratings = []
        if of == "user" and code is not None:
            rows = np.flatnonzero(data.user == code)
            ratings = [(data.items[data.item[row]], float(data.rating[row])) for row in rows]
        if effects is None:
            return _Entity(sums, {}, np.zeros(0), ratings)
        at = -1 if code is None else code
        columns = {what: float(values[at]) for what, values in getattr(effects, of).items()}
        taste = (effects.user_taste if of == "user" else effects.item_taste)[at]
        return _Entity(sums, columns, taste.astype(np.float64), ratings)

    def _bring_up_to_date(
        self, effects: Effects, user: _Entity, item: _Entity, said: Said, vector: np.ndarray
    ) -> None:
        """Effects and topics, as if the penalised means had heard this too; then the user's taste."""
        lens, before = effects.lens, (user.count, item.count)
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
        user.taste = self._taste(effects, user)

    def _taste(self, effects: Effects, user: _Entity) -> np.ndarray:
        """The user's regression of residuals on the topics of what was rated."""
        touched = self._touched["item"]
        rated = [(touched.get(name) or self._untouched("item", name), stars) for name, stars in user.ratings]
        topics = np.stack([item.taste for item, _ in rated])
        known = effects.lens.mean + user.columns["rating effect"]
        residual = [rating - known - item.columns["rating effect"] for item, rating in rated]
        return taste_of(topics, np.array(residual))

    def _features(self, of: Of, entity: _Entity) -> SideFeatures:
        nobody = self._assembler.nobody.get(of, {})
        columns = {what: np.array([value, nobody[what]]) for what, value in entity.columns.items()}
        taste = np.stack([entity.taste, np.zeros_like(entity.taste)]).astype(np.float16)
        return self._assembler.features(of, entity.sums, columns, taste if entity.columns else None)
