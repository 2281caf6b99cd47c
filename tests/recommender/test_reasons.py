"""Reasons in plain words on a small Sample City: their counts, their order, and signed quotes."""

from collections import Counter

import polars as pl
import pytest

from mmrec.llm.lexicon import split_words
from mmrec.recommender.quotes import Quote
from mmrec.recommender.reasons import ReasonFinder
from mmrec.recommender.recommender import Recommender


@pytest.fixture(scope="module")
def table(fitted):
    return fitted.saved.reviews.table


@pytest.fixture(scope="module")
def users(table):
    """Those who liked most first."""
    counts = table.filter(pl.col("rating") >= 4)["user"].value_counts(sort=True)
    return counts.sort("count", "user", descending=[True, False])["user"].to_list()


@pytest.fixture
def live(model):
    return Recommender.load(model)


def texts(explanation, kind):
    return [reason.text for reason in explanation.reasons if reason.kind == kind]


def test_liked_items_are_those_of_the_user_and_counts_are_those_of_the_table(fitted, table, users):
    names = dict(fitted.saved.reviews.items.select("item", "name").rows())
    likers = table.filter(pl.col("rating") >= 4).group_by("item").agg(pl.col("user"))
    likers = {item: set(liking) for item, liking in likers.rows()}
    counted = 0
    for user in users[:5]:
        listed = fitted.recommend(user, 10)["item"].to_list()
        for item, why in zip(listed, fitted.explain_list(user, listed), strict=True):
            for reason in (reason for reason in why.reasons if reason.kind == "liked"):
                assert all(user in likers[liked] for liked in reason.items)
                others = set().union(*(likers[liked] for liked in reason.items)) & likers.get(item, set())
                start = "Because you liked " + " and ".join(names[liked] for liked in reason.items)
                if reason.count:
                    assert reason.count == len(others - {user}) > 1
                    assert reason.text.startswith(f"{start}: {reason.count} others who liked ")
                else:
                    assert reason.text == f"{start}, which is similar"
                counted += reason.count > 0
            shares = table.filter(item=item).group_by("user").agg(pl.col("rating").max() >= 4)["rating"]
            (reviewers,) = (reason for reason in why.reasons if reason.kind == "reviewers")
            assert (reviewers.count, reviewers.total) == (shares.sum(), len(shares))
    assert counted > 10
    # Somebody who wants a place like one that they name likes it.
    near = {item: fitted.similar_items(item, 1)[0] for item in likers if names[item]}
    item, (other, _) = max(near.items(), key=lambda pair: pair[1][1])
    why = fitted.explain(None, other, likes=f"a place like {names[item]}")
    assert [reason.items for reason in why.reasons if reason.kind == "liked"] == [[item]]


def test_the_liked_item_is_the_one_that_similarity_chooses(fitted, table, users, monkeypatch):
    state = fitted.state
    tastes = state.reasons.tastes(state.online.codes["user"][users[0]], None, [])
    likers = table.filter(pl.col("rating") >= 4).group_by("item").agg(pl.col("user"))
    likers = {state.online.codes["item"][item]: {*liking} - {users[0]} for item, liking in likers.rows()}
    chosen = 0
    for item in set(likers) - {*tastes.liked}:
        for liked in tastes.liked.tolist():

            def similar(items, to, item=item, liked=liked):
                assert to == item
                return (items == liked).astype(float)

            finder = ReasonFinder(fitted.config, state.dataset, state.online, state.catalog)
            monkeypatch.setattr(finder, "_similar", similar)
            reasons = [reason for reason in finder.reasons(tastes, item) if reason.kind == "liked"]
            if len(likers[item] & likers[liked]) > 1:
                assert [reason.items for reason in reasons] == [[state.online.ids["item"][liked]]]
                chosen += 1
            else:  # one user who liked both may be chance
                assert all(reason.text.endswith(", which is similar") for reason in reasons)
    assert chosen > 20


def test_no_sentence_is_quoted_twice_in_a_list_and_quotes_are_signed(fitted, table, users):
    listed = fitted.recommend(users[0], 25, seen=True)["item"].to_list()
    quotes = [quote for why in fitted.explain_list(users[0], listed) for quote in why.quotes]
    assert len(quotes) > 40
    sentences = Counter(" ".join(split_words(quote.text)) for quote in quotes)
    assert max(sentences.values()) == 1
    alone = [fitted.explain(users[0], item).quotes for item in listed]
    assert len({quote.text.lower().strip("!. ") for group in alone for quote in group}) < len(quotes)
    rows = {row["review_id"]: row for row in table.to_dicts()}
    for quote in quotes:
        row = rows[quote.review_id]
        assert (quote.user, quote.rating) == (row["user"], row["rating"])
        assert quote.date == row["time"].date().isoformat()


def test_signatures_name_what_is_known():
    assert Quote("x", "1", True, user="ann", rating=4.0, date="2024-05-01").signature == (
        "ann, 4 stars, 1 May 2024"
    )
    assert Quote("x", "1", True, user="ann", rating=1.0).signature == "ann, 1 star"
    assert Quote("x", "1", True, user="ann", rating=3.5).signature == "ann, 3.5 stars"
    assert Quote("x", "", True, photo=True).signature == "photo"


def test_live_reviews_count_at_once(live, users):
    live.add_item("den", name="The Den", description="A small café.")
    unknown = live.explain(None, "den", likes="a quiet place")
    assert [reason.text for reason in unknown.reasons] == ["No reviews yet"]
    live.add_review(users[0], "den", 5.0, "Wonderfully quiet and peaceful. The waiter was rude.", "1")
    assert texts(live.explain("nobody", "den"), "reviewers") == ["Liked by its only reviewer"]
    live.add_review(users[1], "den", 4.0, "A lovely quiet place! Rude staff.", "2")
    live.add_review("ann", "den", 1.0, "Awful food.", "3")
    why = live.explain(None, "den", likes="a quiet place")
    assert "Quiet, 2 mentions; you mention it too" in texts(why, "topic")
    assert why.reasons[-1].text in ("Unfriendly, 2 mentions", "Poor service, 2 mentions")
    assert not why.reasons[-1].favourable
    assert texts(why, "reviewers") == ["Liked by 2 of 3 reviewers"]
    assert {quote.user for quote in why.quotes} <= {*users[:2], "ann"}
    # Two users liked both, and a user who mentions it too is told so.
    for user in users[:2]:
        live.add_review(user, "hut", 5.0, "Wonderfully quiet and peaceful.", f"hut {user}")
    (liked,) = texts(live.explain(None, "den", liked=["hut"]), "liked")
    assert liked.endswith("2 others who liked it liked this too")
    live.add_review("ann", "hut", 5.0, "Lovely, quiet and calm.", "4")
    assert "Quiet, 2 mentions; you mention it too" in texts(live.explain("ann", "den"), "topic")
