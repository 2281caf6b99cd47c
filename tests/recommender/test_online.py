"""A live review changes what a fit with it would change."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mmrec.data import Reviews
from mmrec.evidence.views import EvidenceViews
from mmrec.features.dataset import Dataset
from mmrec.features.tables import EntityFeatures
from mmrec.recommender.online import OnlineState
from mmrec.recommender.recommender import Recommender

TEXT = "The ramen was wonderful and cheap. The waiter was slow."


def online_state(fitted: Recommender) -> OnlineState:
    """A new state, whose features may be changed."""
    saved = fitted.saved
    features = copy.deepcopy(saved.features)
    return OnlineState(replace(saved, features=features), fitted.state.dataset.data, fitted.models)


def with_one_more(reviews: Reviews, user: str, item: str, stars: float) -> Reviews:
    row = {"user": user, "item": item, "rating": stars, "text": TEXT, "photos": []}
    row |= {"review_id": "live", "time": None, "captions": []}
    more = pl.DataFrame([row], schema=reviews.table.schema)
    return replace(reviews, table=pl.concat([reviews.table, more]))


def both_ways(
    fitted: Recommender, user: str, item: str, stars: float
) -> list[tuple[EntityFeatures, int, EntityFeatures, int]]:
    """Features of a user and an item after one more review, live and from all reviews anew."""
    note = fitted.models.annotator.write_notes([TEXT])[0]
    assembler = fitted.saved.model.builder
    live = online_state(fitted)
    codes = live.add_review(user, item, stars, TEXT, note)
    corpus = Dataset.from_reviews(
        with_one_more(fitted.reviews, user, item, stars), fitted.models, fitted.config
    )
    after = assembler.refit(corpus)
    anew = []
    for of, names, name in (("user", corpus.data.users, user), ("item", corpus.data.items, item)):
        entity = corpus.data.user if of == "user" else corpus.data.item
        anew.append((after.build(of, EvidenceViews.all_reviews(entity), corpus), names.index(name)))
    sides = (live.features.user, live.features.item)
    return [(made, code, *own) for made, code, own in zip(sides, codes, anew, strict=True)]


@pytest.mark.parametrize("newcomer", [False, True])
def test_a_live_review_is_heard_as_a_fit_would_hear_it(fitted: Recommender, newcomer: bool) -> None:
    data = fitted.state.dataset.data
    user, item = ("somebody new", "somewhere new") if newcomer else (data.users[3], data.items[4])
    for made, code, fresh, at in both_ways(fitted, user, item, 2.0):
        assert made.names == fresh.names
        for name, block in made.vectors.items():
            assert np.abs(block[code].astype(float) - fresh.vectors[name][at].astype(float)).max() < 2e-3
            assert made.present[name][code] == pytest.approx(fresh.present[name][at], abs=1e-5)
        assert made.categories[code].tolist() == fresh.categories[at].tolist()
        exact = [at for at, name in enumerate(made.names) if "effect" not in name and name != "spread"]
        assert made.dense[code, exact] == pytest.approx(fresh.dense[at, exact], abs=2e-2)
        for name in ("rating effect", "text rating effect"):
            column = made.names.index(name)
            assert made.dense[code, column] == pytest.approx(fresh.dense[at, column], abs=0.1)


def test_a_review_that_cannot_be_put_into_vectors_changes_nothing(
    fitted: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = online_state(fitted)
    codes = {of: dict(own) for of, own in live.codes.items()}

    def broken(*_: object) -> None:
        raise MemoryError

    note = fitted.models.annotator.write_notes([TEXT])[0]
    monkeypatch.setattr(type(fitted.models.encoder), "encode", broken)
    with pytest.raises(MemoryError):
        live.add_review("somebody new", "somewhere new", 5.0, TEXT, note)
    assert live.codes == codes
