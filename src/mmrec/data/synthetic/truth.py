"""The truth of the synthetic city: what its restaurants are, what its users want, who reviews what."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmrec.data.synthetic.review_text import PHRASES, WritingHabits, choose, restaurant_names
from mmrec.errors import ConfigError

__all__ = ["QUALITIES", "TRAITS", "Floats", "Ints", "ItemTruth"]
__all__ += ["UserTruth", "draw_items", "draw_pairs", "draw_users", "rating_terms"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

QUALITIES = ("service", "portions", "freshness", "ambience")
"""Traits of restaurants that every user wants more of."""
TRAITS = (*QUALITIES, "quiet", "spice", "family")
"""All traits; the last three are matters of taste (quiet or loud, hot or mild, for families or not)."""


@dataclass(frozen=True)
class ItemTruth:
    """The truth of I items."""

    ids: list[str]
    names: list[str]
    cuisines: list[list[str]]  # one to three each, the main one first
    price_level: Ints  # (I,) 1 cheap .. 4 expensive
    quality: Floats  # (I,) what the kitchen adds to a rating, in stars
    traits: Ints  # (I, T) per name of `TRAITS`: 1 has it, 0 neutral, -1 its contrary


@dataclass(frozen=True)
class UserTruth:
    """The truth of U users; all effects are in stars."""

    ids: list[str]
    leniency: Floats  # (U,) added to every rating
    cares: Floats  # (U, T) what a trait is worth; negative if its contrary is wanted
    tastes: Floats  # (U, C) what a cuisine is worth, in the phrase bank's order
    thrift: Floats  # (U,) what a price level costs, at least 0
    habits: list[WritingHabits]


def draw_items(count: int, rng: np.random.Generator) -> ItemTruth:
    """Draw restaurants."""
    cuisines = [_draw_cuisines(rng) for _ in range(count)]
    price_level = rng.choice(4, count, p=[0.27, 0.4, 0.23, 0.1]) + 1
    traits = rng.choice([-1, 0, 1], (count, len(TRAITS)), p=[0.27, 0.31, 0.42])
    # Expensive rooms are seldom shabby.
    pleasant = rng.random(count) < 0.3 * (price_level - 2)
    traits[pleasant, TRAITS.index("ambience")] = 1
    # Each cuisine has its share of hot kitchens.
    heat = np.zeros(count)
    for item, names in enumerate(cuisines):
        heat[item] = np.mean([PHRASES["cuisines"][name]["heat"] for name in names])
    hot, mild = rng.random((2, count)) < [heat, heat + 0.1]
    traits[:, TRAITS.index("spice")] = np.where(hot, 1, np.where(mild, -1, 0))
    names = restaurant_names([main for main, *_ in cuisines], rng)
    quality = rng.normal(0, 0.45, count)
    return ItemTruth([_slug(name) for name in names], names, cuisines, price_level, quality, traits)


def _slug(name: str) -> str:
    """Return a name in lower-case ASCII letters, digits and hyphens."""
    letters = unicodedata.normalize("NFKD", name.replace("'", ""))
    return re.sub(r"\W+", "-", letters.encode("ascii", "ignore").decode().lower())


def _draw_cuisines(rng: np.random.Generator) -> list[str]:
    """Return a main cuisine and up to two that go with it."""
    main = choose(list(PHRASES["cuisines"]), rng)
    related = rng.permutation(PHRASES["cuisines"][main]["pairs_with"])
    return [main, *related[: rng.choice(3, p=[0.6, 0.3, 0.1])].tolist()]


def draw_users(count: int, rng: np.random.Generator) -> UserTruth:
    """Draw users."""
    # A gamma of small shape: each user cares much for two or three traits and little for the rest.
    cares = rng.gamma(0.5, 0.52, (count, len(TRAITS)))
    tastes = len(TRAITS) - len(QUALITIES)
    cares[:, len(QUALITIES) :] *= rng.choice([-1, 1], (count, tastes), p=[0.4, 0.6])
    return UserTruth(
        habits=[_draw_habits(rng) for _ in range(count)],
        ids=[f"{choose(PHRASES['names']['user'], rng)}{number:03d}" for number in range(count)],
        leniency=rng.normal(0, 0.65, count),
        cares=cares,
        tastes=rng.normal(0, 0.45, (count, len(PHRASES["cuisines"]))),
        thrift=rng.gamma(0.5, 0.4, count),
    )


def _draw_habits(rng: np.random.Generator) -> WritingHabits:
    return WritingHabits(
        opinions=int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15])),
        sloppy=float(rng.choice([0.0, 0.01, 0.05], p=[0.6, 0.25, 0.15])),
        exclaims=float(rng.choice([0.0, 0.1, 0.5], p=[0.4, 0.4, 0.2])),
        emoji=float(rng.choice([0.0, 0.05, 0.3], p=[0.6, 0.3, 0.1])),
        lowercase=bool(rng.random() < 0.07),
    )


def draw_pairs(users: int, items: int, reviews: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Draw who reviews what: a few users and items have many reviews, each has at least two.

    Returns:
        (R,) indices of users and (R,) indices of items, in random order; no pair occurs twice.

    Raises:
        ConfigError: fewer reviews than give everyone two, or more than there are pairs.
    """
    activity = -0.7 * np.log(rng.permutation(users) + 3.0)
    popularity = -0.7 * np.log(rng.permutation(items) + 3.0)
    # The largest of log weights plus Gumbel noise: a weighted draw without replacement.
    keys = activity[:, None] + popularity + rng.gumbel(size=(users, items))
    required = np.zeros((users, items), dtype=bool)
    np.put_along_axis(required, np.argsort(-keys, axis=1)[:, :2], True, axis=1)
    np.put_along_axis(required, np.argsort(-keys, axis=0)[:2], True, axis=0)
    if not required.sum() <= reviews <= users * items:
        limits = f"{required.sum()} at least and {users * items} at most"
        raise ConfigError(f"{reviews} reviews: {users} users and {items} items need {limits}")
    keys[required] = np.inf
    chosen = np.argsort(-keys, axis=None)[:reviews]
    user, item = np.unravel_index(rng.permutation(chosen), keys.shape)
    return user, item


def rating_terms(items: ItemTruth, users: UserTruth, user: Ints, item: Ints) -> Floats:
    """Return stars by source (R, T + 2 + C): each trait, the price, the kitchen, each cuisine."""
    cuisines = list(PHRASES["cuisines"])
    share = np.zeros((len(items.ids), len(cuisines)))
    for row, names in enumerate(items.cuisines):
        share[row, [cuisines.index(name) for name in names]] = 1 / len(names)
    price = users.thrift[user] * (2.2 - items.price_level[item])
    traits = users.cares[user] * items.traits[item]
    tastes = users.tastes[user] * share[item]
    return np.column_stack([traits, price, items.quality[item], tastes])
