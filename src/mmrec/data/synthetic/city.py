"""Sample City: a seeded synthetic town of restaurants, guests, reviews and photos, our own demo.

Whatever moves a rating is also spoken of: who loves quiet complains where it is loud. So words reveal what
users want and what items are, and a model that reads them can beat one that only knows how lenient a user
and how good an item is.
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

__all__ = ["TRAITS", "City", "ItemTruth", "UserTruth", "build_city", "write_sample_city"]

LIKE_SHARE = 0.825
"""Share of ratings of 4 and 5: some five likes to a dislike, as in restaurant reviews online."""
NOISE = 0.9
"""Standard deviation of a visit's luck, in stars."""
PHOTO_SHARE = 0.15
"""Share of reviews that come with a photo."""


@dataclass(frozen=True)
class City:
    """A town of U users, I items and R reviews, in the order of their dates, with its truth.

    Attributes:
        items: the items.
        users: the users.
        user: (R,) index of the user; no (user, item) pair occurs twice.
        item: (R,) index of the item.
        score: (R,) the rating before luck and rounding, all that an oracle could predict.
        rating: (R,) 1..5.
        text: (R,) what the user wrote; may be empty.
        date: (R,) days.
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
    """The town of this seed, in memory.

    Raises:
        ConfigError: fewer reviews than give everyone two, or more than there are pairs.
    """
    item_rng, user_rng, pair_rng, text_rng = np.random.default_rng(seed).spawn(4)
    places = draw_items(items, item_rng)
    guests = draw_users(users, user_rng)
    user, item = draw_pairs(users, items, reviews, pair_rng)
    stars = rating_terms(places, guests, user, item)
    luck = pair_rng.normal(0, NOISE, reviews)
    raw = stars.sum(axis=1) + guests.leniency[user]
    score = raw + 3.5 - np.quantile(raw + luck, 1 - LIKE_SHARE)
    rating = np.clip(np.rint(score + luck), 1, 5).astype(np.int64)
    days = np.sort(pair_rng.integers(0, 6 * 365, reviews))
    text = [
        write_review(
            int(rating[row]),
            _opinions(stars[row], luck[row], places, int(item[row])),
            places.cuisines[item[row]],
            guests.habits[user[row]],
            text_rng,
        )
        for row in range(reviews)
    ]
    return City(places, guests, user, item, score, rating, text, np.datetime64("2019-01-01") + days)


def write_sample_city(
    folder: Path, *, seed: int = 0, users: int = 400, items: int = 150, reviews: int = 4000
) -> Path:
    """Write `reviews.jsonl`, `items.jsonl` and `photos/` into the folder; returns the path of the reviews.

    Photo paths are relative to the folder. `price_level` and `cuisines` of the places are truth, for scoring
    what is read out of the reviews.

    Raises:
        ConfigError: as `build_city`.
    """
    city = build_city(seed, users, items, reviews)
    rng = np.random.default_rng([seed, 1])
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    places = city.items
    place_photos = [
        [
            _take_photo(folder, places, item, str(1 + number), number % 2 == 0, rng)
            for number in range(count)
        ]
        for item, count in enumerate(rng.integers(1, 4, items))
    ]
    review_photos = [
        [_take_photo(folder, places, item, f"review{row}", rng.random() < 0.3, rng)]
        if rng.random() < PHOTO_SHARE
        else []
        for row, item in enumerate(city.item.tolist())
    ]
    pl.DataFrame(
        {
            "business_id": places.ids,
            "name": places.names,
            "photos": place_photos,
            "price_level": places.price_level,
            "cuisines": places.cuisines,
        }
    ).write_ndjson(folder / "places.jsonl")
    pl.DataFrame(
        {
            "user_id": [city.users.ids[user] for user in city.user],
            "business_id": [places.ids[item] for item in city.item],
            "rating": city.rating,
            "review_text": city.text,
            "timestamp": city.date.astype(str),
            "photos": review_photos,
        }
    ).write_ndjson(folder / "reviews.jsonl")
    return folder / "reviews.jsonl"


def _opinions(row: Floats, luck: float, places: ItemTruth, item: int) -> list[Opinion]:
    """What this user can say of this item, given one row of `rating_terms`."""
    opinions = []
    for trait, (value, worth) in enumerate(
        zip(places.traits[item], row[: len(TRAITS)], strict=True)
    ):
        mood = "" if trait < QUALITIES else "liked" if worth > 0 else "disliked"
        if value:
            opinions.append(
                Opinion(f"{TRAITS[trait]}{'+' if value > 0 else '-'}{mood}", float(worth))
            )
    level, price = places.price_level[item], float(row[len(TRAITS)])
    if price < -0.25:
        opinions.append(Opinion("overpriced", price))
    else:
        opinions.append(
            Opinion({1: "cheap", 4: "splurge"}.get(int(level), "fair"), max(price, 0.1))
        )
    food = float(row[len(TRAITS) + 1]) + 0.6 * luck + 0.05
    opinions.append(Opinion("food+" if food > 0 else "food-", food))
    tastes = row[len(TRAITS) + 2 :]
    most = int(np.argmax(np.abs(tastes)))
    bank = "cuisine+" if tastes[most] > 0 else "cuisine-"
    return [*opinions, Opinion(bank, float(tastes[most]), list(PHRASES["cuisines"])[most])]


def _take_photo(
    folder: Path, places: ItemTruth, item: int, label: str, inside: bool, rng: np.random.Generator
) -> str:
    """Draw the room or a dish of an item; returns the photo's path relative to the folder."""
    ambience = int(places.traits[item, TRAITS.index("ambience")])
    cuisine = PHRASES["cuisines"][places.cuisines[item][0]]
    scene = choose(cuisine["interiors"] if inside else cuisine["plates"], rng)
    if inside and ambience < 0:
        scene = "canteen"
    path = f"photos/{places.ids[item]}-{label}-{scene}.jpg"
    draw_photo(scene, int(places.price_level[item]), ambience, rng).save(folder / path, quality=80)
    return path
