"""Sample City: a seeded synthetic city of restaurants, users, reviews and photos, the demo's data.

What moves a rating is also mentioned in the text: a user who loves quiet complains where it is loud.
So a model that reads texts can beat one that knows only how lenient a user and how good an item is.
"""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from mmrec.data.synthetic import review_text
from mmrec.data.synthetic.pictures import draw_photo
from mmrec.data.synthetic.review_text import PHRASES, Opinion, WritingHabits, choose, expand
from mmrec.errors import ConfigError

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

_QUALITIES = ("service", "portions", "freshness", "ambience")
TRAITS = (*_QUALITIES, "quiet", "spice", "family")
"""Of restaurants; the last three are matters of taste (quiet or loud, hot or mild, for families)."""


@dataclass(frozen=True)
class _ItemTruth:
    ids: list[str]
    names: list[str]
    cuisines: list[list[str]]  # one to three each, the main one first
    price_level: _Ints  # (I,) 1 cheap .. 4 expensive
    quality: _Floats  # (I,) what the kitchen adds to a rating, in stars
    traits: _Ints  # (I, T) per name of `TRAITS`: 1 has it, 0 neutral, -1 its contrary


@dataclass(frozen=True)
class _UserTruth:
    ids: list[str]  # all effects below are in stars
    leniency: _Floats  # (U,) added to every rating
    cares: _Floats  # (U, T) what a trait is worth; negative if its contrary is wanted
    tastes: _Floats  # (U, C) what a cuisine is worth, in the phrase bank's order
    thrift: _Floats  # (U,) what a price level costs, at least 0
    habits: list[WritingHabits]


@dataclass(frozen=True)
class City:
    """A city of U users, I items and R reviews, in the order of their dates, with its truth."""

    items: _ItemTruth
    users: _UserTruth
    user: _Ints  # (R,) indices; no pair of user and item occurs twice
    item: _Ints
    score: _Floats  # (R,) the rating before luck and rounding: an oracle's prediction
    rating: _Ints  # (R,) 1..5
    text: list[str]  # maybe empty
    date: npt.NDArray[np.datetime64]  # (R,) days


def build_city(seed: int = 0, users: int = 400, items: int = 150, reviews: int = 4000) -> City:
    """Build the city of a seed; a ConfigError names the fewest or most reviews that it can have."""
    item_rng, user_rng, pair_rng, text_rng = np.random.default_rng(seed).spawn(4)
    item_truth, user_truth = _draw_items(items, item_rng), _draw_users(users, user_rng)
    cuisines = list(PHRASES["cuisines"])
    share = np.zeros((items, len(cuisines)))
    for row, names in enumerate(item_truth.cuisines):
        share[row, [cuisines.index(name) for name in names]] = 1 / len(names)
    # People go where they expect to like the cuisine and the price.
    appeal = user_truth.tastes @ share.T + np.outer(user_truth.thrift, 2.2 - item_truth.price_level)
    user, item = _draw_pairs(3 * appeal, reviews, pair_rng)
    # Stars by source (R, T + 2 + C): each trait, the price, the kitchen, each cuisine.
    price = user_truth.thrift[user] * (2.2 - item_truth.price_level[item])
    traits = user_truth.cares[user] * item_truth.traits[item]
    tastes = user_truth.tastes[user] * share[item]
    stars = np.column_stack([traits, price, item_truth.quality[item], tastes])
    luck = pair_rng.normal(0, 0.9, reviews)  # of a single visit, in stars
    raw = stars.sum(axis=1) + user_truth.leniency[user]
    # 82.5% of ratings are 4 or 5: some five likes to a dislike, as in restaurant reviews online.
    score = raw + 3.5 - np.quantile(raw + luck, 0.175)
    rating = np.clip(np.rint(score + luck), 1, 5).astype(np.int64)
    days = np.sort(pair_rng.integers(0, 6 * 365, reviews))
    texts = []
    for row, (reviewer, restaurant) in enumerate(zip(user, item, strict=True)):
        opinions = _opinions(stars[row], luck[row], item_truth, restaurant)
        served, habits = item_truth.cuisines[restaurant], user_truth.habits[reviewer]
        text = review_text.write_review(int(rating[row]), opinions, served, habits, text_rng)
        texts.append(text)
    date = np.datetime64("2019-01-01") + days
    return City(item_truth, user_truth, user, item, score, rating, texts, date)


