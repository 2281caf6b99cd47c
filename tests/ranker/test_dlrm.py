"""The ranker against numbers worked out by hand."""

from __future__ import annotations

import torch

from mmrec.ranker.dlrm import Ranker, RankerShape, TrainingRun, interact
from mmrec.ranker.inputs import Batch, InputMoments
from mmrec.ranker.layers import StackedLinear

EQUAL = (0.5, 0.5)


def fill(layer: torch.nn.Module, weight: list[list[float]], bias: list[float] | None) -> None:
    """Give the second run its weights, a row an output."""
    assert isinstance(layer, StackedLinear)
    with torch.no_grad():
        layer.weight[1] = torch.tensor(weight).T
        if bias is not None:
            assert layer.bias is not None
            layer.bias[1] = torch.tensor(bias)


def hand_made() -> Ranker:
    """A ranker of two runs; the second is of round numbers."""
    ranker = Ranker(
        RankerShape(
            dense=2,
            groups={"text": {"user a": 1, "item b": 1}},
            categories=3,
            embedding_size=2,
            hidden_size=2,
            runs=2,
        ),
        [TrainingRun(seed, 0.5, EQUAL) for seed in range(2)],
    )
    reducer = ranker.reducers["text"]
    identity = [[1.0, 0.0], [0.0, 1.0]]
    fill(ranker.bottom[0], identity, [0, -1])
    fill(ranker.bottom[3], [[1, 1], [0, 2]], [0, 1])
    # Without an item's words, 8 stands for them.
    fill(reducer.layers[0], [[1, 0, 0, 0], [0, 1, 0, 8]], [0, 0])
    fill(reducer.layers[3], [[0.5, 0], [0, 0.25]], [0, 0])
    fill(reducer.head[1], [[1, -3]], [0.5])
    fill(ranker.top[0], [[1, 1, 1, 0, 0], [0, 0, 0, -1, 4]], [-10, 3])
    fill(ranker.top[3], [[0.5, 3]], [-1])
    fill(ranker.categories, [[1, 0, 2], [0, 1, 2]], None)
    ranker.dense_mean.copy_(torch.tensor([1.0, 2.0]))
    ranker.dense_scale.copy_(torch.tensor([0.5, 1.0]))
    mean = {"user a": torch.tensor([1.0]), "item b": torch.tensor([0.0])}
    deviation = {"user a": torch.tensor([0.5]), "item b": torch.tensor([1.0])}
    ranker.blocks["text"].standardise(InputMoments(mean["item b"], mean["item b"], mean, deviation))
    return ranker.eval()


def reduced(ranker: Ranker, batch: Batch) -> torch.Tensor:
    """The second run's reduced words."""
    return ranker.reduce(ranker.block_columns(batch))[0][1]


def hand_batch() -> Batch:
    return Batch(
        dense=torch.tensor([[5.0, 5.0], [1.0, 2.0]]),
        vectors={"user a": torch.tensor([[2.0], [4.0]]), "item b": torch.tensor([[4.0], [-99.0]])},
        present={"user a": torch.ones(2, 1), "item b": torch.tensor([[1.0], [0.0]])},
        categories=torch.tensor([[0, 2, 3], [3, 3, 3]]),
    )


def test_interactions_are_dot_products_of_all_pairs_in_row_order() -> None:
    a, b, c = (torch.tensor([one, one[::-1]]) for one in ([1.0, 2.0], [3.0, 5.0], [-1.0, 4.0]))
    assert interact([a, b, c]).tolist() == [[13, 7, 17], [13, 7, 17]]
    assert interact([a, b]).tolist() == [[13], [13]]
    d = torch.tensor([[10.0, 0.0], [0.0, 10.0]])
    # ab, ac, ad, bc, bd, cd
    assert interact([a, b, c, d])[0].tolist() == [13, 7, 10, 17, 30, -10]


def test_a_forward_pass_by_hand() -> None:
    ranker, batch = hand_made(), hand_batch()
    # Row 1: bottom (5 - 1) / 2 = 2, 5 - 2 = 3 -> hidden 2, 2 -> 4, 5. Words (2 - 1) / .5 = 2 and 4 -> 1, 1.
    # Categories (1, 0) + (2, 2) = 3, 2. Dots 9, 22, 5. Top 4 + 5 + 9 - 10 = 8, -22 + 20 + 3 = 1 -> 4 + 3 - 1.
    # Row 2: bottom 0, 0 -> 0, 0 -> 0, 1. Words (4 - 1) / .5 = 6 and the learned 8 -> 3, 2. No category.
    # Dots 2, 0, 0. Top 0 + 1 + 2 - 10 -> 0, 3 -> 9 - 1.
    assert reduced(ranker, batch).tolist() == [[1, 1], [3, 2]]
    assert ranker(batch)[1].tolist() == [6, 8]
    outcome = ranker.reducers["text"].predict_outcome(ranker.block_columns(batch)["text"])
    assert outcome[1].tolist() == [1 - 3 + 0.5, 3 - 6 + 0.5]


def test_a_missing_block_is_the_learned_vector_whatever_is_stored() -> None:
    ranker, batch = hand_made(), hand_batch()
    before = reduced(ranker, batch)[1]
    batch.vectors["item b"][1] = 1234.0
    assert torch.equal(reduced(ranker, batch)[1], before)
    fill(ranker.reducers["text"].layers[0], [[1, 0, 0, 0], [0, 1, 0, 12]], [0, 0])
    assert reduced(ranker, batch).tolist() == [[1, 1], [3, 3]]


def test_a_ranker_without_words_and_categories_ranks_by_dense_alone() -> None:
    shape = RankerShape(dense=2, groups={}, categories=0, embedding_size=4, hidden_size=3, runs=2)
    ranker = Ranker(shape, [TrainingRun(seed, 0.5, EQUAL) for seed in range(2)]).eval()
    batch = Batch(torch.ones(3, 2), {}, {}, torch.zeros(3, 0, dtype=torch.int64))
    assert torch.equal(ranker(batch), ranker.top(ranker.bottom(batch.dense))[:, :, 0])
