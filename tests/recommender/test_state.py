"""Every list still works after a new item, on a model whose DLRM correction is not zero."""

import shutil

import numpy as np
import polars as pl
import pytest
import torch

from mmrec.recommender.recommender import Recommender

DESCRIPTION = "Sichuan hotpot with numbing pepper broth. Cheap lunch menu."


@pytest.fixture
def corrected(model, tmp_path):
    """A saved model with random weights in the last layer of its DLRM, as if validation had proven it."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    recommender = Recommender.load(folder)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in recommender.saved.model.ranker.top[-1].parameters():
            parameter.normal_(std=0.3, generator=generator)
    recommender.save(folder)
    return folder


def check_lists_of_everyone(recommender):
    """Everyone gets a list of all items, and its probabilities are those of single pairs."""
    users, items = recommender.state.online.ids["user"], recommender.state.online.ids["item"]
    lists = recommender.recommend_all(len(items), seen=True)
    assert set(lists["user"]) == {*users}
    assert lists.height == len(items) * len(users)
    some = lists.filter(pl.col("user").is_in(["ann", *users[:3]]))
    pairs = recommender.predict(some["user"].to_list(), some["item"].to_list())
    assert some["probability"].to_numpy() == pytest.approx(pairs, abs=1e-5)


def test_everyone_gets_a_list_after_a_new_item(corrected, model):
    recommender = Recommender.load(corrected)
    users, items = ["ann"] * 5, recommender.state.online.ids["item"][:5]
    uncorrected = Recommender.load(model).predict(users, items)
    assert np.abs(uncorrected - recommender.predict(users, items)).max() > 1e-3
    before = recommender.predict(["ann"], ["hotpot"])
    check_lists_of_everyone(recommender)
    recommender.add_item("hotpot", name="The Hot Pot", description=DESCRIPTION)
    recommender.add_review("ann", "hotpot", 5.0, "Wonderful broth!", "review-1")
    recommender.add_review("ann", "another new place", 2.0, "Dull and dear.", "review-2")
    check_lists_of_everyone(recommender)
    assert abs(recommender.predict(["ann"], ["hotpot"]) - before)[0] > 1e-3
    assert "hotpot" in recommender.recommend("u0001", 1000, seen=True)["item"]


def test_everyone_gets_a_list_after_a_restart_of_the_service(corrected, tmp_path):
    pytest.importorskip("sqlalchemy", reason="mmrec[serve] is not installed")
    from mmrec.service.live_store import LiveStore
    from mmrec.service.recommendations import RecommendationService

    url = f"sqlite:///{tmp_path / 'live.sqlite'}"
    running = RecommendationService(Recommender.load(corrected), LiveStore(url))
    running.add_item("hotpot", "The Hot Pot", DESCRIPTION, None)
    running.add_review("ann", "hotpot", 5.0, "Wonderful broth!")
    restarted = RecommendationService(Recommender.load(corrected), LiveStore(url))
    with running.recommender() as before, restarted.recommender() as after:
        check_lists_of_everyone(before)
        check_lists_of_everyone(after)
        users, items = after.state.online.ids["user"][:4], ["hotpot"] * 4
        assert after.predict(users, items) == pytest.approx(before.predict(users, items))
