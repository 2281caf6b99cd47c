"""The truth of Sample City: what its restaurants are, what its guests want, and who reviews what."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmrec.data.synthetic.review_text import PHRASES, WritingHabits, choose, restaurant_names
from mmrec.errors import ConfigError

__all__ = [
    "QUALITIES",
    "TRAITS",
    "Floats",
    "Ints",
    "ItemTruth",
    "UserTruth",
    "draw_items",
    "draw_pairs",
    "draw_users",
    "rating_terms",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TRAITS = ("service", "portions", "freshness", "ambience", "quiet", "spice", "family")
"""What places have more or less of. Of the first four everybody wants more; the others are matters of taste
(quiet or loud, fiery or mild, for families or for grown-ups)."""
QUALITIES = 4
"""How many of `TRAITS` everybody wants more of."""


@dataclass(frozen=True)
class ItemTruth:
    """The truth of I items.

    Attributes:
        ids: (I,) item ids.
        names: (I,) invented names, all different.
        cuisines: (I,) one to three cuisines each, the main one first.
        price_level: (I,) 1 cheap .. 4 expensive.
        quality: (I,) what the kitchen adds to a rating, in stars.
        traits: (I, T) per name of `TRAITS`: 1 has it, 0 neutral, -1 its contrary.
    """

    ids: list[str]
    names: list[str]
    cuisines: list[list[str]]
    price_level: Ints
    quality: Floats
    traits: Ints


@dataclass(frozen=True)
class UserTruth:
    """The truth of U users.

    Attributes:
        ids: (U,) user ids.
        leniency: (U,) what the user adds to every rating, in stars.
        cares: (U, T) stars that a trait is worth to the user; negative where the contrary is wanted.
        tastes: (U, C) stars that a cuisine is worth to the user, cuisines in the phrase bank's order.
        thrift: (U,) stars that a price level costs, at least 0.
        habits: (U,) how the user writes.
    """

    ids: list[str]
    leniency: Floats
    cares: Floats
    tastes: Floats
    thrift: Floats
    habits: list[WritingHabits]


def draw_items(items: int, rng: np.random.Generator) -> ItemTruth:
    """That many restaurants."""
    cuisines = [_draw_cuisines(rng) for _ in range(items)]
    price_level = rng.choice(4, items, p=[0.27, 0.4, 0.23, 0.1]) + 1
    traits = rng.choice([-1, 0, 1], (items, len(TRAITS)), p=[0.27, 0.31, 0.42])
    dear = rng.random(items) < 0.3 * (price_level - 2)  # expensive rooms are seldom shabby
    traits[dear, TRAITS.index("ambience")] = 1
    heat = np.array(
        [np.mean([PHRASES["cuisines"][name]["heat"] for name in names]) for names in cuisines]
    )
    fiery, tame = rng.random((2, items))
    traits[:, TRAITS.index("spice")] = np.where(fiery < heat, 1, np.where(tame < heat + 0.1, -1, 0))
    names = restaurant_names([names[0] for names in cuisines], rng)
    quality = rng.normal(0, 0.45, items)
    return ItemTruth([_slug(name) for name in names], names, cuisines, price_level, quality, traits)


def _slug(name: str) -> str:
    """The name in lower-case ASCII letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", name.replace("'", "")).encode("ascii", "ignore").decode()
    return re.sub(r"\W+", "-", plain.lower())


def _draw_cuisines(rng: np.random.Generator) -> list[str]:
    """A main cuisine and up to two that go with it."""
    main = choose(list(PHRASES["cuisines"]), rng)
    near = PHRASES["cuisines"][main]["near"]
    return [main, *rng.permutation(near)[: rng.choice(3, p=[0.6, 0.3, 0.1])].tolist()]


def draw_users(users: int, rng: np.random.Generator) -> UserTruth:
    """That many guests."""
    # a gamma of small shape: each user cares much for two or three things and little for the rest
    cares = rng.gamma(0.5, 0.52, (users, len(TRAITS)))
    cares[:, QUALITIES:] *= rng.choice([-1, 1], (users, len(TRAITS) - QUALITIES), p=[0.4, 0.6])
    habits = [
        WritingHabits(
            opinions=int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15])),
            sloppy=float(rng.choice([0.0, 0.01, 0.05], p=[0.6, 0.25, 0.15])),
            exclaims=float(rng.choice([0.0, 0.1, 0.5], p=[0.4, 0.4, 0.2])),
            emoji=float(rng.choice([0.0, 0.05, 0.3], p=[0.6, 0.3, 0.1])),
            lowercase=bool(rng.random() < 0.07),
        )
        for _ in range(users)
    ]
    return UserTruth(
        ids=[f"{choose(PHRASES['names']['user'], rng)}{number:03d}" for number in range(users)],
        leniency=rng.normal(0, 0.65, users),
        cares=cares,
        tastes=rng.normal(0, 0.45, (users, len(PHRASES["cuisines"]))),
        thrift=rng.gamma(0.5, 0.4, users),
        habits=habits,
    )


def draw_pairs(users: int, items: int, reviews: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Which user reviews which item: heavy-tailed on both sides, everyone at least twice, no pair twice.

    Returns:
        (R,) indices of users and (R,) indices of items, in random order.

    Raises:
        ConfigError: fewer reviews than give everyone two, or more than there are pairs.
    """
    busy = -0.7 * np.log(rng.permutation(users) + 3.0)
    popular = -0.7 * np.log(rng.permutation(items) + 3.0)
    keys = busy[:, None] + popular + rng.gumbel(size=(users, items))
    must = np.zeros((users, items), dtype=bool)
    np.put_along_axis(must, np.argsort(-keys, axis=1)[:, :2], True, axis=1)
    np.put_along_axis(must, np.argsort(-keys, axis=0)[:2], True, axis=0)
    if not must.sum() <= reviews <= users * items:
        raise ConfigError(
            f"{reviews} reviews: {users} users and {items} items need {must.sum()} at least "
            f"and {users * items} at most"
        )
    keys[must] = np.inf
    chosen = np.argsort(-keys, axis=None)[:reviews]
    user, item = np.unravel_index(rng.permutation(chosen), keys.shape)
    return user, item


def rating_terms(items: ItemTruth, users: UserTruth, user: Ints, item: Ints) -> Floats:
    """(R, T + 2 + C) stars by source: each trait, the price, the kitchen's quality, each cuisine."""
    served = np.array([[name in names for name in PHRASES["cuisines"]] for names in items.cuisines])
    share = served / served.sum(axis=1, keepdims=True)
    return np.column_stack(
        [
            users.cares[user] * items.traits[item],
            users.thrift[user] * (2.2 - items.price_level[item]),
            items.quality[item],
            users.tastes[user] * share[item],
        ]
    )
