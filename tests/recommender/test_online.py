"""A live review changes what a fit with it would change."""

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mmrec.evidence.policies import EvidenceViews
from mmrec.features.dataset import Dataset
from mmrec.recommender.online import OnlineState

TEXT = "The ramen was wonderful and cheap. The waiter was slow."


@pytest.fixture
def online(fitted):
    """A new state, whose features may be changed."""
    saved = replace(fitted.saved, features=copy.deepcopy(fitted.saved.features))
    return OnlineState(saved, fitted.state.dataset.data, fitted.models)


@pytest.mark.parametrize("is_new", [False, True])
def test_a_live_review_changes_features_as_a_fit_does(fitted, online, is_new):
    names = {"user": "somebody new", "item": "somewhere new"}
    if not is_new:
        names = {"user": online.ids["user"][3], "item": online.ids["item"][4]}
    (note,) = fitted.models.annotator.write_notes([TEXT])
    codes = online.add_review(names["user"], names["item"], 2.0, TEXT, note)
    # The same reviews and one more, from the start.
    row = names | {"rating": 2.0, "text": TEXT, "photos": [], "review_id": "live", "time": None}
    table = fitted.saved.reviews.table
    table = pl.concat([table, pl.DataFrame([row | {"captions": []}], schema=table.schema)])
    dataset = Dataset.from_reviews(replace(fitted.saved.reviews, table=table), fitted.models, fitted.config)
    builder, data = fitted.saved.model.builder.refit(dataset), dataset.data
    kinds = ("user", data.user, data.users), ("item", data.item, data.items)
    for live, code, (kind, entity, ids) in zip(
        (online.features.user, online.features.item), codes, kinds, strict=True
    ):
        fresh = builder.build(kind, EvidenceViews.all_reviews(entity), dataset)
        view = ids.index(names[kind])
        assert online.ids[kind][code] == names[kind]
        assert live.names == fresh.names
        assert live.vectors
        for name, block in live.vectors.items():
            difference = block[code].astype(float) - fresh.vectors[name][view].astype(float)
            assert np.abs(difference).max() < 2e-3
            assert live.present[name][code] == pytest.approx(fresh.present[name][view], abs=1e-5)
        assert live.categories[code].tolist() == fresh.categories[view].tolist()
        for column, name in enumerate(live.names):
            if name in ("rating effect", "text rating effect"):
                assert live.dense[code, column] == pytest.approx(fresh.dense[view, column], abs=0.1)
            elif name != "spread":  # of residuals, which a fit changes for all reviews
                assert live.dense[code, column] == pytest.approx(fresh.dense[view, column], abs=2e-2)


def test_a_review_that_cannot_be_encoded_changes_nothing(fitted, online, monkeypatch):
    codes, sizes = copy.deepcopy(online.codes), [len(ids) for ids in online.ids.values()]

    def fail(*_):
        raise MemoryError

    (note,) = fitted.models.annotator.write_notes([TEXT])
    monkeypatch.setattr(type(fitted.models.encoder), "encode", fail)
    with pytest.raises(MemoryError):
        online.add_review("somebody new", "somewhere new", 5.0, TEXT, note)
    assert online.codes == codes
    assert [len(ids) for ids in online.ids.values()] == sizes


def test_a_user_who_likes_items_gets_the_effects_of_five_stars(fitted, online):
    """As live reviews with five stars give them, one after the other, but for the items' changes."""
    items = [2, 5, 7]
    liked = online.user_who_likes(items)
    regression, penalty = fitted.saved.text_regression, fitted.saved.model.builder.penalties[0]
    effect = online.features.item.dense[items, online.features.item.names.index("rating effect")]
    above = 5.0 - regression.mean_rating - effect.astype(float)
    columns = dict(zip(liked.names, liked.dense[0].tolist(), strict=True))
    assert columns["rating effect"] == pytest.approx(above.sum() / (3 + penalty), abs=1e-5)
    unknown = dict(zip(liked.names, liked.dense[-1].tolist(), strict=True))
    spread = unknown["spread"] * 5 + ((above - columns["rating effect"]) ** 2).sum()
    assert columns["spread"] == pytest.approx(spread / 8, abs=1e-5)
    assert columns["text rating effect"] == unknown["text rating effect"]
    assert columns["log length"] == unknown["log length"]
    likes = online.features.item.vectors["likes"][items].astype(np.float32).mean(0)
    assert liked.vectors["likes"][0] == pytest.approx(likes, abs=1e-3)
    assert not liked.vectors["dislikes"][0].any()
