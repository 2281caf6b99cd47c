"""Layers of R runs side by side: every weight has a leading run axis, every product is one for all runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.ranker.shard import Shard

__all__ = ["StackedDropout", "StackedLinear", "StackedMLP"]

_LEVELS = 256


class StackedLinear(nn.Module):
    """R affine maps; what they read may be shared by all runs.

    Args:
        runs: R.
        inputs, outputs: sizes.
        bias: whether a constant is added.
    """

    input_mask: Tensor | None

    def __init__(self, runs: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(runs, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(runs, 1, outputs)) if bias else None
        self.register_buffer("input_mask", None, persistent=False)

    def mask_inputs(self, mask: Tensor) -> None:
        """Let each run read some inputs only: (R, inputs), 1 where it does (ablation)."""
        self.input_mask = mask[:, :, None].to(self.weight)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """(R, B, outputs) from (B, inputs), shared, or from (R, B, inputs).

        Args:
            x: inputs.
            scale: (R, 1, 1) by which a run's inputs are to be multiplied.
        """
        weight = self.weight if self.input_mask is None else self.weight * self.input_mask
        # Of the two factors, weights are the smaller.
        weight = weight if scale is None else weight * scale
        if x.dim() == 3 and weight.shape[2] == 1:
            out: Tensor = _Column.apply(x, weight)  # type: ignore[no-untyped-call]
            return out if self.bias is None else out + self.bias
        x = x.expand(len(weight), -1, -1)  # a view: rows that are shared are not copied
        return torch.bmm(x, weight) if self.bias is None else torch.baddbmm(self.bias, x, weight)


class _Column(torch.autograd.Function):
    """A batch of products with one column each, which as such are several times slower, both ways."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(weight.transpose(1, 2), x.transpose(1, 2)).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * weight.transpose(1, 2), torch.bmm(gradient.transpose(1, 2), x).transpose(
            1, 2
        )


class StackedDropout(nn.Module):
    """Dropout at a rate of each run's own, from a generator of each run's own.

    A run draws the same masks alone as beside others. A byte a cell decides, so that rates are exact to
    1/256, and the scale fits the rate that is drawn.

    Args:
        rates: (R) shares of cells that are dropped.
        seeds: (R) of the generators.
    """

    def __init__(self, rates: Sequence[float], seeds: Sequence[int]) -> None:
        super().__init__()
        self.shard = Shard()
        self._rates, self._seeds = list(rates), list(seeds)
        self.restart(0)

    def restart(self, step: int) -> None:
        """Begin a step of training, with all runs and with noise of its own."""
        levels = [min(round(rate * _LEVELS), _LEVELS - 1) for rate in self._rates]
        self._level = np.array(levels, dtype=np.uint8)[:, None]
        self._noise = [np.random.Generator(np.random.SFC64([seed, step])) for seed in self._seeds]

    def keep_runs(self, runs: Tensor) -> None:
        """Go on with some of the runs."""
        self._level = self._level[runs.numpy()]
        self._noise = [self._noise[run] for run in runs.tolist()]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """ReLU and dropout of (R, B, d), in place.

        Returns:
            The same tensor; and, where some of it was dropped, (R, 1, 1) by which it is to be multiplied.
        """
        if not self.training or not self._level.any():
            return _rectified(x, None), None
        size, width = x[0].numel(), x.shape[2]
        start, whole = (rows * width for rows in self.shard.position(x.shape[1]))
        words = -(-whole // 8)
        drawn = np.stack([one.integers(2**64, size=words, dtype=np.uint64) for one in self._noise])
        kept = drawn.view(np.uint8)[:, start : start + size] >= self._level
        scale = torch.from_numpy(_LEVELS / (_LEVELS - self._level[:, :, None].astype(np.float64)))
        # As bytes: what PyTorch does with booleans is not vectorised.
        return _rectified(x, torch.from_numpy(kept.view(np.uint8)).view(x.shape)), scale.to(x.dtype)


class _Rectified(torch.autograd.Function):
    """ReLU and dropout in as few passes over memory as there can be: what is zero has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor | None) -> Tensor:
        x.relu_()
        if kept is not None:
            x.mul_(kept.to(x.dtype))
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients  # of a product behind this layer, which nobody else reads
        return torch.ops.aten.threshold_backward.grad_input(
            gradient, x, 0, grad_input=gradient
        ), None


def _rectified(x: Tensor, kept: Tensor | None) -> Tensor:
    out: Tensor = _Rectified.apply(x, kept)  # type: ignore[no-untyped-call]
    return out


class StackedMLP(nn.Sequential):
    """R runs of linear maps, with ReLU and dropout between them, which are done together.

    Args:
        runs: R.
        sizes: of the input, of every hidden layer, of the output.
        dropout: of all hidden layers.
    """

    def __init__(self, runs: int, sizes: Sequence[int], dropout: StackedDropout) -> None:
        parts: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            parts += [StackedLinear(runs, inputs, outputs), nn.ReLU(), dropout]
        super().__init__(*parts[:-2])

    def forward(self, x: Tensor) -> Tensor:
        """(R, B, output) from (B, input), shared, or from (R, B, input)."""
        *hidden, last = (layer for layer in self if isinstance(layer, StackedLinear))
        scale = None
        for layer in hidden:
            x, scale = self[2](layer(x, scale))
        return last(x, scale)
