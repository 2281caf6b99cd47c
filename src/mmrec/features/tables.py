"""Sums over the reviews of views, the features made of them, and groups of features (paper, section 3).

Features are kept once per view, and a row is a pair of views. The last view of a side stands for an
unknown user or item; training puts it in the place of some views (cold-start dropout).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np

from mmrec.data.schema import Interactions
from mmrec.evidence.policies import EvidenceViews
from mmrec.features.mixed_effects import EFFECT_COLUMNS, TEXT_COLUMNS
from mmrec.llm.types import PRICE_TAGS

# Dense columns that are made of ratings; all others come from texts and photos.
RATING_COLUMNS = {"mean rating", "no rating", "log count", *EFFECT_COLUMNS} - {*TEXT_COLUMNS}
FEATURE_GROUPS = ("ratings", "user text", "item text", "price", "categories", "photos", "counts")


@dataclass(frozen=True)
class EvidenceSums:
    """What the reviews of v views add up to, or n single reviews; features are made of these alone."""

    rating_count: np.ndarray  # (v,)
    rating_sum: np.ndarray  # (v,)
    vectors: Mapping[str, np.ndarray]  # block -> (v, d) means
    # block -> (v,) texts, or photos, behind each mean
    text_count: Mapping[str, np.ndarray]
    price: np.ndarray  # (v, 4) votes, as in `PRICE_TAGS`
    categories: np.ndarray  # (v, c) votes, as in the vocabulary

    def over(self, views: EvidenceViews) -> EvidenceSums:
        """The sums of views, from those of single reviews."""
        sums, means = replace(self, vectors={}).map(views.sum), {}
        for name, values in self.vectors.items():
            means[name] = views.mean(values, sums.text_count[name])
        return replace(sums, vectors=means)

    def __add__(self, more: EvidenceSums) -> EvidenceSums:
        """The sums over the reviews of both, by view; blocks may be missing in either."""
        vectors = {**self.vectors, **more.vectors}
        count = {**self.text_count, **more.text_count}
        for name in self.vectors.keys() & more.vectors.keys():
            count[name] = self.text_count[name] + more.text_count[name]
            # The mean of two means, weighted by the number of texts behind each.
            share = self.text_count[name][:, None] / np.maximum(count[name], 1)[:, None]
            vectors[name] = share * self.vectors[name] + (1 - share) * more.vectors[name]
        ratings = self.rating_count + more.rating_count, self.rating_sum + more.rating_sum
        votes = self.price + more.price, self.categories + more.categories
        return EvidenceSums(*ratings, vectors, count, *votes)

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> EvidenceSums:
        """The sums with each array changed: some of the views, or zeros like them."""
        vectors = {name: change(values) for name, values in self.vectors.items()}
        count = {name: change(values) for name, values in self.text_count.items()}
        ratings = change(self.rating_count), change(self.rating_sum)
        votes = change(self.price), change(self.categories)
        return EvidenceSums(*ratings, vectors, count, *votes)


def rating_sums(rating: np.ndarray) -> EvidenceSums:
    """Single reviews as (n,) ratings only; NaN where a text came without one."""
    rated = ~np.isnan(rating)
    no_votes = np.zeros((len(rating), len(PRICE_TAGS)), dtype=np.float32)
    stars = np.where(rated, rating, 0).astype(np.float64)
    return EvidenceSums(rated.astype(float), stars, {}, {}, no_votes, no_votes[:, :0])


@dataclass(frozen=True)
class Constants:
    """Figures of the training data that features are made with; saved with a model."""

    mean: float
    # Number of reviews of the overall mean that a user's mean rating is shrunk with.
    user_prior: float
    item_prior: float
    # Mean of the column `log count` over train rows, for users and items that are new or unknown.
    user_log_count: float
    item_log_count: float

    @classmethod
    def estimate(cls, data: Interactions, rows: np.ndarray, train_rows: np.ndarray) -> Constants:
        """Estimate from some rows, and from those among them that a model is trained on; priors as
        James and Stein do, from variances by moments."""
        rating = data.rating[rows].astype(np.float64)
        user, item = data.user[rows], data.item[rows]
        log_counts = []
        for entity in (user, item):  # a row does not count itself
            count = np.bincount(entity)[entity[np.isin(rows, train_rows)]]
            log_counts.append(float(np.log(count).mean()))
        return cls(float(rating.mean()), _prior(rating, user), _prior(rating, item), *log_counts)


def _prior(rating: np.ndarray, entity: np.ndarray) -> float:
    """Variance of ratings within entities over that between them, by the method of moments: one-way
    analysis of variance with unequal groups (Searle, Casella & McCulloch, 1992, section 3.6)."""
    count = np.bincount(entity)
    total = np.bincount(entity, weights=rating)
    total, count = total[count > 0], count[count > 0]
    groups, size = len(count), len(rating)  # entities with a rating, and ratings
    if size <= groups or groups < 2:
        return 1.0
    mean = total / count
    within = (np.sum(rating**2) - np.sum(count * mean**2)) / (size - groups)
    spread = np.sum(count * (mean - rating.mean()) ** 2) - (groups - 1) * within
    between = spread / (size - np.sum(count**2) / size)
    return float(np.clip(within / max(between, 1e-9), 0.1, 100.0))


@dataclass(frozen=True)
class EntityFeatures:
    """Features of all v views of users, or of items, and of an unknown one as the last.

    The dot product of the factors of both sides is a feature of the pair (`MixedEffects`); where not
    used, factors and categories have no columns.
    """

    names: tuple[str, ...]  # of the dense columns
    dense: np.ndarray  # (v + 1, p) float32
    vectors: dict[str, np.ndarray]  # block -> (v + 1, d) float16, zero where missing
    present: dict[str, np.ndarray]  # block -> (v + 1,) 0 if missing, 1 for many texts
    # (v + 1, 11) int64 codes, padded with the size of the vocabulary
    categories: np.ndarray
    factors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float16))

    @property
    def unknown_index(self) -> int:
        """The view of an unknown user or item."""
        return len(self.dense) - 1

    def has_no_rating(self, views: np.ndarray) -> np.ndarray:
        """(k,) bool: which of k views have no rating, maybe a description or photos."""
        return self.dense[views, self.names.index("no rating")] == 1

    def replace_views(self, views: np.ndarray, source: EntityFeatures) -> None:
        """Overwrite (k,) views with the first k views of `source`, in place."""
        blocks = source._blocks()
        for name, values in self._blocks().items():
            values[views] = blocks[name][: len(views)]

    def with_capacity(self, views: int = 1024) -> EntityFeatures:
        """A copy with more views like the last, of an unknown user or item, behind it."""
        index = np.append(np.arange(len(self.dense)), np.full(views, self.unknown_index))
        vectors = {name: values[index] for name, values in self.vectors.items()}
        present = {name: values[index] for name, values in self.present.items()}
        factors = self.factors[index] if self.factors.size else self.factors
        dense, categories = self.dense[index], self.categories[index]
        return EntityFeatures(self.names, dense, vectors, present, categories, factors)

    def by_name(self, views: np.ndarray) -> dict[str, np.ndarray]:
        """Every feature of k views by its name, k rows each; the audit compares these."""
        blocks = self._blocks()
        features = dict(zip(self.names, blocks.pop("dense")[views].T, strict=True))
        return features | {name: values[views] for name, values in blocks.items()}

    def _blocks(self) -> dict[str, np.ndarray]:
        """All arrays, (v + 1, ...), by a name of their own."""
        blocks = {"dense": self.dense, **self.vectors, "categories": self.categories}
        for name, values in self.present.items():
            blocks[f"presence of {name}"] = values
        return blocks | ({"factors": self.factors} if self.factors.size else {})


@dataclass(frozen=True)
class Features:
    """Features of users and items, and the (n,) views that rows use."""

    user: EntityFeatures
    item: EntityFeatures
    user_view: np.ndarray
    item_view: np.ndarray


def group_of(column: str) -> str:
    """The group of a feature, which is named with its side (`user mean rating`) or `categories`."""
    side, _, name = column.partition(" ")
    if not name:
        return column
    if name == "log count":
        return "counts"
    if name in RATING_COLUMNS:
        return "ratings"
    if name in PRICE_TAGS or name == "no price":
        return "price"
    return "photos" if name in ("photos", "no photos") else f"{side} text"


def dense_columns(features: Features) -> list[str]:
    """Names of the dense columns: of the user, of the item, of the pair."""
    user_columns = [f"user {name}" for name in features.user.names]
    item_columns = [f"item {name}" for name in features.item.names]
    has_factors = features.user.factors.shape[1] > 0
    return user_columns + item_columns + ["factor score"] * has_factors


def available_groups(features: Features) -> list[str]:
    """The groups with information: a number that varies, a block or a category that is present."""
    groups = set()
    codes = features.item.categories
    if (codes < codes[-1]).any():  # the last row is padding
        groups.add("categories")
    for kind, entity in (("user", features.user), ("item", features.item)):
        varies = np.ptp(entity.dense[: entity.unknown_index], axis=0) > 0  # (p,)
        present = [name for name, weight in entity.present.items() if weight.any()]
        for name in (*compress(entity.names, varies), *present):
            groups.add(group_of(f"{kind} {name}"))
    return [group for group in FEATURE_GROUPS if group in groups]


def visible_columns(columns: Sequence[str], masked_groups: Sequence[frozenset[str]]) -> np.ndarray:
    """(R, c) bool: which of c columns each of R runs may use, from the groups masked for it."""
    # Masked with either group: these are fitted on ratings and texts.
    needs = {f"{side} text rating effect": {"ratings", f"{side} text"} for side in ("user", "item")}
    needs["factor score"] = {"ratings", "item text"}
    visible = np.ones((len(masked_groups), len(columns)), dtype=bool)
    for position, column in enumerate(columns):
        groups = needs.get(column, {group_of(column)})
        visible[:, position] = [not groups & masked for masked in masked_groups]
    return visible
