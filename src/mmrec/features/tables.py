"""Dense, sparse, text and image inputs of a ranker, made from views alone (paper, section 3).

A row's features are its user's view and its item's view, side by side; so they are kept once per view,
and a row is two view numbers. The last view of a side is `nothing known`: strangers use it, and training
puts it in the place of some known ones, so that the model learns what to do without them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmrec.data import arrays
from mmrec.data.schema import Interactions
from mmrec.evidence.policies import Evidence
from mmrec.features.annotations import EvidenceSums
from mmrec.features.mixed_effects import EFFECT_COLUMNS, TEXT_COLUMNS
from mmrec.llm.types import PRICE_TAGS

__all__ = ["RATING_COLUMNS", "Constants", "EntityFeatures", "Features", "entity_features"]

RATING_COLUMNS = {"mean rating", "no rating", "log count", *EFFECT_COLUMNS} - {*TEXT_COLUMNS}
"""Dense columns that are made of ratings; the others come out of words and photos."""

_CATEGORY_SHARE = 0.1
_VIEWS_AT_ONCE = 1 << 14
_PRICE_PRIOR = 5.0
_MODALITIES = {"gist", "summary", "reviews", "photos"}
"""Blocks whose absence means that a whole modality is missing; a review without a like says no such thing."""


@dataclass(frozen=True)
class Constants:
    """Figures of the training data that features are made with; saved with a model.

    Attributes:
        mean: mean rating of the rows that are heard.
        user_prior, item_prior: reviews' worth of the mean that an average of few ratings is shrunk with:
            variance within entities over variance between them (James-Stein, by moments).
    """

    mean: float
    user_prior: float
    item_prior: float

    @classmethod
    def estimate(cls, data: Interactions, heard: np.ndarray) -> Constants:
        """Estimate from some rows."""
        rating = data.rating[heard].astype(np.float64)
        priors = [_prior(rating, entity[heard]) for entity in (data.user, data.item)]
        return cls(float(rating.mean()), *priors)


def _prior(rating: np.ndarray, entity: np.ndarray) -> float:
    """Ratio of the variance within entities to that between them, by the method of moments."""
    count = np.bincount(entity)
    seen = count > 0
    means = np.bincount(entity, weights=rating)[seen] / count[seen]
    count = count[seen]
    within = np.sum(rating**2) - np.sum(count * means**2)
    freedom = len(rating) - len(count)
    if freedom <= 0 or len(count) < 2:
        return 1.0
    within /= freedom
    spread = np.sum(count * (means - rating.mean()) ** 2) - (len(count) - 1) * within
    between = spread / (len(rating) - np.sum(count**2) / len(rating))
    return float(np.clip(within / max(between, 1e-9), 0.1, 100.0))


@dataclass(frozen=True)
class EntityFeatures:
    """Features of every view of one side, and of `nothing known` as the last one.

    Attributes:
        names: what each dense column is.
        dense: (v + 1, p) float32.
        vectors: name -> (v + 1, d) float16, zero where missing.
        present: name -> (v + 1,) 0 where missing, else 1; or less where only few voices stand behind a mean.
        categories: (v + 1, 11) int64 codes padded with the vocabulary's size; (v + 1, 0) where not used.
        factors: (v + 1, d) float16, of which the dot product of both sides is a number of the pair (see
            `mmrec.features.mixed_effects`); empty where not used.
    """

    names: tuple[str, ...]
    dense: np.ndarray
    vectors: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    categories: np.ndarray
    factors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float16))

    @property
    def unknown_index(self) -> int:
        """The view of which nothing is known."""
        return len(self.dense) - 1

    def replace_view(self, view: int, made: EntityFeatures) -> None:
        """Set a view to the first one of others, in place."""
        for mine, others in zip(self._arrays(), made._arrays(), strict=True):
            mine[view] = others[0]

    def with_capacity(self, by: int = 1024) -> EntityFeatures:
        """A copy with more views of which nothing is known in front of the last one."""
        at = np.append(np.arange(len(self.dense)), np.full(by, self.unknown_index))
        vectors, present = (
            {name: x[at] for name, x in own.items()} for own in (self.vectors, self.present)
        )
        taste = self.factors[at] if self.factors.size else self.factors
        return EntityFeatures(
            self.names, self.dense[at], vectors, present, self.categories[at], taste
        )

    def _arrays(self) -> list[np.ndarray]:
        tastes = [self.factors] if self.factors.size else []
        named = [own[name] for own in (self.vectors, self.present) for name in sorted(own)]
        return [self.dense, *named, self.categories, *tastes]


@dataclass(frozen=True)
class Features:
    """Features of both sides, and every row's views."""

    user: EntityFeatures
    item: EntityFeatures
    user_view: np.ndarray
    item_view: np.ndarray

    @classmethod
    def from_views(cls, evidence: Evidence, user: EntityFeatures, item: EntityFeatures) -> Features:
        """Rows as evidence has them."""
        return cls(user, item, evidence.user.view, evidence.item.view)


