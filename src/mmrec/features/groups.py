"""Groups of features that a model can be trained without, and the value of a group."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import factorial
from typing import TypeVar

import numpy as np

from mmrec.features.tables import RATING_COLUMNS, Features
from mmrec.llm.types import PRICE_TAGS

__all__ = [
    "FEATURE_GROUPS",
    "available_groups",
    "dense_columns",
    "group_of",
    "shapley_value",
    "visible_columns",
]

FEATURE_GROUPS = ("ratings", "user text", "item text", "price", "categories", "photos", "counts")
Player = TypeVar("Player", bound=Hashable)


def group_of(column: str) -> str:
    """The group of a feature that is named with its side, as in `user mean rating`; or of
    `categories`."""
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
    """The groups with information: a number that varies, or a block or a category that is present
    somewhere."""
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
    """(R, c) bool: which of c columns each of R runs may use, from the groups that are masked for
    it."""
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


def shapley_value(values: Mapping[frozenset[Player], float], player: Player) -> float:
    """Shapley value of a player from the values of all coalitions (Shapley, 1953).

    The mean gain by which the player improves a coalition, over all orders in which players can
    join.
    """
    players = max(map(len, values))
    total = 0.0
    for coalition, value in values.items():
        if player not in coalition:
            size = len(coalition)
            orders = factorial(size) * factorial(players - size - 1) / factorial(players)
            total += orders * (values[coalition | {player}] - value)
    return total
