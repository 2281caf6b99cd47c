"""Stacked layers: every run computes what it would compute alone."""

from __future__ import annotations

import pytest
import torch

from mmrec.ranker.layers import StackedDropout, StackedLinear

EQUAL = (0.5, 0.5)


def dropped(dropout: StackedDropout, x: torch.Tensor) -> torch.Tensor:
    """What the layer behind a dropout makes of it."""
    out, scale = dropout(x.clone())
    return out if scale is None else out * scale


def test_dropout_has_each_run_s_rate_and_scale() -> None:
    rates = [0.0, 0.1, 0.5, 0.999]
    dropout = StackedDropout(rates, range(4))
    out = dropped(dropout, torch.ones(4, 300, 200))
    for own, rate in zip(out, rates, strict=True):
        # A rate is a number of 256ths, and is below one.
        near = min(round(rate * 256), 255) / 256
        assert float((own == 0).float().mean()) == pytest.approx(near, abs=0.005)
        assert own.max().item() == pytest.approx(1 / (1 - near), rel=1e-6)
        assert torch.all((own == 0) | (own == own.max()))
    assert out[:3].mean((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=0.01)
    # Cells go each for itself: what the next one does tells nothing.
    gone = (out[2] == 0).float()
    assert float((gone[:, 1:] * gone[:, :-1]).mean()) == pytest.approx(0.25, abs=0.01)
    x = torch.randn(4, 3, 5)
    assert torch.equal(dropped(dropout.eval(), x), x.relu())


def test_dropout_of_a_run_is_the_same_in_any_company() -> None:
    ones = torch.ones(3, 7, 5)
    stack, alone, late = (
        StackedDropout([0.5, 0.3, 0.4], [4, 9, 2]),
        StackedDropout([0.3], [9]),
        StackedDropout([0.4, 0.3], [2, 9]),
    )
    first = dropped(stack, ones)
    assert torch.equal(first[1:2], dropped(alone, ones[:1]))
    assert torch.equal(first[[2, 1]], dropped(late, ones[:2]))
    stack.keep_runs(torch.tensor([1, 2]))
    second = dropped(stack, ones[:2])
    assert torch.equal(second[:1], dropped(alone, ones[:1]))
    assert torch.equal(second[[1, 0]], dropped(late, ones[:2]))
    assert not torch.equal(second[0], first[1])
    assert not torch.equal(
        *(
            dropped(one, torch.ones(1, 50, 50))
            for one in (StackedDropout([0.5], [4]), StackedDropout([0.5], [5]))
        )
    )
    stack.restart(0)
    assert torch.equal(dropped(stack, ones), first)
    stack.restart(1)
    assert not torch.equal(dropped(stack, ones), first)


def test_dropped_cells_get_no_gradient_and_kept_ones_their_scale() -> None:
    x = torch.ones(2, 20, 30, requires_grad=True)
    out = dropped(StackedDropout([0.5, 0.25], [1, 2]), x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_a_layer_is_one_affine_map_for_each_run(shared: bool, outputs: int) -> None:
    layer = StackedLinear(3, 5, outputs)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(7, 5) if shared else torch.randn(3, 7, 5)
    out = layer(x)
    for run in range(3):
        one = (x if shared else x[run]) @ layer.weight[run] + layer.bias[run]
        assert torch.allclose(out[run], one, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_what_a_run_does_not_hear_neither_moves_nor_teaches_it(shared: bool) -> None:
    layer = StackedLinear(2, 3, 4)
    torch.nn.init.normal_(layer.weight)
    layer.mask_inputs(torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]))
    x = torch.randn(6, 3) if shared else torch.randn(2, 6, 3)
    other = x.clone()
    other[..., 1] += 5
    before, after = layer(x), layer(other)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    before.square().sum().backward()
    assert layer.weight.grad is not None
    heard = layer.weight.grad.abs().sum(2) > 0
    assert heard.tolist() == [[True, False, True], [True, True, True]]
