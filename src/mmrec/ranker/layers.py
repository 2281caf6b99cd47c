"""Layers of R training runs side by side: weights have a leading run axis, and R products are one.

Stacking makes a run as cheap as the hardware allows: one batched product instead of R small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["BestWeights", "Shard", "StackedDropout", "StackedLinear", "StackedMLP"]

_BYTE_LEVELS = 256


class StackedLinear(nn.Module):
    """R affine maps, of inputs that all runs share or of inputs of each run."""

    input_mask: Tensor | None

    def __init__(self, runs: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(runs, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(runs, 1, outputs)) if bias else None
        self.register_buffer("input_mask", None, persistent=False)

    def mask_inputs(self, mask: Tensor) -> None:
        """Hide inputs from runs: (R, inputs), 0 where a run does not see the input (ablation)."""
        self.input_mask = mask[:, :, None].to(self.weight)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """(R, B, outputs) from (B, inputs), shared, or (R, B, inputs), times (R, 1, 1) factors."""
        weight = self.weight if self.input_mask is None else self.weight * self.input_mask
        # Scaling the weights is cheaper than scaling the inputs: there are fewer of them.
        weight = weight if scale is None else weight * scale
        if x.dim() == 3 and weight.shape[2] == 1:
            out: Tensor = _SingleColumnProduct.apply(x, weight)  # type: ignore[no-untyped-call]
            return out if self.bias is None else out + self.bias
        x = x.expand(len(weight), -1, -1)  # a view: shared rows are not copied
        if self.bias is None:
            return torch.bmm(x, weight)
        return torch.baddbmm(self.bias, x, weight)


class _SingleColumnProduct(torch.autograd.Function):
    """`bmm` with one output column, transposed: several times faster in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(weight.transpose(1, 2), x.transpose(1, 2)).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        weight_gradient = torch.bmm(gradient.transpose(1, 2), x).transpose(1, 2)
        return gradient * weight.transpose(1, 2), weight_gradient


class Shard:
    """The shard of a process that trains alone; `mmrec.distributed.training` has the other one.

    Random numbers are drawn for whole batches, so that they do not depend on who computes a row.
    """

    def local_rows(self, rows: Tensor) -> Tensor:
        """(b,) neighbouring rows of a (B,) batch that this process computes."""
        return rows

    def position(self, count: int) -> tuple[int, int]:
        """Where `count` local rows begin in the last batch of `local_rows`, and the size of that batch."""
        return 0, count

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place."""


class StackedDropout(nn.Module):
    """ReLU, then dropout with a rate and a random generator for each run.

    A run draws the same masks alone as in a stack. One random byte decides about one cell, so rates are
    multiples of 1/256, and the scale fits the rounded rate. There are (R) rates and (R) seeds.
    """

    def __init__(self, rates: Sequence[float], seeds: Sequence[int]) -> None:
        super().__init__()
        self.shard = Shard()
        self._rates, self._seeds = list(rates), list(seeds)
        self.restart(0)

    def restart(self, step: int) -> None:
        """Begin a training step with all runs and fresh generators."""
        # (R, 1): a cell is dropped if its byte is below the threshold of the run.
        levels = np.minimum(np.rint(np.multiply(self._rates, _BYTE_LEVELS)), _BYTE_LEVELS - 1)
        self._threshold = levels.astype(np.uint8)[:, None]
        self._generators = [
            np.random.Generator(np.random.SFC64([seed, step])) for seed in self._seeds
        ]

    def keep_runs(self, runs: Tensor) -> None:
        """Continue with some of the runs, in this order."""
        self._threshold = self._threshold[runs.numpy()]
        self._generators = [self._generators[run] for run in runs.tolist()]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """ReLU and dropout of (R, B, d), in place; the (R, 1, 1) factor that makes up for dropped
        cells, if any."""
        mask = scale = None
        if self.training and self._threshold.any():
            mask = torch.from_numpy(self._draw_mask(rows=x.shape[1], width=x.shape[2])).view(
                x.shape
            )
            kept_levels = _BYTE_LEVELS - self._threshold[:, :, None].astype(np.float64)
            scale = torch.from_numpy(_BYTE_LEVELS / kept_levels).to(x.dtype)
        out: Tensor = _ReluAndDrop.apply(x, mask)  # type: ignore[no-untyped-call]
        return out, scale

    def _draw_mask(self, rows: int, width: int) -> np.ndarray:
        """(R, rows * width) bytes, 1 where a cell stays; drawn for the whole batch of all shards."""
        first_row, batch_size = self.shard.position(rows)
        words = -(-batch_size * width // 8)  # 64-bit words, rounded up
        draws = np.empty((len(self._generators), words), dtype=np.uint64)
        for run, generator in enumerate(self._generators):
            draws[run] = generator.integers(2**64, size=words, dtype=np.uint64)
        local = slice(first_row * width, (first_row + rows) * width)
        # Bytes, because PyTorch's operations on booleans are not vectorised.
        return (draws.view(np.uint8)[:, local] >= self._threshold).view(np.uint8)


class _ReluAndDrop(torch.autograd.Function):
    """ReLU and dropout in the fewest passes over memory: a cell that is zero has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        x.relu_()
        if mask is not None:
            x.mul_(mask.to(x.dtype))
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        # In place: the gradient comes from the product behind this layer, which alone reads it.
        threshold_backward = torch.ops.aten.threshold_backward.grad_input
        return threshold_backward(gradient, x, 0, grad_input=gradient), None


class StackedMLP(nn.Sequential):
    """R runs of linear maps with ReLU and dropout between them; `sizes` are of the input, of every
    hidden layer and of the output."""

    def __init__(self, runs: int, sizes: Sequence[int], dropout: StackedDropout) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            # The ReLU only numbers the layers; `StackedDropout` applies it.
            layers += [StackedLinear(runs, inputs, outputs), nn.ReLU(), dropout]
        super().__init__(*layers[:-2])

    def forward(self, x: Tensor) -> Tensor:
        """(R, B, output) from (B, input), shared, or from (R, B, input)."""
        *hidden, last = (layer for layer in self if isinstance(layer, StackedLinear))
        scale = None
        for layer in hidden:
            x, scale = self[2](layer(x, scale))
        return last(x, scale)


class BestWeights:
    """Weights of each run's best epoch, and the input masks of all runs, to be restored at the end."""

    def __init__(self, ranker: nn.Module) -> None:
        self._weights: dict[nn.Parameter, Tensor] = {}
        for parameter in ranker.parameters():
            self._weights[parameter] = parameter.detach().clone()
        self._masks: list[tuple[StackedLinear, Tensor | None]] = []
        for layer in ranker.modules():
            if isinstance(layer, StackedLinear):
                self._masks.append((layer, layer.input_mask))

    def update(self, learned: list[nn.Parameter], active: Tensor, improved: Tensor) -> None:
        """Take over the weights of those of the (a,) active runs that have (a,) improved."""
        for parameter in learned:
            self._weights[parameter][active[improved]] = parameter.detach()[improved]

    def restore(self) -> None:
        """Give all runs their best weights and their masks."""
        for parameter, weights in self._weights.items():
            parameter.data, parameter.grad = weights, None
        for layer, mask in self._masks:
            layer.input_mask = mask
