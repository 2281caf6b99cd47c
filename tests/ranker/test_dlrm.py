"""Stacked layers against single ones, and the ranker against numbers that were calculated by hand."""

import pytest
import torch

from mmrec.ranker.dlrm import Ranker, RankerShape, StackedDropout, StackedLinear
from mmrec.ranker.inputs import Batch, TrainingRun

RUNS = [TrainingRun(seed, 0.5, (0.5, 0.5)) for seed in range(2)]


def dropped(dropout, x):
    """The input of the layer behind a dropout."""
    out, scale = dropout(x.clone())
    return out if scale is None else out * scale


def test_dropout_has_the_rate_and_the_scale_of_each_run():
    rates = [0.0, 0.1, 0.5, 0.999]
    dropout = StackedDropout(rates, range(4))
    out = dropped(dropout, torch.ones(4, 300, 200))
    for run, rate in zip(out, rates, strict=True):
        # A rate is a number of 256ths, and is below one.
        rounded = min(round(rate * 256), 255) / 256
        assert float((run == 0).float().mean()) == pytest.approx(rounded, abs=0.005)
        assert run.max().item() == pytest.approx(1 / (1 - rounded), rel=1e-6)
        assert torch.all((run == 0) | (run == run.max()))
    # Neighbouring cells are dropped independently.
    zero = (out[2] == 0).float()
    assert float((zero[:, 1:] * zero[:, :-1]).mean()) == pytest.approx(0.25, abs=0.01)
    x = torch.randn(4, 3, 5)
    assert torch.equal(dropped(dropout.eval(), x), x.relu())


def test_dropout_of_a_run_does_not_depend_on_the_other_runs():
    ones = torch.ones(3, 7, 5)
    stack, alone = StackedDropout([0.5, 0.3, 0.4], [4, 9, 2]), StackedDropout([0.3], [9])
    reordered = StackedDropout([0.4, 0.3], [2, 9])
    first = dropped(stack, ones)
    assert torch.equal(first[1:2], dropped(alone, ones[:1]))
    assert torch.equal(first[[2, 1]], dropped(reordered, ones[:2]))
    stack.keep_runs(torch.tensor([1, 2]))
    second = dropped(stack, ones[:2])
    assert torch.equal(second[:1], dropped(alone, ones[:1]))
    assert torch.equal(second[[1, 0]], dropped(reordered, ones[:2]))
    assert not torch.equal(second[0], first[1])
    seeds = [dropped(StackedDropout([0.5], [seed]), torch.ones(1, 50, 50)) for seed in (4, 5)]
    assert not torch.equal(*seeds)
    stack.restart(0)
    assert torch.equal(dropped(stack, ones), first)
    stack.restart(1)
    assert not torch.equal(dropped(stack, ones), first)


def test_dropped_cells_get_no_gradient_and_the_others_their_scale():
    x = torch.ones(2, 20, 30, requires_grad=True)
    out = dropped(StackedDropout([0.5, 0.25], [1, 2]), x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_a_layer_is_an_affine_map_of_visible_inputs_for_each_run(shared, outputs):
    layer = StackedLinear(3, 5, outputs)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    mask = torch.ones(3, 5)
    mask[0, 1] = mask[2, 3:] = 0
    layer.input_mask = mask[:, :, None]
    x = torch.randn(7, 5) if shared else torch.randn(3, 7, 5)
    scale = torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    out = layer(x, scale)
    for run in range(3):
        weight = layer.weight[run] * mask[run][:, None] * scale[run]
        expected = (x if shared else x[run]) @ weight + layer.bias[run]
        assert torch.allclose(out[run], expected, atol=1e-5)
    out.square().sum().backward()
    assert torch.equal(layer.weight.grad.abs().sum(2) > 0, mask > 0)


def fill(layer, weight, bias):
    """Set the weights of the second run, a row per output."""
    with torch.no_grad():
        layer.weight[1] = torch.tensor(weight).T
        if bias is not None:
            layer.bias[1] = torch.tensor(bias)


def test_a_forward_pass_by_hand():
    """The second of two runs has round numbers."""
    blocks = {"user a": 1, "item b": 1}
    sizes = {"embedding_size": 2, "hidden_size": 2}
    ranker = Ranker(RankerShape(dense=2, groups={"text": blocks}, categories=3, runs=2, **sizes), RUNS)
    reducer = ranker.reducers["text"]
    fill(ranker.bottom[0], [[1.0, 0.0], [0.0, 1.0]], [0, -1])
    fill(ranker.bottom[1], [[1, 1], [0, 2]], [0, 1])
    # A missing text of the item counts as 8.
    fill(reducer.layers[0], [[1, 0, 0, 0], [0, 1, 0, 8]], [0, 0])
    fill(reducer.layers[1], [[0.5, 0], [0, 0.25]], [0, 0])
    fill(ranker.top[0], [[1, 1, 1, 0, 0], [0, 0, 0, -1, 4]], [-10, 3])
    fill(ranker.top[1], [[0.5, 3]], [-1])
    fill(ranker.categories, [[1, 0, 2], [0, 1, 2]], None)
    values = {
        "dense_mean": [1.0, 2.0],
        "dense_scale": [0.5, 1.0],
        "dense_low": [0.0, 2.0],
        "mean of user a": [1.0],
    }
    values |= {
        "dense_high": [5.0, 5.0],
        "scale of user a": 2.0,
        "mean of item b": [0.0],
        "scale of item b": 1.0,
    }
    ranker.standardiser.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    batch = Batch(
        dense=torch.tensor([[7.0, 5.0], [1.0, -1.0]]),  # as if 5, 5 and 1, 2: not beyond the limits
        vectors={"user a": torch.tensor([[2.0], [4.0]]), "item b": torch.tensor([[4.0], [-99.0]])},
        present={"user a": torch.ones(2, 1), "item b": torch.tensor([[1.0], [0.0]])},
        categories=torch.tensor([[0, 2, 3], [3, 3, 3]]),
    )
    # Row 1: bottom (5 - 1) / 2 = 2, 5 - 2 = 3 -> hidden 2, 2 -> 4, 5. Texts (2 - 1) / .5 = 2 and 4 -> 1, 1.
    # Categories (1, 0) + (2, 2) = 3, 2. Dots 9, 22, 5. Top 4 + 5 + 9 - 10 = 8, -22 + 20 + 3 = 1 -> 4 + 3 - 1.
    # Row 2: bottom 0, 0 -> 0, 0 -> 0, 1. Texts (4 - 1) / .5 = 6 and the learned 8 -> 3, 2. No category.
    # Dots 2, 0, 0. Top 0 + 1 + 2 - 10 -> 0, 3 -> 9 - 1.
    columns = ranker.eval().columns(batch)
    assert columns["categories"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert ranker.reduce(columns, ranker.dropout)[0][1].tolist() == [[1, 1], [3, 2]]
    assert ranker(batch)[1].tolist() == [6, 8]


def test_a_ranker_without_texts_and_categories_ranks_by_dense_columns_alone():
    shape = RankerShape(dense=2, groups={}, categories=0, embedding_size=4, hidden_size=3, runs=2)
    ranker = Ranker(shape, RUNS).eval()
    dense = torch.ones(3, 2)
    logits = ranker(Batch(dense, {}, {}, torch.zeros(3, 0, dtype=torch.int64)))
    assert torch.equal(logits, ranker.top(ranker.bottom(dense, None), None)[:, :, 0])
