"""Sample City: a seeded synthetic city of restaurants, users, reviews and photos, the demo's data.

What moves a rating is also mentioned in the text: a user who loves quiet complains where it is loud. So
the texts reveal what users want and what items are, and a model that reads them can beat one that knows
only how lenient a user and how good an item is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from mmrec.data.synthetic.pictures import draw_photo
from mmrec.data.synthetic.review_text import PHRASES, Opinion, choose, write_review
from mmrec.data.synthetic.truth import (
    QUALITIES,
    TRAITS,
    Floats,
    Ints,
    ItemTruth,
    UserTruth,
    draw_items,
    draw_pairs,
    draw_users,
    rating_terms,
)

__all__ = ["City", "build_city", "write_sample_city"]


@dataclass(frozen=True)
class City:
    """A city of U users, I items and R reviews, in the order of their dates, with its truth.

    Attributes:
        user, item: (R,) indices; no pair occurs twice.
        score: (R,) the rating before luck and rounding, all that an oracle could predict.
        rating, text, date: (R,) 1..5, what the user wrote (maybe nothing), and days.
    """

    items: ItemTruth
    users: UserTruth
    user: Ints
    item: Ints
    score: Floats
    rating: Ints
    text: list[str]
    date: npt.NDArray[np.datetime64]


def build_city(seed: int = 0, users: int = 400, items: int = 150, reviews: int = 4000) -> City:
    """Build the city of a seed in memory.

    Raises:
        ConfigError: fewer reviews than give everyone two, or more than there are pairs.
    """
    item_rng, user_rng, pair_rng, text_rng = np.random.default_rng(seed).spawn(4)
    item_truth, user_truth = draw_items(items, item_rng), draw_users(users, user_rng)
    user, item = draw_pairs(users, items, reviews, pair_rng)
    stars = rating_terms(item_truth, user_truth, user, item)
    luck = pair_rng.normal(0, 0.9, reviews)  # of a single visit, in stars
    raw = stars.sum(axis=1) + user_truth.leniency[user]
    # 82.5% of ratings are 4 or 5: some five likes to a dislike, as in restaurant reviews online.
    score = raw + 3.5 - np.quantile(raw + luck, 0.175)
    rating = np.clip(np.rint(score + luck), 1, 5).astype(np.int64)
    days = np.sort(pair_rng.integers(0, 6 * 365, reviews))
    texts = []
    for row, (reviewer, restaurant) in enumerate(zip(user, item, strict=True)):
        opinions = _opinions(stars[row], luck[row], item_truth, restaurant)
        cuisines, habits = item_truth.cuisines[restaurant], user_truth.habits[reviewer]
        texts.append(write_review(int(rating[row]), opinions, cuisines, habits, text_rng))
    date = np.datetime64("2019-01-01") + days
    return City(item_truth, user_truth, user, item, score, rating, texts, date)


def write_sample_city(
    folder: Path, *, seed: int = 0, users: int = 400, items: int = 150, reviews: int = 4000
) -> Path:
    """Write `reviews.jsonl`, `places.jsonl` and `photos/` into a folder; return the reviews' path.

    Photo paths are relative to the folder. `price_level` and `cuisines` of the places are truth, for
    scoring what is read out of the reviews. Raises as `build_city` does.
    """
    city = build_city(seed, users, items, reviews)
    rng = np.random.default_rng([seed, 1])
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    item_photos: list[list[str]] = [[] for _ in range(items)]
    for item, count in enumerate(rng.integers(1, 4, items)):
        for number in range(count):
            photo = _take_photo(folder, city.items, item, f"{1 + number}", number % 2 == 0, rng)
            item_photos[item].append(photo)
    review_photos: list[list[str]] = [[] for _ in range(reviews)]
    for row, item in enumerate(city.item):
        if rng.random() < 0.15:
            photo = _take_photo(folder, city.items, item, f"review{row}", rng.random() < 0.3, rng)
            review_photos[row].append(photo)
    places = {
        "business_id": city.items.ids,
        "name": city.items.names,
        "photos": item_photos,
        "price_level": city.items.price_level,
        "cuisines": city.items.cuisines,
    }
    review_columns = {
        "user_id": np.array(city.users.ids)[city.user],
        "business_id": np.array(city.items.ids)[city.item],
        "rating": city.rating,
        "review_text": city.text,
        "timestamp": city.date.astype(str),
        "photos": review_photos,
    }
    pl.DataFrame(places).write_ndjson(folder / "places.jsonl")
    pl.DataFrame(review_columns).write_ndjson(folder / "reviews.jsonl")
    return folder / "reviews.jsonl"


def _opinions(terms: Floats, luck: float, items: ItemTruth, item: int) -> list[Opinion]:
    """Return what a user can say of an item, given a row of `rating_terms`."""
    opinions = []
    traits, (price, kitchen), tastes = np.split(terms, [len(TRAITS), len(TRAITS) + 2])
    for trait, degree, stars in zip(TRAITS, items.traits[item], traits, strict=True):
        mood = "" if trait in QUALITIES else "liked" if stars > 0 else "disliked"
        if degree:
            opinions.append(Opinion(f"{trait}{'+' if degree > 0 else '-'}{mood}", float(stars)))
    if price < -0.25:
        opinions.append(Opinion("overpriced", float(price)))
    else:
        bank = {1: "cheap", 4: "splurge"}.get(int(items.price_level[item]), "fair")
        opinions.append(Opinion(bank, float(max(price, 0.1))))
    # A visit's luck is mostly that of the kitchen.
    food = float(kitchen + 0.6 * luck + 0.05)
    opinions.append(Opinion("food+" if food > 0 else "food-", food))
    strongest = int(np.argmax(abs(tastes)))
    bank = "cuisine+" if tastes[strongest] > 0 else "cuisine-"
    cuisine = list(PHRASES["cuisines"])[strongest]
    return [*opinions, Opinion(bank, float(tastes[strongest]), cuisine)]


def _take_photo(
    folder: Path, items: ItemTruth, item: int, label: str, inside: bool, rng: np.random.Generator
) -> str:
    """Draw the room or a dish of an item; return the photo's path relative to the folder."""
    ambience = int(items.traits[item, TRAITS.index("ambience")])
    cuisine = PHRASES["cuisines"][items.cuisines[item][0]]
    scene = choose(cuisine["interiors" if inside else "plates"], rng)
    if inside and ambience < 0:
        scene = "canteen"
    path = f"photos/{items.ids[item]}-{label}-{scene}.jpg"
    draw_photo(scene, int(items.price_level[item]), ambience, rng).save(folder / path, quality=80)
    return path
