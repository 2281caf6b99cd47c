"""Views of known users, and of users without reviews: from their own words, or from items that they like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmrec.errors import DataError
from mmrec.features.dataset import Dataset
from mmrec.features.mixed_effects import (
    PRIOR_REVIEWS,
    TEXT_COLUMNS,
    review_statistics,
    ridge_factors,
)
from mmrec.features.tables import EntityFeatures, Features
from mmrec.features.text_regression import TextRegression
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.online import EntityState, OnlineState

__all__ = ["UserView", "find_user"]

_LIKED_RATING = 5.0


@dataclass(frozen=True)
class UserView:
    """A user as the ranker sees it: the index of its view among features, and these as inputs."""

    index: int
    features: EntityFeatures
    inputs: RankerInputs


def find_user(
    online: OnlineState,
    user: str | None,
    likes: str | None,
    liked: Sequence[str],
    inputs: RankerInputs,
) -> UserView:
    """The view of a user, of words about what is liked, or of liked items; unknown without reviews.

    Args:
        online: all users and items.
        user: id.
        likes: words of a new user.
        liked: ids of items that a new user likes.
        inputs: features of all users and items.

    Raises:
        DataError: not just one of the three; or an unknown item.
    """
    if [user is not None, bool(likes), bool(liked)].count(True) != 1:
        choices = "name a user, say in words what is liked, or name liked items"
        raise DataError(f"{choices}: just one of these")
    if user is not None:
        (index,) = online.views("user", [user]).tolist()
        return UserView(index, online.features.user, inputs)
    if likes:
        built = online.builder.describe_user(Dataset.from_description(likes, online.models))
    else:
        built = _from_liked_items(online, online.item_codes(liked))
    # One view of a user beside all items: the table has a single row.
    row = np.zeros(1, dtype=np.int64)
    return UserView(0, built, RankerInputs(Features(built, online.features.item, row, row)))


def _from_liked_items(online: OnlineState, items: Sequence[int]) -> EntityFeatures:
    """Features of a user who rated each item with five stars and writes as others do about it."""
    item_vectors, count = online.features.item.vectors, len(items)
    user = online.entity("user", online.features.user.unknown_index)
    if (regression := online.known.text_regression) is not None:
        liked = [online.entity("item", item) for item in items]
        user = _with_effects(user, liked, regression, online.builder.penalties[0])
    # (1, d) mean vectors of the items' texts, which are those of users who like the items.
    vectors: dict[str, np.ndarray] = {}
    for name in user.sums.vectors:
        if name in item_vectors and name != "dislikes":
            vectors[name] = item_vectors[name][items].astype(np.float32).mean(0)[None]
    sums = replace(
        user.sums.zeros(),
        rating_count=np.array([count]),
        rating_sum=np.array([_LIKED_RATING * count]),
        vectors=vectors,
        text_count=dict.fromkeys(vectors, np.array([count], dtype=np.float32)),
    )
    return online.build_features("user", replace(user, sums=user.sums + sums))


def _with_effects(
    user: EntityState, items: Sequence[EntityState], regression: TextRegression, penalty: float
) -> EntityState:
    """The mixed effects of a user who rated items with five stars: penalised means, as in a fit."""
    count = len(items)
    item_effects = np.array([item.columns["rating effect"] for item in items])
    above_mean = _LIKED_RATING - regression.mean_rating - item_effects
    # Ridge regression with one column: a mean shrunk towards zero (see `MixedEffects`).
    effect = above_mean.sum() / (count + penalty)
    residual = above_mean - effect
    columns = user.columns | {"rating effect": float(effect)}
    statistics = review_statistics(np.full(count, _LIKED_RATING), residual, np.ones(count))
    for name, values in statistics.items():
        if name not in TEXT_COLUMNS:
            total = columns[name] * PRIOR_REVIEWS + values.sum()
            columns[name] = float(total) / (count + PRIOR_REVIEWS)
    factors = ridge_factors(np.stack([item.factors for item in items]), residual)
    return replace(user, columns=columns, factors=factors)
