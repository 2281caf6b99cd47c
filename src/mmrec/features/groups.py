"""Groups of inputs that a model can be kept from: what every column belongs to, and what a group is worth."""

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
_GROUP = {
    **dict.fromkeys(RATING_COLUMNS, "ratings"),
    **dict.fromkeys((*PRICE_TAGS, "no price"), "price"),
}
_GROUP |= {"photos": "photos", "no photos": "photos", "log count": "counts"}
# What is fitted on two groups is heard by those that hear both.
_NEEDS = {f"{side} tone effect": {"ratings", f"{side} text"} for side in ("user", "item")}
_NEEDS |= {"affinity": {"ratings", "item text"}}
Player = TypeVar("Player", bound=Hashable)


def group_of(column: str) -> str:
    """The group of an input, named with its side as in `user mean rating` or `item gist`; or `categories`."""
    side, _, name = column.partition(" ")
    return _GROUP.get(name, f"{side} text") if name else column


def dense_columns(features: Features) -> list[str]:
    """Names of the dense columns: of the user, of the item, of the pair."""
    own = [f"user {name}" for name in features.user.names] + [
        f"item {name}" for name in features.item.names
    ]
    return [*own, "affinity"] if features.user.factors.shape[1] else own


def available_groups(features: Features) -> list[str]:
    """The groups that say anything: a number that varies, a block or a category that is somewhere there."""
    found = (
        {"categories"} if (features.item.categories < features.item.categories[-1]).any() else set()
    )
    for of, side in (("user", features.user), ("item", features.item)):
        varies = np.ptp(side.dense[: side.unknown_index], axis=0) > 0
        says = dict(zip(side.names, varies, strict=True)) | {
            name: x.any() for name, x in side.present.items()
        }
        found |= {group_of(f"{of} {name}") for name, some in says.items() if some}
    return [group for group in FEATURE_GROUPS if group in found]


def visible_columns(columns: Sequence[str], masked_groups: Sequence[frozenset[str]]) -> np.ndarray:
    """(R, len(columns)) which columns each run hears, from the groups that it is deaf to."""
    needs = [_NEEDS.get(column, {group_of(column)}) for column in columns]
    return np.array([[not need & one for need in needs] for one in masked_groups], dtype=bool)


def shapley_value(values: Mapping[frozenset[Player], float], player: Player) -> float:
    """Shapley value of a player from the values of all coalitions (Shapley, 1953)."""
    count = max(map(len, values))
    return sum(
        factorial(len(some))
        * factorial(count - len(some) - 1)
        / factorial(count)
        * (values[some | {player}] - value)
        for some, value in values.items()
        if player not in some
    )
