"""Probabilities of users and items with few reviews or none are calibrated, and nothing unproven leads."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mmrec.config import Config, RankerConfig, TrainingConfig
from mmrec.data import read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.recommender.recommender import Recommender

BLAMES = (
    "Dirty place, awful cold food, rude staff.",
    "The worst. Stale food and endless waiting, never again.",
    "Disappointing: bland dishes, tiny portions, unfriendly service.",
)
PRAISES = (
    "Wonderful fresh food, friendly staff.",
    "The best. Delicious food and quick service, always a joy.",
    "Outstanding: tasty dishes, generous portions, lovely service.",
)


@pytest.fixture(scope="module")
def city(minilm, tmp_path_factory):
    """A city where all items have many reviews, and some items and users, whole, that were held out."""
    folder = tmp_path_factory.mktemp("city")
    reviews = read_reviews(write_sample_city(folder, seed=5, users=160, items=40, reviews=2400))
    rng, held_out = np.random.default_rng(0), {}
    for kind, count in (("item", 12), ("user", 40)):
        ids = reviews.table[kind].unique().sort().to_list()
        held_out[kind] = rng.permutation(ids)[:count].tolist()
    is_known = ~pl.col("item").is_in(held_out["item"]) & ~pl.col("user").is_in(held_out["user"])
    config = Config(
        store=folder / "store.sqlite", ranker=RankerConfig(ensemble=2), training=TrainingConfig(epochs=10)
    )
    known = replace(reviews, table=reviews.table.filter(is_known))
    return Recommender(config).fit(known), reviews.table, held_out


@pytest.mark.parametrize(("kind", "other"), [("item", "user"), ("user", "item")])
def test_probabilities_are_calibrated_by_number_of_reviews(city, kind, other):
    """Whole entities were held out; their first k reviews are then live, the others are to be predicted."""
    recommender, table, held_out = city
    rows = table.filter(pl.col(kind).is_in(held_out[kind]) & ~pl.col(other).is_in(held_out[other]))
    groups = [group.sample(fraction=1, shuffle=True, seed=1) for group in rows.partition_by(kind)]
    groups = [group for group in groups if len(group) > 8]
    assert len(groups) >= 10
    for count in range(9):
        gaps, likes = [], []
        for group in groups:
            later = group[8:]
            probability = recommender.predict(later["user"].to_list(), later["item"].to_list())
            like = (later["rating"] >= 4).to_numpy()
            gaps.append((probability - like).sum())
            likes.extend(like)
            user, item, rating, text = group.select("user", "item", "rating", "text").row(count)
            recommender.add_review(user, item, rating, text, f"{kind} {count}")
        gap, sizes = np.sum(gaps) / len(likes), np.array([len(group) - 8 for group in groups])
        # Deviations from the common gap, which would otherwise excuse itself.
        error = np.sqrt(np.square(gaps - gap * sizes).sum()) / len(likes)
        assert abs(gap) < 0.02 + 2 * error, (count, gap, error)


def test_nothing_unproven_leads_and_praise_counts_for_more_than_blame(city):
    recommender, table, _ = city
    known = [*recommender.saved.reviews.table["item"].unique()]
    base = recommender.predict(["?"], ["?"])[0]
    best, *_, worst = sorted(recommender.predict(["?"] * len(known), known), reverse=True)
    assert worst < base < best
    assert base == pytest.approx((table["rating"] >= 4).mean(), abs=0.05)
    for number, (blame, praise) in enumerate(zip(BLAMES, PRAISES, strict=True)):
        recommender.add_item(f"blamed {number}", description=blame)
        recommender.add_item(f"praised {number}", description=praise)
    blamed, praised = (
        recommender.predict(["?"] * 3, [f"{word} {number}" for number in range(3)])
        for word in ("blamed", "praised")
    )
    assert (blamed < praised).all()
    assert praised.max() < best
    recommender.add_review("ann", "two", 5, "Good food.", "1")
    recommender.add_review("bob", "two", 1, "Cold food, and rude.", "2")
    assert recommender.predict(["?"], ["two"])[0] < base + 0.02
    count = len(recommender.state.online.ids["item"])
    new = {f"{word} {number}" for number in range(3) for word in ("blamed", "praised")}
    for user in ("?", table["user"][0]):
        listed = recommender.recommend(user, count, seen=True)
        assert {*listed["item"][-6:]} == new
        explored = recommender.recommend(user, count, seen=True, explore=True, caution=1e6)
        assert np.flatnonzero(explored["unproven"]).tolist() == [2, 5, 8, 11, 14, 17]
        assert {*explored.filter("unproven")["item"]} == new
        for rows in explored.partition_by("unproven"):
            assert rows["probability"].is_sorted(descending=True)
        few = recommender.recommend(user, 10, seen=True, explore=True)
        assert (
            few["item"].to_list()
            == recommender.recommend_all(10, users=[user], seen=True, explore=True)["item"].to_list()
        )
        assert few["unproven"].sum() == 3
        assert {*explored["item"]} == {*listed["item"]}
    everyone = recommender.recommend_all(1, users=["?"])
    assert everyone["item"][0] == recommender.recommend("?", 1)["item"][0]
    assert everyone["item"][0] not in new
