"""The best of all items, exactly and in two stages; and what is near in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmrec.config import CatalogueConfig
from mmrec.features.tables import EntityFeatures, Features
from mmrec.pipeline import TrainedModel
from mmrec.ranker.dlrm import Ranker, RankerShape, TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.list_scoring import ListScorer
from mmrec.retrieval.candidates import Index
from mmrec.retrieval.text_neighbors import ItemLabels, TextSpace, diversify

ITEMS, SIZE = 3000, 8
pytestmark = pytest.mark.usefixtures("one_thread")
nothing: Any = None


def side(views: int, rng: np.random.Generator) -> EntityFeatures:
    def last(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros_like(x[:1])])

    return EntityFeatures(
        ("mean rating",),
        last(rng.normal(size=(views, 1))).astype(np.float32),
        {"gist": last(rng.normal(size=(views, SIZE))).astype(np.float16)},
        {"gist": last(np.ones(views)).astype(np.float32)},
        np.zeros((views + 1, 0), dtype=np.int64),
        last(rng.normal(size=(views, 4))).astype(np.float16),
    )


def features_of(items: int = ITEMS) -> Features:
    rng = np.random.default_rng(1)
    return Features(
        side(20, rng), side(items, rng), rng.integers(20, size=200), rng.integers(items, size=200)
    )


def model_of(features: Features, correction: float) -> TrainedModel:
    """A model whose DLRM adds that much to its linear part."""
    inputs = RankerInputs(features)
    shape = RankerShape(
        dense=inputs.dense_size,
        groups={"text": inputs.block_sizes},
        categories=0,
        embedding_size=4,
        hidden_size=8,
        runs=2,
        linear=True,
    )
    ranker = Ranker(shape, [TrainingRun(seed, 0.0, (0.5, 0.5)) for seed in range(2)])
    ranker.standardise(inputs, np.arange(200))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        ranker.linear.weight.copy_(0.1 * torch.randn(1, ranker.linear_size, 1, generator=generator))  # type: ignore[union-attr]
        for weight in ranker.top[-1].parameters():  # type: ignore[union-attr]
            weight.normal_(std=max(correction, 1e-9), generator=generator)
            if not correction:
                weight.zero_()
    return TrainedModel(nothing, ranker.eval(), (0.5, 0.5), {})


def truth(scorer: ListScorer, user: int, items: int = ITEMS) -> np.ndarray:
    codes = np.arange(items)
    return scorer.score_pairs((np.full_like(codes, user), codes))


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_few_items_are_scored_exactly(memory: float) -> None:
    features = features_of()
    scorer = ListScorer(model_of(features, 1.0), features, CatalogueConfig(exact_items=ITEMS, memory=memory))
    assert scorer.how == "exact"
    for user in (0, 7, features.user.unknown_index):
        chance = truth(scorer, user)
        codes, probability = scorer.top_items(user, 10, excluded=[3, 4])
        chance[[3, 4]] = -1
        assert sorted(probability, reverse=True) == pytest.approx(probability)
        assert probability == pytest.approx(np.sort(chance)[::-1][:10], abs=1e-6)
        assert chance[codes] == pytest.approx(probability, abs=1e-6)
    assert len(scorer.top_items(0, 0)[0]) == 0
    among = np.array([5, 9, 11])
    codes, _ = scorer.top_items(0, 10, candidates=among, excluded=[9])
    assert sorted(codes) == [5, 11]
    assert [len(one) for one in scorer.top_items(0, 10, candidates=among[:0])] == [0, 0]


@pytest.mark.parametrize("correction", [0.0, 0.1])
def test_of_many_items_the_best_by_the_linear_part_are_ranked(correction: float) -> None:
    features = features_of()
    config = CatalogueConfig(exact_items=100, candidates=300, index_items=10**9)
    scorer = ListScorer(model_of(features, correction), features, config)
    assert scorer.how == "scan"
    shared = []
    for user in range(10):
        best = scorer.top_items(user, 10, excluded=[1])
        exact = scorer.top_items(user, 10, excluded=[1], exact=True)
        shared.append(len(np.intersect1d(best[0], exact[0])) / 10)
        chance = truth(scorer, user)
        assert best[1] == pytest.approx(chance[best[0]], abs=1e-6)
    assert np.mean(shared) == 1.0 if not correction else np.mean(shared) > 0.9
    among = np.arange(0, ITEMS, 2)
    codes, _ = scorer.top_items(3, 10, candidates=among)
    chance = truth(scorer, 3)[among]
    assert chance.max() == pytest.approx(truth(scorer, 3)[codes[0]], abs=1e-6)
    assert (codes % 2 == 0).all()


def test_an_index_finds_them_too_and_knows_what_has_changed_since() -> None:
    pytest.importorskip("faiss", reason="mmrec[index] is not installed")
    features = features_of()
    config = CatalogueConfig(exact_items=100, candidates=300, index_items=200)
    scorer = ListScorer(model_of(features, 0.0), features, config)
    assert scorer.how == "index"
    shared = [
        len(np.intersect1d(scorer.top_items(user, 10)[0], scorer.top_items(user, 10, exact=True)[0]))
        for user in range(20)
    ]
    assert np.mean(shared) > 9.5
    worst = int(truth(scorer, 5).argmin())
    best = int(truth(scorer, 5).argmax())
    for block in (features.item.dense, features.item.vectors["gist"], features.item.factors):
        block[worst] = block[best]
    scorer.update_item(features, worst)
    assert {best, worst} <= set(scorer.top_items(5, 2)[0].tolist())


def test_an_index_finds_large_products() -> None:
    pytest.importorskip("faiss", reason="mmrec[index] is not installed")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5000, 6)).astype(np.float32) * rng.exponential(size=(5000, 1)).astype(
        np.float32
    )
    index = Index(vectors)
    for query in rng.normal(size=(10, 6)).astype(np.float32):
        expected = np.argsort(-(vectors @ query))[:20]
        assert len(np.intersect1d(index.best(query, 200), expected)) >= 19


def test_nearness_in_words_is_the_cosine_less_what_is_said_of_all() -> None:
    features = features_of(50)
    x = features.item.vectors["gist"][:50].astype(np.float64)
    centred = x - x.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    space = TextSpace(features.item, 50)
    assert space.directions(np.arange(50)) == pytest.approx(unit, abs=1e-5)
    expected = unit @ unit[7]
    found = space.neighbors(7, 5)
    expected[7] = -1
    assert [at for at, _ in found] == np.argsort(-expected)[:5].tolist()
    assert [near for _, near in found] == pytest.approx(np.sort(expected)[::-1][:5], abs=5e-3)
    words = np.random.default_rng(3).normal(size=(2, SIZE))
    assert space.similarities(words) == pytest.approx(unit @ (words - x.mean(0)).T, abs=2e-2)
    features.item.vectors["gist"][3] = features.item.vectors["gist"][7]
    space.update(features.item, 3)
    assert space.neighbors(7, 1)[0][0] == 3
    features.item.vectors["gist"][5] = 0
    space.update(features.item, 5)
    assert space.neighbors(5, 3) == []
    assert space.cosines(unit[7])[5] == 0


def test_rows_may_come_several_at_once() -> None:
    features = features_of(50)
    space, whole = TextSpace(features.item, 40), TextSpace(features.item, 50)
    space.update(features.item, 49)
    assert len(space.cosines(np.ones(SIZE))) == len(whole.cosines(np.ones(SIZE))) == 50


def test_the_nearest_label_counts() -> None:
    names = ["ramen", "pizza", "cheap price"]
    vectors = {name: np.eye(3)[at] for at, name in enumerate(names)}

    class Words:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.stack([vectors[text] for text in texts])

    labels = ItemLabels(names, np.array([[0, 3, 2], [1, 3, 3], [3, 3, 3]]))
    encoder: Any = Words()
    near = labels.similarities(np.array([[1.0, 0.2, 0.0]]), encoder)
    assert near[:, 0] == pytest.approx([1.0, 0.2, 0.0])


def test_a_list_without_diversity_is_by_probability() -> None:
    features = features_of(50)
    space = TextSpace(features.item, 50)
    chance = np.linspace(0.9, 0.5, 20)
    assert diversify(chance, space, np.arange(20), 5, 0.0).tolist() == [0, 1, 2, 3, 4]
    assert diversify(chance, space, np.arange(20), 5, 1.0)[0] == 0
    assert diversify(chance[:0], space, np.arange(0), 5, 0.5).tolist() == []