def write_sample_city(
    folder: Path, *, seed: int = 0, users: int = 400, items: int = 150, reviews: int = 4000
) -> Path:
    """Write `reviews.jsonl`, `places.jsonl` (with some truth) and `photos/`; return the first's path."""
    city = build_city(seed, users, items, reviews)
    rng = np.random.default_rng([seed, 1])
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    item_photos: list[list[str]] = [[] for _ in range(items)]
    review_photos: list[list[str]] = [[] for _ in range(reviews)]

    def take_photo(item: int, label: str, inside: bool) -> str:
        """Draw the room or a dish of an item; return the photo's path relative to the folder."""
        ambience = int(city.items.traits[item, TRAITS.index("ambience")])
        cuisine = PHRASES["cuisines"][city.items.cuisines[item][0]]
        scene = choose(cuisine["interiors" if inside else "plates"], rng)
        if inside and ambience < 0:
            scene = "canteen"
        path = f"photos/{city.items.ids[item]}-{label}-{scene}.jpg"
        photo = draw_photo(scene, int(city.items.price_level[item]), ambience, rng)
        photo.save(folder / path, quality=80)
        return path

    for item, count in enumerate(rng.integers(1, 4, items)):
        for number in range(count):
            item_photos[item].append(take_photo(item, f"{1 + number}", number % 2 == 0))
    for row, item in enumerate(city.item):
        if rng.random() < 0.15:
            inside = rng.random() < 0.3
            review_photos[row].append(take_photo(item, f"review{row}", inside))
    places = {"business_id": city.items.ids, "name": city.items.names, "photos": item_photos}
    places |= {"price_level": city.items.price_level, "cuisines": city.items.cuisines}
    pl.DataFrame(places).write_ndjson(folder / "places.jsonl")
    review_columns = {
        "user_id": np.array(city.users.ids)[city.user],
        "business_id": np.array(city.items.ids)[city.item],
        "rating": city.rating,
        "review_text": city.text,
        "timestamp": city.date.astype(str),
        "photos": review_photos,
    }
    pl.DataFrame(review_columns).write_ndjson(folder / "reviews.jsonl")
    return folder / "reviews.jsonl"


def _draw_items(count: int, rng: np.random.Generator) -> _ItemTruth:
    cuisines: list[list[str]] = []  # each a main one, and up to two that go with it
    for _ in range(count):
        main = choose(list(PHRASES["cuisines"]), rng)
        related = rng.permutation(PHRASES["cuisines"][main]["pairs_with"])
        cuisines.append([main, *related[: rng.choice(3, p=[0.6, 0.3, 0.1])].tolist()])
    price_level = rng.choice(4, count, p=[0.27, 0.4, 0.23, 0.1]) + 1
    traits = rng.choice([-1, 0, 1], (count, len(TRAITS)), p=[0.27, 0.31, 0.42])
    # Expensive rooms are seldom shabby, and each cuisine has its share of hot kitchens.
    pleasant = rng.random(count) < 0.3 * (price_level - 2)
    traits[pleasant, TRAITS.index("ambience")] = 1
    heat = np.zeros(count)
    for item, cuisine_names in enumerate(cuisines):
        heat[item] = np.mean([PHRASES["cuisines"][name]["heat"] for name in cuisine_names])
    hot, mild = rng.random((2, count)) < [heat, heat + 0.1]
    traits[:, TRAITS.index("spice")] = np.where(hot, 1, np.where(mild, -1, 0))
    names: list[str] = []  # all different
    for main, *_ in cuisines:
        name = expand(choose(PHRASES["cuisines"][main]["names"], rng), PHRASES["names"], rng)
        while name in names:  # the name grows each time, so this ends
            name += " II" if "," in name else ", " + choose(PHRASES["names"]["street"], rng)
        names.append(name)
    ids = []  # names in lower-case ASCII letters, digits and hyphens
    for name in names:
        letters = unicodedata.normalize("NFKD", name.replace("'", "")).encode("ascii", "ignore")
        ids.append(re.sub(r"\W+", "-", letters.decode().lower()))
    quality = rng.normal(0, 0.45, count)
    return _ItemTruth(ids, names, cuisines, price_level, quality, traits)


