"""Means of photo vectors: over the visible reviews of an item and its own photos alone."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from mmrec.data.schema import NO_TIME, Split
from mmrec.evidence.policies import Evidence
from mmrec.features.dataset import PhotoVectors
from review_tables import interactions, tables


def item_views(data, policy, rng):
    part = rng.integers(3, size=len(data))
    split = Split(*(np.flatnonzero(part == number) for number in range(3)))
    return Evidence.derive(data, split, policy, 3, rng).item


@given(tables(), st.sampled_from(["fold", "leave_one_out", "all", "past"]), st.integers(0, 2**32 - 1))
def test_means_are_of_the_photos_of_the_evidence_and_the_items_own(data, policy, seed):
    rng = np.random.default_rng(seed)
    names = [f"p{number}" for number in range(8)]
    vectors = {name: rng.normal(size=150).astype(np.float16) for name in names[:6]}

    def photo_names(count):
        return [list(rng.choice(names, rng.integers(0, 4))) for _ in range(count)]

    assume(policy != "past" or (data.time != NO_TIME).any())
    reviews, items = photo_names(len(data)), photo_names(len(data.items))
    views = item_views(data, policy, rng)
    means, counts = PhotoVectors.build(reviews, items, vectors, 150).view_means(views)
    for view, rows in enumerate(views.review_sets()):
        shown = [name for row in rows for name in reviews[row]] + items[views.entity[view]]
        expected = [vectors[name].astype(np.float64) for name in shown if name in vectors]
        assert counts[view] == len(expected)
        mean = sum(expected, np.zeros(150)) / max(len(expected), 1)
        assert np.abs(means[view] - mean).max() < 2e-3


def test_means_without_any_vector_are_zero():
    views = item_views(interactions([0, 1], [0, 0]), "all", np.random.default_rng(0))
    means, counts = PhotoVectors.build([["a"], []], [[]], {}, 5).view_means(views)
    assert means.shape == (len(views), 5)
    assert not counts.any()
    assert not means.any()
