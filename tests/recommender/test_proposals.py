"""Lists from candidates: of everyone as of each alone, and with live reviews."""

from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch

from mmrec.llm.types import Wish
from mmrec.recommender.proposals import ListRules
from mmrec.recommender.recommender import Recommender

PRAISE = "The ramen was wonderful and cheap."


@pytest.fixture
def live(model):
    """A recommender of its own, to which reviews may be added."""
    return Recommender.load(model)


def history(recommender, *users):
    """What users, by id, have visited."""
    maker = recommender.state.list_maker
    views = recommender.state.online.views("user", users)
    return maker.histories.of_users(views, maker.retrieval.proposers.items)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rules", [ListRules(), ListRules(seen=True, min_probability=0.6, caution=2.0)])
def test_lists_of_many_users_are_those_of_each(live, rules, threads, monkeypatch):
    monkeypatch.setattr("mmrec.recommender.proposals._USERS_AT_ONCE", 7)
    live.add_review("newcomer", live.state.online.ids["item"][0], 5.0, PRAISE, "live-1")
    maker, names = live.state.list_maker, [*live.state.online.ids["user"], "unknown"]
    views, before = live.state.online.views("user", names), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        lists = [*maker.lists(views, 5, rules)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(lists) == len(views) > 50
    for view, name, listed in zip(views, names, lists, strict=True):
        alone = maker.top_items(view, history(live, name), 5, rules)
        assert alone.items.tolist() == listed.items.tolist()
        assert alone.probability == pytest.approx(listed.probability, abs=1e-5)
        assert (listed.probability >= rules.min_probability).all()
        if rules.seen:
            usual = 1 / maker.retrieval.proposers.like_rate - 1
            odds = (1 / listed.probability - 1) / usual  # ratio
            (found,) = maker.retrieval.candidates(history(live, name), 100, visited_too=True)
            choice = dict(zip(*found, strict=True))
            expected = [choice[item] - 2.0 * value for item, value in zip(listed.items, odds, strict=True)]
            # Ranks of proposers may swap where scores are nearly equal.
            assert listed.score == pytest.approx(expected, abs=5e-3)
            assert (np.diff(listed.score) <= 1e-6).all()


def test_who_likes_items_writes_as_others_do_of_them(live):
    maker, items = live.state.list_maker, [1, 4]
    liked = maker.histories.of_items(items, maker.retrieval.proposers.topics)
    directions = [maker.retrieval.proposers.topics[item] for item in items]
    expected = sum(topics / np.linalg.norm(topics) for topics in directions)
    assert liked.topics[0] == pytest.approx(expected, abs=1e-5)
    assert liked.visits.indices.tolist() == liked.likes.indices.tolist() == items
    names = [live.state.online.ids["item"][item] for item in items]
    ((found, _),) = maker.retrieval.candidates(liked, 100)
    listed = live.recommend(liked=names, n=5, caution=0)["item"]
    assert listed.to_list() == [live.state.online.ids["item"][item] for item in found[:5]]


def test_a_review_is_in_the_history_at_once_and_changes_the_list(live):
    user, items = live.state.online.ids["user"][0], live.state.online.ids["item"]
    before, rows = history(live, user, "newcomer"), live.recommend(user, 100)
    assert (before.visits[[1]].nnz, before.topics[1].any()) == (0, False)
    order = live.recommend("newcomer", 100)["item"].to_list()
    visited = rows["item"][0]
    live.add_review(user, visited, 1.0, "Cold and rude.", "live-1")
    live.add_review("newcomer", order[-1], 5.0, PRAISE, "live-2")
    after, code = history(live, user, "newcomer"), live.state.online.codes["item"][visited]
    assert after.visits[0, code] == 1
    assert after.likes[0, code] == 0
    assert after.visits[[0]].nnz == before.visits[[0]].nnz + 1
    assert after.likes[[0]].nnz == before.likes[[0]].nnz
    assert not np.allclose(after.topics[0], before.topics[0])
    assert after.likes[[1]].indices.tolist() == [items.index(order[-1])]
    assert visited not in live.recommend(user, 100)["item"]
    assert live.recommend("newcomer", 100)["item"].to_list() != order[:-1]
    # The visit counts once, and the last word on it is that it was not liked.
    live.add_review("newcomer", order[-1], 1.0, "Awful this time.", "live-3")
    again = history(live, "newcomer")
    assert (again.visits.nnz, again.likes.nnz) == (1, 0)
    for item in items:
        live.add_review("everywhere", item, 4.0, PRAISE, f"live-{item}")
    assert live.recommend("everywhere", 10).height == 0
    assert live.recommend_all(10, users=["everywhere"]).height == 0
    assert live.recommend_all(10, users=[]).height == 0
    assert live.recommend("everywhere", 100, seen=True).height == len(items)


def test_who_writes_nothing_is_like_nobody(live):
    items = live.state.online.ids["item"]
    for user, text in (("silent", ""), ("blank", " \n"), ("talker", PRAISE)):
        live.add_review(user, items[0], 5.0, text, f"live-{user}")
    topics = history(live, "silent", "blank", "talker").topics
    assert topics.any(1).tolist() == [False, False, True]


def test_a_new_item_is_listed_last_until_somebody_rates_it(live):
    user, size = live.state.online.ids["user"][0], len(live.state.online.ids["item"])
    live.add_item("new", name="New", description=PRAISE)
    retrieval = live.state.list_maker.retrieval
    assert retrieval.proposers.items == size + 1
    assert retrieval.proposers.visit_count[-1] == 0
    for name in (user, "unknown"):
        listed = live.recommend(name, size + 5, seen=True)["item"].to_list()
        assert len(listed) == size + 1
        assert listed[-1] == "new"
        assert live.recommend(name, 10**6)["item"][-1] == "new"
    assert live.recommend("unknown", 3, categories=["no such thing"]).height == 0
    live.add_review("somebody", "new", 5.0, PRAISE, "live-1")
    assert live.state.list_maker.retrieval.proposers.visit_count[-1] == 1
    scores = live.state.list_maker.retrieval.proposers.scores(history(live, user))
    assert not scores[:5, 0, -1].any()  # words alone speak for it until the next fit
    assert scores[-3, 0, -1] != 0
    by_probability = live.recommend("unknown", size + 5, seen=True, caution=1e6)
    assert by_probability["item"][-1] != "new"


def test_a_user_without_visits_gets_what_is_popular_and_liked(live):
    maker = live.state.list_maker
    (found,) = maker.retrieval.candidates(history(live, "unknown"), 100)
    codes, proposers = found[0], maker.retrieval.proposers
    assert sorted(codes) == [*range(proposers.items)]
    assert live.recommend("unknown", 5).equals(live.recommend("another", 5))
    counts = [proposers.visit_count[part].mean() for part in (codes[:5], codes[-5:])]
    shares = [proposers.like_share[part].mean() for part in (codes[:5], codes[-5:])]
    assert counts[0] > counts[1] or shares[0] > shares[1]


def test_a_wish_that_says_nothing_is_answered_by_what_most_users_choose(live, monkeypatch):
    monkeypatch.setattr("mmrec.recommender.proposals._MATCHED_ITEMS", 5)
    listed = live.recommend(likes=Wish(), n=25)["item"]
    visits = live.saved.reviews.table["item"].value_counts(sort=True)["count"]
    counts = live.saved.reviews.table["item"].value_counts().filter(pl.col("item").is_in(listed.to_list()))
    assert sorted(counts["count"], reverse=True) == visits[:5].to_list() != visits[-5:].to_list()


def test_a_saved_retrieval_proposes_what_it_did(live, fitted):
    users = [*live.state.online.ids["user"], "unknown"]
    assert live.recommend_all(10, users=users).equals(fitted.recommend_all(10, users=users))
    saved = fitted.saved
    assert np.array_equal(live.saved.user_topics, saved.user_topics)
    assert (live.saved.histories.visits != saved.histories.visits).nnz == 0
    assert live.saved.histories.visits.sum() == len(saved.reviews.table.unique(["user", "item"]))


@pytest.mark.parametrize("is_review", [True, False])
def test_a_failing_encoder_leaves_no_part_of_a_review_or_item(live, monkeypatch, is_review):
    """Whichever of its calls fails, nothing has changed, and the next attempt counts once."""
    items, maker, encode = live.state.online.ids["item"], live.state.list_maker, live.models.encoder.encode
    before, calls = len(items), Mock()
    live.models.annotator.write_notes([PRAISE])  # so that each attempt makes the same calls
    for allowed in range(20):
        calls.side_effect = [None] * allowed + [MemoryError]
        monkeypatch.setattr(live.models.encoder, "encode", lambda *options: calls() or encode(*options))
        try:
            if is_review:
                live.add_review("somebody new", "somewhere new", 5, PRAISE, "a")
            else:
                live.add_item("somewhere new", description=PRAISE)
        except MemoryError:
            assert len(items) == maker.retrieval.proposers.items == before
        else:
            break
    monkeypatch.undo()
    assert allowed > 2
    assert len(items) == maker.retrieval.proposers.items == before + 1
    assert maker.retrieval.proposers.visit_count[-1] == is_review
    assert live.recommend(likes="wonderful ramen", n=5, seen=True).height == 5