def _draw_users(count: int, rng: np.random.Generator) -> _UserTruth:
    # A gamma of small shape: each user cares much for two or three traits.
    cares = rng.gamma(0.5, 0.52, (count, len(TRAITS)))
    taste_count = len(TRAITS) - len(_QUALITIES)
    cares[:, len(_QUALITIES) :] *= rng.choice([-1, 1], (count, taste_count), p=[0.4, 0.6])
    habits = []
    for _ in range(count):
        opinions = int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15]))
        sloppy = float(rng.choice([0.0, 0.01, 0.05], p=[0.6, 0.25, 0.15]))
        exclaims = float(rng.choice([0.0, 0.1, 0.5], p=[0.4, 0.4, 0.2]))
        emoji = float(rng.choice([0.0, 0.05, 0.3], p=[0.6, 0.3, 0.1]))
        lowercase = bool(rng.random() < 0.07)
        habits.append(WritingHabits(opinions, sloppy, exclaims, emoji, lowercase))
    ids = [f"{choose(PHRASES['names']['user'], rng)}{number:03d}" for number in range(count)]
    leniency = rng.normal(0, 0.65, count)
    tastes = rng.normal(0, 0.45, (count, len(PHRASES["cuisines"])))
    thrift = rng.gamma(0.5, 0.4, count)
    return _UserTruth(ids, leniency, cares, tastes, thrift, habits)


def _draw_pairs(appeal: _Floats, reviews: int, rng: np.random.Generator) -> tuple[_Ints, _Ints]:
    """Draw (R,) indices of users and of items: few of either have many reviews, each has two or more."""
    users, items = appeal.shape
    activity = -0.7 * np.log(rng.permutation(users) + 3.0)
    popularity = -0.7 * np.log(rng.permutation(items) + 3.0)
    # The largest of log weights plus Gumbel noise: a weighted draw without replacement.
    keys = activity[:, None] + popularity + appeal + rng.gumbel(size=(users, items))
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


def _opinions(terms: _Floats, luck: float, items: _ItemTruth, item: int) -> list[Opinion]:
    """Return what a user can say of an item, given a row of stars by source."""
    opinions = []
    traits, (price, kitchen), tastes = np.split(terms, [len(TRAITS), len(TRAITS) + 2])
    for trait, degree, stars in zip(TRAITS, items.traits[item], traits, strict=True):
        mood = "" if trait in _QUALITIES else "liked" if stars > 0 else "disliked"
        if degree:
            opinions.append(Opinion(f"{trait}{'+' if degree > 0 else '-'}{mood}", float(stars)))
    if price < -0.25:
        opinions.append(Opinion("overpriced", float(price)))
    else:
        bank = {1: "cheap", 4: "splurge"}.get(int(items.price_level[item]), "fair")
        opinions.append(Opinion(bank, float(max(price, 0.1))))
    food = float(kitchen + 0.6 * luck + 0.05)
    opinions.append(Opinion("food+" if food > 0 else "food-", food))
    strongest = int(np.argmax(abs(tastes)))
    bank = "cuisine+" if tastes[strongest] > 0 else "cuisine-"
    cuisine = list(PHRASES["cuisines"])[strongest]
    return [*opinions, Opinion(bank, float(tastes[strongest]), cuisine)]
