"""Similarity of items by their texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmrec.features.tables import EntityFeatures
from mmrec.retrieval.text_neighbors import ItemLabels, TextSpace, diversify, query_similarity

ITEMS, SIZE = 50, 8


@pytest.fixture
def items() -> EntityFeatures:
    """Random gists of 50 items, then the unknown item."""
    gist = np.random.default_rng(1).normal(size=(ITEMS + 1, SIZE))
    gist[-1] = 0
    present = (gist != 0).any(1).astype(np.float32)
    none = np.zeros((ITEMS + 1, 0), dtype=np.int64)
    return EntityFeatures(
        (), none.astype(np.float32), {"gist": gist.astype(np.float16)}, {"gist": present}, none
    )


def test_similarity_is_the_cosine_of_deviations_from_the_mean(items: EntityFeatures) -> None:
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
    queries = np.random.default_rng(3).normal(size=(2, SIZE))
    expected = unit @ (queries - vectors.mean(0)).T
    assert space.similarities(queries) == pytest.approx(expected, abs=2e-2)


def test_changed_rows_are_used_and_rows_without_text_have_no_neighbors(items: EntityFeatures) -> None:
    space = TextSpace(items, ITEMS)
    items.vectors["gist"][3] = items.vectors["gist"][7]
    space.update(items, 3)
    assert space.neighbors(7, 1)[0][0] == 3
    items.vectors["gist"][5] = 0
    space.update(items, 5)
    assert space.neighbors(5, 3) == []
    assert space.cosines(np.ones(SIZE))[5] == 0


def test_several_rows_can_be_added_at_once(items: EntityFeatures) -> None:
    space = TextSpace(items, ITEMS - 10)
    space.update(items, ITEMS - 1)
    assert len(space.cosines(np.ones(SIZE))) == ITEMS
    assert (space.cosines(np.ones(SIZE)) != 0).all()


class _FixedEncoder:
    """Encodes three words as unit vectors."""

    def encode(self, texts: list[str]) -> np.ndarray:
        words = ["ramen", "pizza", "cheap price"]
        return np.stack([np.eye(3)[words.index(text)] for text in texts])


def test_an_item_is_as_similar_as_its_nearest_label() -> None:
    labels = ItemLabels(["ramen", "pizza", "cheap price"], np.array([[0, 3, 2], [1, 3, 3], [3, 3, 3]]))
    encoder: Any = _FixedEncoder()
    similarities = labels.similarities(np.array([[1.0, 0.2, 0.0]]), encoder)
    assert similarities[:, 0] == pytest.approx([1.0, 0.2, 0.0])


def test_texts_and_labels_count_equally_in_a_query() -> None:
    gist = np.concatenate([np.eye(3), np.zeros((2, 3))])
    none = np.zeros((5, 0), dtype=np.int64)
    items = EntityFeatures(
        (), none.astype(np.float32), {"gist": gist.astype(np.float16)}, {"gist": gist.any(1)}, none
    )
    labels = ItemLabels(["ramen", "pizza"], np.array([[2], [0], [1], [0]]))
    encoder: Any = _FixedEncoder()
    similarity = query_similarity(["ramen"], TextSpace(items, 4), labels, encoder)
    # Item 0 has the text, item 1 the label, item 2 neither, item 3 the label but no text.
    text = TextSpace(items, 4).similarities(np.eye(3)[:1])[:, 0]
    label = np.array([0, 1, 0, 1])
    expected = (text - text.mean()) / text.std() + (label - label.mean()) / label.std()
    assert similarity == pytest.approx(expected, abs=1e-3)


def test_a_list_is_ordered_by_probability_unless_diversity_is_asked_for(items: EntityFeatures) -> None:
    space, probability = TextSpace(items, ITEMS), np.linspace(0.9, 0.5, 20)
    codes = np.arange(20)
    assert diversify(probability, space, codes, 5, 0.0).tolist() == [0, 1, 2, 3, 4]
    diverse = diversify(probability, space, codes, 5, 1.0).tolist()
    assert diverse[0] == 0
    # By difference alone, the second item is the least similar to the first.
    cosines = space.directions(codes) @ space.directions(codes)[0]
    assert np.maximum(cosines, 0)[diverse[1]] == np.maximum(cosines[1:], 0).min()
    assert diversify(probability[:0], space, codes[:0], 5, 0.5).tolist() == []
