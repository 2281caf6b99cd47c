"""Dense, categorical, text and image features of views (paper, section 3).

The features of a row are those of its user's view and of its item's view, so they are kept once
per view, and a row is a pair of view numbers. The last view of a side stands for an unknown user
or item. Training puts it in the place of some views, so that the ranker learns to work without
them (cold-start dropout).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmrec.config import Config
from mmrec.data.files import allocate
from mmrec.data.schema import EntityKind, Interactions
from mmrec.features.annotations import EvidenceSums
from mmrec.features.mixed_effects import EFFECT_COLUMNS, TEXT_COLUMNS
from mmrec.features.text_regression import PRIOR_TEXTS
from mmrec.llm.types import PRICE_TAGS

__all__ = ["FEATURE_GROUPS", "RATING_COLUMNS", "Constants", "EntityFeatures", "Features"]
__all__ += ["available_groups", "dense_columns", "entity_features", "group_of", "visible_columns"]

RATING_COLUMNS = {"mean rating", "no rating", "log count", *EFFECT_COLUMNS} - {*TEXT_COLUMNS}
"""Dense columns that are made of ratings; all others come from texts and photos."""
FEATURE_GROUPS = ("ratings", "user text", "item text", "price", "categories", "photos", "counts")
"""Groups of features that a model can be trained without (ablation)."""


@dataclass(frozen=True)
class Constants:
    """Figures of the training data that features are made with; saved with a model.

    Attributes:
        mean: mean rating.
        user_prior, item_prior: reviews' worth of `mean` that the mean rating of a user, or an
            item, is shrunk with: variance within entities over variance between them
            (James-Stein, by moments).
    """

    mean: float
    user_prior: float
    item_prior: float

    @classmethod
    def estimate(cls, data: Interactions, rows: np.ndarray) -> Constants:
        """Estimate from some rows."""
        rating = data.rating[rows].astype(np.float64)
        user_prior, item_prior = _prior(rating, data.user[rows]), _prior(rating, data.item[rows])
        return cls(float(rating.mean()), user_prior, item_prior)


def _prior(rating: np.ndarray, entity: np.ndarray) -> float:
    """Variance of ratings within entities over that between them, by the method of moments: one-way
    analysis of variance with unequal groups (Searle, Casella & McCulloch, 1992, section 3.6).
    """
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

    Attributes:
        names: names of the dense columns.
        dense: (v + 1, p) float32.
        vectors: block -> (v + 1, d) float16, zero where missing.
        present: block -> (v + 1,) 0 where missing, else up to 1, less for a mean of few texts.
        categories: (v + 1, 11) int64 codes, padded with the size of the vocabulary (the paper's
            179); (v + 1, 0) where not used.
        factors: (v + 1, t) float16, whose dot product over both sides is a feature of the pair
            (see `mmrec.features.mixed_effects`); empty where not used.
    """

    names: tuple[str, ...]
    dense: np.ndarray
    vectors: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    categories: np.ndarray
    factors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float16))

    @property
    def unknown_index(self) -> int:
        """The view of an unknown user or item."""
        return len(self.dense) - 1

    def replace_view(self, view: int, source: EntityFeatures) -> None:
        """Overwrite a view with the first view of `source`, in place."""
        for name, values in self._blocks().items():
            values[view] = source._blocks()[name][0]

    def with_capacity(self, views: int = 1024) -> EntityFeatures:
        """A copy with more views, equal to that of an unknown user or item, before the last."""
        index = np.append(np.arange(len(self.dense)), np.full(views, self.unknown_index))
        return EntityFeatures(
            self.names,
            self.dense[index],
            {name: values[index] for name, values in self.vectors.items()},
            {name: values[index] for name, values in self.present.items()},
            self.categories[index],
            self.factors[index] if self.factors.size else self.factors,
        )

    def by_name(self, views: np.ndarray) -> dict[str, np.ndarray]:
        """Every feature of k views by its name, k rows each; the audit compares these."""
        blocks = self._blocks()
        features = dict(zip(self.names, blocks.pop("dense")[views].T, strict=True))
        for name, values in blocks.items():
            features[name] = values[views]
        return features

    def _blocks(self) -> dict[str, np.ndarray]:
        """All arrays, (v + 1, ...), by a name of their own."""
        blocks = {"dense": self.dense, **self.vectors, "categories": self.categories}
        for name, values in self.present.items():
            blocks[f"presence of {name}"] = values
        if self.factors.size:
            blocks["factors"] = self.factors
        return blocks


@dataclass(frozen=True)
class Features:
    """Features of users and items, and the (n,) views that rows use."""

    user: EntityFeatures
    item: EntityFeatures
    user_view: np.ndarray
    item_view: np.ndarray


