"""Items that match wishes, by what a handful of reviews say of them."""

import numpy as np
import polars as pl
import pytest

from mmrec.llm.lexicon import Lexicon
from mmrec.llm.types import Note, Wish
from mmrec.retrieval.review_texts import GrowingTexts, ReviewTexts, plain_words
from mmrec.retrieval.wish_match import WishItems, WishMatcher

NAMES = ["Ramen Bar", "Pasta Palace", "Noodle Den", "Fish Shack", "Trattoria", "Diner"]
RAMEN, PASTA, DEN, FISH, TRATTORIA, DINER = range(6)
# By item: sentences that reviews like and dislike, a price, and categories.
REVIEWS = [
    (RAMEN, "The tonkotsu ramen was rich.", "", "cheap price", ["ramen", "japanese"]),
    (PASTA, "Loved the lasagna.", "So loud, we had to shout.", "overpriced", ["italian"]),
    (DEN, "Great ramen and a quiet room.", "", "fair price", ["ramen", "japanese"]),
    (FISH, "The grilled salmon was fresh.", "The place was not quiet.", "fair price", ["seafood"]),
    (TRATTORIA, "Their lasagna and gnocchi are the best.", "", "fair price", ["italian"]),
    (DINER, "The pancakes were huge.", "", "cheap price", ["american"]),
]


@pytest.fixture
def texts(encoder):
    item, reviews, notes = [], [], []
    for code, like, dislike, price, categories in REVIEWS * 4:
        item.append(code)
        reviews.append(f"{like} {dislike}")
        likes, dislikes = [like], [dislike] if dislike else []
        notes.append(Note(likes=likes, dislikes=dislikes, price=price, categories=categories))
    return GrowingTexts(lambda: ReviewTexts(np.array(item), reviews, notes, encoder), encoder)


@pytest.fixture
def matcher(encoder, texts):
    return WishMatcher(texts, Lexicon("restaurant"), encoder)


def match(matcher, names=NAMES, **wish):
    by_name = {name: [code] for code, name in enumerate(names)}
    size = len(names)
    items = WishItems(
        pl.Series([*map(plain_words, names)]), by_name, np.zeros((size, 4)), lambda codes: np.zeros(size)
    )
    return matcher.match(Wish(**wish), items)


def best(matched, count):
    return {*np.argsort(-matched.probability, kind="stable")[:count].tolist()}


def test_dishes_categories_and_meanings_are_found(matcher):
    for phrase, items in {
        "ramen": {RAMEN, DEN},
        "lasagna": {PASTA, TRATTORIA},
        "italian": {PASTA, TRATTORIA},
        "seafood": {FISH},
        "pancake breakfast": {DINER},
        "smoked fish": {FISH},  # which no review says
    }.items():
        matched = match(matcher, wanted=[phrase])
        assert best(matched, len(items)) == items, phrase
        assert not matched.excluded.any()
    assert match(matcher, wanted=["ramen", "quiet"]).probability.argmax() == DEN
    assert match(matcher, wanted=["ramen", "karaoke"]).unmatched == ["karaoke"]


def test_what_is_blamed_is_no_praise_but_is_there(matcher):
    probability = match(matcher, wanted=["quiet"]).probability
    assert probability.argmax() == DEN
    assert probability[FISH] < 0.5
    assert match(matcher, unwanted=["loud"]).excluded.nonzero()[0].tolist() == [PASTA]


def test_unwanted_items_and_prices_are_not_listed(matcher):
    assert {*np.flatnonzero(match(matcher, unwanted=["italian"]).excluded)} == {PASTA, TRATTORIA}
    assert {*np.flatnonzero(match(matcher, unwanted=["Diner"]).excluded)} == {DINER}
    assert {*np.flatnonzero(match(matcher, unwanted_prices=["overpriced"]).excluded)} == {PASTA}
    assert best(match(matcher, prices=["cheap price"]), 2) == {RAMEN, DINER}
    cheap = match(matcher, prices=["cheap price"], wanted=["ramen"])
    assert cheap.probability.argmax() == RAMEN
    assert best(match(matcher, prices=["cheap price"], wanted=["lasagna"]), 2) == {PASTA, TRATTORIA}
    everything = match(matcher)
    assert (everything.probability == 1).all()
    assert not everything.excluded.any()


