"""Similarity of items by their texts."""

import numpy as np
import pytest

from mmrec.features.tables import EntityFeatures
from mmrec.retrieval.text_neighbors import TextSpace, diversify

ITEMS, SIZE = 50, 8


def entities(gist: np.ndarray):
    none = np.zeros((len(gist), 0), dtype=np.int64)
    vectors, present = {"gist": gist.astype(np.float16)}, {"gist": gist.any(1)}
    return EntityFeatures((), none.astype(np.float32), vectors, present, none)


@pytest.fixture
def items():
    """Random gists of 50 items, then the unknown item."""
    gist = np.random.default_rng(1).normal(size=(ITEMS + 1, SIZE))
    gist[-1] = 0
    return entities(gist)


def test_similarity_is_the_cosine_of_deviations_from_the_mean(items):
    vectors = items.vectors["gist"][:ITEMS].astype(np.float64)
    deviations = vectors - vectors.mean(0)
    unit = deviations / np.linalg.norm(deviations, axis=1, keepdims=True)
    space = TextSpace(items, ITEMS)
    assert space.directions(np.arange(ITEMS)) == pytest.approx(unit, abs=1e-5)
    expected = unit @ unit[7]
    neighbors = space.neighbors(7, 5)
    expected[7] = -1
    assert [item for item, _ in neighbors] == np.argsort(-expected)[:5].tolist()
    assert [cosine for _, cosine in neighbors] == pytest.approx(np.sort(expected)[::-1][:5], abs=5e-3)
    query = np.random.default_rng(3).normal(size=SIZE)
    expected = unit @ (query - vectors.mean(0))
    assert space.similarity(query - space.mean) == pytest.approx(expected, abs=2e-2)


def test_changed_rows_are_used_and_rows_without_text_have_no_neighbors(items):
    space = TextSpace(items, ITEMS - 10)
    items.vectors["gist"][3] = items.vectors["gist"][7]
    space.update(items, np.array([3]))
    assert space.neighbors(7, 1)[0][0] == 3
    items.vectors["gist"][5] = 0
    space.update(items, np.array([5]))
    assert space.neighbors(5, 3) == []
    assert space.similarity(np.ones(SIZE))[5] == 0
    # Several rows behind the last are added at once.
    space.update(items, np.array([ITEMS - 1]))
    assert np.flatnonzero(space.similarity(np.ones(SIZE)) == 0).tolist() == [5]
    assert len(space.similarity(np.ones(SIZE))) == ITEMS


def test_a_diverse_list_prefers_items_unlike_those_before(items):
    directions, probability = TextSpace(items, ITEMS).directions(np.arange(20)), np.linspace(0.9, 0.5, 20)
    assert diversify(probability, directions, 5, 0.0).tolist() == [0, 1, 2, 3, 4]
    diverse = diversify(probability, directions, 5, 1.0).tolist()
    assert len({*diverse}) == 5
    # By difference alone, the second item is the least similar to the first.
    cosines = directions @ directions[0]
    assert diverse[0] == 0
    assert np.maximum(cosines, 0)[diverse[1]] == np.maximum(cosines[1:], 0).min()
    assert diversify(probability[:0], directions[:0], 5, 0.5).tolist() == []