def entity_features(
    kind: EntityKind,
    sums: EvidenceSums,
    constants: Constants,
    config: Config,
    effects: Mapping[str, np.ndarray] | None = None,
    factors: np.ndarray | None = None,
) -> EntityFeatures:
    """Make the features of v views of users, or of items, from what their reviews add up to.

    Args:
        kind: the paper counts the reviews of items only; price and categories are of items.
        sums, constants, config: of the views, of the training data, and how to make them.
        effects: further columns, (v + 1,) each; the last is the unknown user's or item's.
        factors: (v + 1, t) likewise.
    """
    is_mmrec = config.ranker.features == "mmrec"
    is_baseline = config.ranker.features == "baseline"
    count, mean = sums.rating_count, constants.mean
    prior = constants.user_prior if kind == "user" else constants.item_prior
    columns = {
        "mean rating": (sums.rating_sum + prior * mean) / (count + prior),
        "no rating": count == 0,
    }
    if is_mmrec or kind == "item":
        columns["log count"] = np.log1p(count)
    categories = np.zeros((len(count) + 1, 0), dtype=np.int64)
    if kind == "item" and not is_baseline:
        columns |= _price_columns(sums.price)
        categories = _top_categories(sums.categories, config.annotation.max_categories)
    # These blocks say that a modality is missing; a review without a like only praises nothing.
    for name in sorted({"gist", "photos", "reviews", "summary"} & sums.text_count.keys()):
        columns[f"no {name}"] = sums.text_count[name] == 0
    # An unknown one has the overall mean, nothing of anything, and every modality missing.
    unknown = {name: float(name.startswith("no ")) for name in columns} | {"mean rating": mean}
    for name, values in (effects or {}).items():
        columns[name], unknown[name] = values[:-1], float(values[-1])
    # (v + 1, p); filled by column, since it may be larger than memory.
    dense = allocate((len(count) + 1, len(columns)), np.float32)
    for column, (name, values) in enumerate(columns.items()):
        dense[:-1, column], dense[-1, column] = values, unknown[name]
    present = {}
    for name, texts in sums.text_count.items():
        # The mean vector of few texts is mostly chance, so ours weighs less.
        prior_texts = PRIOR_TEXTS if is_mmrec and name != "photos" else 0.0
        weight = texts / np.maximum(texts + prior_texts, 1e-9)
        present[name] = np.append(weight, 0).astype(np.float32)
    vectors: dict[str, np.ndarray] = {}
    for name, means in sums.vectors.items():
        vectors[name] = allocate((len(means) + 1, means.shape[1]), np.float16)
        vectors[name][:-1], vectors[name][-1] = means, 0
    if factors is None:
        factors = np.zeros((0, 0), dtype=np.float16)
    return EntityFeatures(tuple(columns), dense, vectors, present, categories, factors)


def _price_columns(votes: np.ndarray, prior_votes: float = 5.0) -> dict[str, np.ndarray]:
    """Shares of (v, 4) votes by tag, shrunk towards "no price": one vote is not yet a price."""
    tags = votes[:, : PRICE_TAGS.index("none")]
    total = tags.sum(axis=1) + prior_votes
    shares = tags / total[:, None]  # (v, 3)
    return dict(zip(PRICE_TAGS, shares.T, strict=False)) | {"no price": prior_votes / total}


def _top_categories(
    votes: np.ndarray, limit: int, min_share: float = 0.1, block_views: int = 1 << 14
) -> np.ndarray:
    """(v + 1, limit) codes with the most of (v, c) votes, best first, padded with c.

    A category needs at least `min_share` of the first one's votes, since a tail of single mentions
    means little. The last row is all padding. Sorting takes blocks of views, to bound its memory.
    """
    size = votes.shape[1]
    codes = np.full((len(votes) + 1, limit), size, dtype=np.int64)
    for start in range(0, len(votes), block_views):
        block = votes[start : start + block_views]
        order = np.argsort(-block, axis=1, kind="stable")[:, :limit]
        ranked = np.take_along_axis(block, order, axis=1)
        enough = (ranked > 0) & (ranked >= min_share * ranked[:, :1])
        codes[start : start + len(block), : order.shape[1]][enough] = order[enough]
    return codes


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
        spread = np.ptp(entity.dense[: entity.unknown_index], axis=0)  # (p,)
        informative = dict(zip(entity.names, spread > 0, strict=True))
        for name, present in entity.present.items():
            informative[name] = present.any()
        groups |= {group_of(f"{kind} {name}") for name, value in informative.items() if value}
    return [group for group in FEATURE_GROUPS if group in groups]


def visible_columns(columns: Sequence[str], masked_groups: Sequence[frozenset[str]]) -> np.ndarray:
    """(R, c) bool: which of c columns each of R runs may use, from the groups masked for it."""
    # Masked with either group: these are fitted on ratings and texts.
    needs = {
        "user text rating effect": {"ratings", "user text"},
        "item text rating effect": {"ratings", "item text"},
        "factor score": {"ratings", "item text"},
    }
    visible = np.ones((len(masked_groups), len(columns)), dtype=bool)
    for position, column in enumerate(columns):
        groups = needs.get(column, {group_of(column)})
        visible[:, position] = [not groups & masked for masked in masked_groups]
    return visible
