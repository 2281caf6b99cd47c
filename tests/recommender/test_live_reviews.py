"""One person has one voice for an item: corrections, withdrawals, repetitions, and the order of reviews."""

from dataclasses import replace

import polars as pl
import pytest

from live_results import check_equal, check_like_fitted, results
from mmrec.errors import DataError
from mmrec.recommender.live_reviews import LiveReview
from mmrec.recommender.recommender import Recommender

PRAISE = "The ramen was wonderful and cheap. Kind staff."
BLAME = "Cold soup and rude staff. Overpriced."


@pytest.fixture
def names(fitted):
    return fitted.state.online.ids["user"], fitted.state.online.ids["item"]


def live_reviews(names, recommender):
    users, items = names
    rows = [
        ("ann", items[0], 5.0, PRAISE),
        ("ann", items[1], 1.0, BLAME),
        ("bob", items[0], 2.0, BLAME),
        (users[0], "a new place", 4.0, PRAISE),
        ("ann", "a new place", 5.0, PRAISE),
        (users[1], items[0], 3.0, ""),
        (users[2], items[5], 1.0, BLAME),
    ]
    notes = recommender.models.annotator.write_notes([row[3] for row in rows])
    pairs = enumerate(zip(rows, notes, strict=True))
    return [LiveReview(*row, f"live-{number}", note) for number, (row, note) in pairs]


def test_neither_order_nor_batches_of_reviews_matter(model, names):
    together, alone, backward = (Recommender.load(model) for _ in range(3))
    reviews = live_reviews(names, together)
    together.add_reviews(reviews)
    for review in reviews:
        alone.add_reviews([review])
    backward.add_reviews(reviews[::-1])
    assert {*backward.state.online.ids["user"]} == {*alone.state.online.ids["user"]}
    check_equal(results(together), results(alone))
    check_equal(results(together), results(backward))


def test_a_review_that_is_sent_again_changes_nothing(model, names):
    live = Recommender.load(model)
    best = live.recommend("stranger", 1)["item"][0]
    live.add_review("dave", best, 1.0, BLAME, "one")
    before = results(live)
    for number in range(3):
        live.add_review("dave", best, 1.0, BLAME, f"again {number}")
    check_equal(results(live), before)


def test_a_correction_takes_the_place_of_what_was_said_before(model, names):
    corrected, once = Recommender.load(model), Recommender.load(model)
    users, items = names
    reviewed = corrected.saved.reviews.table.filter(user=users[0])["item"][0]  # before the fit
    for user, item in (("ann", items[0]), ("ann", "a new place"), (users[0], reviewed)):
        corrected.add_review(user, item, 1.0, BLAME, "first")
        before = corrected.predict([user], [item])[0]
        corrected.add_review(user, item, 5.0, PRAISE, "second")
        assert corrected.predict([user], [item])[0] > before
        once.add_review(user, item, 5.0, PRAISE, "second")
    check_equal(results(corrected), results(once))
    ratings = corrected.state.online.live.ratings("user", corrected.state.online.codes["user"][users[0]])
    code = corrected.state.online.codes["item"][reviewed]
    assert ratings[1][ratings[0] == code].tolist() == [5.0]


def test_a_withdrawn_review_is_gone(model, names):
    live, untouched = Recommender.load(model), Recommender.load(model)
    reviews = [review for review in live_reviews(names, live) if review.item != "a new place"]
    live.add_reviews(reviews)
    untouched.add_reviews(reviews[3:])
    for review in reviews[:3]:
        live.withdraw_review(review.user, review.item)
    check_equal(results(live), results(untouched))
    with pytest.raises(DataError, match="has written no review"):
        live.withdraw_review("ann", names[1][0])
    with pytest.raises(DataError, match="has written no review"):
        live.withdraw_review("nobody", names[1][0])


def test_a_review_of_the_fit_can_be_withdrawn(fitted, model):
    table = fitted.saved.reviews.table
    user, item, text = table.filter(pl.col("text").str.len_chars() > 40).select("user", "item", "text").row(0)
    live = Recommender.load(model)
    live.withdraw_review(user, item)
    rest = table.filter((pl.col("user") != user) | (pl.col("item") != item))
    assert len(rest) < len(table)
    reviews = replace(fitted.saved.reviews, table=rest)
    check_like_fitted(live, fitted, reviews, users=[user], items=[item])
    assert item in live.recommend(user, 1000)["item"]
    quotes = live.state.catalog.quotes(live.state.online.codes["item"][item])
    assert not [quote for quote in quotes if quote.user == user and quote.text in text]


def test_one_voice_sets_no_price_tag(model):
    live = Recommender.load(model)
    cheap = "So cheap, a bargain. Cheap lunch and low prices."
    (note,) = live.models.annotator.write_notes([cheap])
    assert note.price == "cheap price"
    for user, tag in (("ann", None), ("bob", "cheap price")):
        live.add_review(user, "den", 5.0, cheap, f"of {user}")
        code = live.state.online.views("item", ["den"])
        assert live.state.catalog.describe(code)["price"][0] == tag