def test_items_tagged_with_what_is_not_wanted_stand_behind_those_that_are_not(matcher, texts, encoder):
    for number in range(6):
        note = Note(likes=["Fine."], categories=["seafood"] if number < 1 else [])
        texts.add(number, RAMEN, "Fine.", note, encoder)
    any_food = match(matcher, unwanted=["seafood"])
    assert not any_food.excluded[RAMEN]  # one review of ten speaks of it
    assert any_food.probability[DEN] > 50 * any_food.probability[RAMEN]
    few = match(matcher, wanted=["ramen"], unwanted=["seafood"])
    assert few.log_odds.argmax() == DEN
    # Four speak of ramen, which outweighs that, also where the price and the noise are not right.
    assert 2 < few.probability[DEN] / few.probability[RAMEN] < 10
    wish = {"wanted": ["ramen", "quiet"], "prices": ["fair price"], "unwanted": ["seafood"]}
    assert match(matcher, **wish).log_odds.argsort()[::-1][:2].tolist() == [DEN, RAMEN]
    for number in range(20):  # now one of thirty
        texts.add(f"more {number}", RAMEN, "Fine.", Note(likes=["Fine."]), encoder)
    assert match(matcher, unwanted=["seafood"]).probability[RAMEN] > 0.9


def test_one_voice_about_a_price_is_no_clear_match(matcher, texts, encoder):
    for number in range(20):
        texts.add(number, RAMEN, "Fine.", Note(price="cheap price"), encoder)
    texts.add("single", len(NAMES), "Fine.", Note(price="cheap price"), encoder)
    matched = match(matcher, [*NAMES, "Hot Pot"], prices=["cheap price"])
    assert matched.probability[RAMEN] > 0.98  # from there on the probability of a like decides
    assert 0.5 < matched.probability[-1] < 0.95


def test_named_items_come_first_and_items_like_others_without_these(matcher):
    named = match(matcher, items=["Ramen Bar"], unwanted=["ramen"])
    assert named.named.nonzero()[0].tolist() == [RAMEN]
    assert named.log_odds.argmax() == RAMEN
    assert not named.excluded[RAMEN]
    like = match(matcher, similar_to=["Ramen Bar"])
    assert like.excluded.nonzero()[0].tolist() == [RAMEN]
    assert best(like, 2) == {RAMEN, DEN}


def test_items_without_any_others_can_be_named(matcher):
    items = WishItems(pl.Series(["bar"] * 6), {"Bar": range(6)}, np.zeros((6, 4)), lambda codes: np.zeros(6))
    assert matcher.match(Wish(similar_to=["Bar"]), items).excluded.all()
    named = matcher.match(Wish(items=["Bar"]), items)
    assert named.named.all()
    assert (named.probability == 1).all()


def test_long_phrases_are_looked_for_by_their_parts(matcher):
    unknown = " ".join(f"grbl{number}brg" for number in range(60))
    for phrase, item in ((f"{unknown} tonkotsu ramen", RAMEN), (f"grilled salmon {unknown}", FISH)):
        assert match(matcher, wanted=[phrase]).probability.argmax() == item
        texts = ["Fresh grilled salmon.", "Rich tonkotsu ramen."]
        assert matcher.speaks_of(phrase, texts).dtype == bool


def test_live_texts_count_at_once_until_they_are_withdrawn(matcher, texts, encoder):
    names = [*NAMES, "Hot Pot"]
    before = match(matcher, names, wanted=["hotpot"]).probability
    assert before.max() < 0.6  # which no review says
    note = Note(likes=["Sichuan hotpot."], categories=["chinese"])
    texts.add("first", len(NAMES), "Sichuan hotpot.", note, encoder)
    for wish in ("hotpot", "chinese"):
        assert match(matcher, names, wanted=[wish]).probability.argmax() == len(NAMES)
    texts.add("second", DINER, "They have hotpot now. Hotpot!", Note(), encoder)
    assert best(match(matcher, names, wanted=["hotpot"]), 2) == {DINER, len(NAMES)}
    texts.withdraw("second")
    assert match(matcher, names, wanted=["hotpot"]).probability.argmax() == len(NAMES)
    texts.withdraw("first")
    assert match(matcher, names, wanted=["hotpot"]).probability == pytest.approx(before, abs=0.02)


def test_texts_of_the_fit_can_be_withdrawn(matcher, texts):
    before = match(matcher, NAMES, wanted=["ramen"]).probability
    best_item = int(before.argmax())
    for row in np.flatnonzero(texts.parts[0].item == best_item):
        texts.withdraw_fitted(int(row))
    assert match(matcher, NAMES, wanted=["ramen"]).probability.argmax() != best_item