def entity_features(
    sums: EvidenceSums,
    mean: float,
    prior: float,
    *,
    prior_texts: float = 0.0,
    with_count: bool = False,
    with_price: bool = False,
    max_categories: int = 0,
    effects: dict[str, np.ndarray] | None = None,
    factors: np.ndarray | None = None,
) -> EntityFeatures:
    """Make the features of one side.

    Args:
        sums: what its views' reviews add up to.
        mean, prior: of `Constants`.
        prior_texts: texts' worth of the mean of all words that a mean of few texts is drawn to.
        with_count: whether the number of reviews is a feature (the paper: of the item, not of the user).
        with_price: whether price votes are features, and categories where `max_categories` > 0.
        max_categories: most categories a view may have.
        effects: more columns (see `mmrec.features.mixed_effects`), (v + 1,); the last is of unknown ids.
        factors: (v + 1, d), also of those.
    """
    count = sums.rating_count
    dense: dict[str, np.ndarray] = {
        "mean rating": (sums.rating_sum + prior * mean) / (count + prior),
        "no rating": count == 0,
    }
    if with_count:
        dense["log count"] = np.log1p(count)
    categories = np.zeros((len(count), 0), dtype=np.int64)
    if with_price:
        tags = sums.price[:, : PRICE_TAGS.index("none")]
        tagged = tags.sum(axis=1)
        # Shrunk towards "none", since one voice on the price is not yet a price.
        for at, tag in enumerate(PRICE_TAGS[:-1]):
            dense[tag] = tags[:, at] / (tagged + _PRICE_PRIOR)
        dense["no price"] = _PRICE_PRIOR / (tagged + _PRICE_PRIOR)
        categories = _top(sums.categories, max_categories)
    for name in sorted(_MODALITIES & sums.text_count.keys()):
        dense[f"no {name}"] = sums.text_count[name] == 0
    nothing = {
        name: mean if name == "mean rating" else float(name.startswith("no ")) for name in dense
    }
    for name, values in (effects or {}).items():
        dense[name], nothing[name] = values[:-1], float(values[-1])
    present = {
        name: said / np.maximum(said + (0 if name == "photos" else prior_texts), 1e-9)
        for name, said in sums.text_count.items()
    }
    numbers = arrays.allocate((len(count) + 1, len(dense)), np.float32)
    for at, (name, column) in enumerate(dense.items()):
        numbers[:-1, at], numbers[-1, at] = column, nothing[name]
    width = sums.categories.shape[1] if with_price else 0
    return EntityFeatures(
        tuple(dense),
        numbers,
        {name: _with_zero(means) for name, means in sums.vectors.items()},
        {name: np.append(there, 0).astype(np.float32) for name, there in present.items()},
        np.concatenate([categories, np.full((1, categories.shape[1]), width, dtype=np.int64)]),
        np.zeros((0, 0), dtype=np.float16) if factors is None else factors,
    )


def _top(votes: np.ndarray, most: int) -> np.ndarray:
    """The codes with most votes of every row, best first, padded with the size (the paper's 179).

    A code needs a tenth of the votes of the first one: a long tail of single mentions says little.
    """
    size = votes.shape[1]
    out = np.full((len(votes), most), size, dtype=np.int64)
    for at in range(0, len(votes), _VIEWS_AT_ONCE):
        part = votes[at : at + _VIEWS_AT_ONCE]
        order = np.argsort(-part, axis=1, kind="stable")[:, :most]
        ranked = np.take_along_axis(part, order, axis=1)
        enough = (ranked > 0) & (ranked >= _CATEGORY_SHARE * ranked[:, :1])
        out[at : at + _VIEWS_AT_ONCE, : order.shape[1]][enough] = order[enough]
    return out


def _with_zero(means: np.ndarray) -> np.ndarray:
    out = arrays.allocate((len(means) + 1, means.shape[1]), np.float16)
    out[:-1], out[-1] = means, 0
    return out
