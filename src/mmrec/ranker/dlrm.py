"""DLRM (Naumov et al., arXiv 1906.00091) over reduced text, as the paper composes it; R runs at once.

Weights have a leading run axis, so that R products are one, as cheap as the hardware allows.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, pairwise, starmap
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mmrec.features.tables import visible_columns
from mmrec.ranker.inputs import Batch, Shard, Standardiser, TrainingRun

_BYTE_LEVELS = 256


class StackedLinear(nn.Module):
    """R affine maps, of inputs that all runs share or of inputs of each run."""

    def __init__(self, runs: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        # (R, inputs, 1), 0 where a run does not see the input (ablation).
        self.input_mask: Tensor | None = None
        self.weight = nn.Parameter(torch.zeros(runs, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(runs, 1, outputs)) if bias else None

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


class StackedDropout(nn.Module):
    """ReLU, then dropout with each run's rate and random generator, which draws the same masks alone
    as in a stack. A random byte decides about a cell, so rates are rounded to multiples of 1/256."""

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
        bits = [np.random.SFC64([seed, step]) for seed in self._seeds]
        self._generators = [*map(np.random.Generator, bits)]

    def keep_runs(self, runs: Tensor) -> None:
        """Continue with some of the runs, in this order."""
        self._threshold = self._threshold[runs.numpy()]
        self._generators = [self._generators[run] for run in runs.tolist()]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """ReLU and dropout of (R, B, d), in place; the (R, 1, 1) factor for dropped cells, if any."""
        mask = scale = None
        if self.training and self._threshold.any():
            _, rows, width = x.shape
            # Drawn for the whole batch of all shards: 64-bit words, rounded up.
            first_row, batch_size = self.shard.position(rows)
            words = -(-batch_size * width // 8)
            draws = np.empty((len(self._generators), words), dtype=np.uint64)
            for run, generator in enumerate(self._generators):
                draws[run] = generator.integers(2**64, size=words, dtype=np.uint64)
            local = slice(first_row * width, (first_row + rows) * width)
            # Bytes, 1 where a cell stays: PyTorch's operations on booleans are not vectorised.
            stays = (draws.view(np.uint8)[:, local] >= self._threshold).view(np.uint8)
            mask = torch.from_numpy(stays).view(x.shape)
            kept_levels = _BYTE_LEVELS - self._threshold[:, :, None].astype(np.float64)
            scale = torch.from_numpy(_BYTE_LEVELS / kept_levels).to(x.dtype)
        out: Tensor = _ReluAndDrop.apply(x, mask)  # type: ignore[no-untyped-call]
        return out, scale


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


class StackedMLP(nn.ModuleList):
    """R runs of linear maps with ReLU and dropout between them; `sizes` are of input to output."""

    def __init__(self, runs: int, sizes: Sequence[int]) -> None:
        super().__init__(starmap(partial(StackedLinear, runs), pairwise(sizes)))

    def forward(self, x: Tensor, dropout: StackedDropout | None) -> Tensor:
        """(R, B, output) from (B, input), shared, or from (R, B, input)."""
        return self.after_first(self[0](x), dropout)

    def after_first(self, x: Tensor, dropout: StackedDropout | None = None) -> Tensor:
        """(R, B, output) from (R, B, hidden) outputs of the first layer, which are overwritten."""
        _, *layers = self
        for layer in layers:
            x, scale = (x.relu_(), None) if dropout is None else dropout(x)
            x = layer(x, scale)
        return x


class RankerShape(BaseModel):
    """Sizes that a ranker is built from; with the weights they are the whole model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: int  # columns
    groups: dict[str, dict[str, int]]  # reducers: name -> (block -> width)
    categories: int  # size of the vocabulary; 0 leaves categories out
    embedding_size: int
    hidden_size: int
    runs: int = 1  # side by side
    linear: bool = False  # whether DLRM corrects a linear model


class Reducer(nn.Module):
    """Reduces columns of vector blocks to one vector; trained alone through `head`."""

    def __init__(self, inputs: int, shape: RankerShape) -> None:
        super().__init__()
        self.layers = StackedMLP(shape.runs, [inputs, shape.hidden_size, shape.embedding_size])
        self.head = StackedLinear(shape.runs, shape.embedding_size, 1)


class Ranker(nn.Module):
    """Bottom MLP on dense columns, reducers on vector blocks, an embedding bag on categories; dot
    products of these vectors; top MLP; one logit. Without `runs` weights are zero, to be loaded."""

    def __init__(self, shape: RankerShape, runs: Sequence[TrainingRun] = ()) -> None:
        super().__init__()
        self.shape = shape
        count, size, hidden = shape.runs, shape.embedding_size, shape.hidden_size
        rates = [run.dropout for run in runs] or [0.0] * count
        self.dropout = StackedDropout(rates, [run.seed for run in runs] or [0] * count)
        blocks: dict[str, int] = {}
        reducers = {}
        for name, widths in shape.groups.items():
            blocks |= widths
            reducers[name] = Reducer(sum(widths.values()) + len(widths), shape)
        self.standardiser = Standardiser(shape.dense, blocks)
        # A ModuleDict is typed as if it held any modules.
        self.reducers = cast("Mapping[str, Reducer]", nn.ModuleDict(reducers))
        self.bottom = StackedMLP(count, [shape.dense, hidden, size])
        self.categories: StackedLinear | None = None
        if shape.categories:
            self.categories = StackedLinear(count, shape.categories, size, bias=False)
        vectors = 1 + bool(shape.categories) + len(shape.groups)
        pairs = vectors * (vectors - 1) // 2
        self.top = StackedMLP(count, [size + pairs, hidden, 1])
        # Each vector block has one more column, the indicator that it is missing.
        self.linear_size = shape.dense + sum(blocks.values()) + len(blocks) + shape.categories
        self.linear = StackedLinear(count, self.linear_size, 1) if shape.linear else None
        for index, run in enumerate(runs):
            self._initialise(index, torch.Generator().manual_seed(run.seed))

    @torch.no_grad()
    def _initialise(self, run: int, generator: torch.Generator, near_zero: float = 0.01) -> None:
        """Draw the weights of one run: PyTorch's usual ones, but text and categories near zero."""
        # Random text vectors would drown the dense columns: .009 of ROC-AUC (docs/log.md).
        last_of_reducers = [reducer.layers[-1] for reducer in self.reducers.values()]
        for layer in self.stacked_layers():
            if layer is self.linear:
                continue
            weight = layer.weight[run]  # (inputs, outputs)
            inputs, outputs = weight.shape
            if layer in last_of_reducers:
                weight.normal_(std=near_zero / inputs**0.5, generator=generator)
            elif layer is self.categories:
                weight.normal_(std=near_zero / outputs**0.5, generator=generator)
            else:
                # A correction of the linear model starts from zero.
                corrects = self.linear is not None and layer is self.top[-1]
                bound = 0.0 if corrects else inputs**-0.5
                weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:
                    layer.bias[run].uniform_(-bound, bound, generator=generator)

    def stacked_layers(self) -> list[StackedLinear]:
        """All linear layers, in order."""
        return [layer for layer in self.modules() if isinstance(layer, StackedLinear)]

    def mask_inputs(
        self, dense_columns: Sequence[str], masked_groups: Sequence[frozenset[str]]
    ) -> None:
        """Hide from each of R runs its masked groups; `dense_columns` names the dense columns."""
        inputs: list[tuple[Any, Sequence[str]]] = [(self.bottom[0], dense_columns)]
        for name, widths in self.shape.groups.items():
            names = np.repeat([*widths], [*widths.values()]).tolist()
            # Indicators of missing blocks come last.
            inputs.append((self.reducers[name].layers[0], [*names, *widths]))
        inputs.append((self.categories, ["categories"] * self.shape.categories))
        masks: list[Tensor] = []
        for layer, columns in inputs:
            visible = torch.from_numpy(visible_columns(columns, masked_groups))
            masks.append(visible[:, :, None].to(self.standardiser.dense_mean))
            if layer is not None:
                layer.input_mask = masks[-1]
        if self.linear is not None:
            self.linear.input_mask = torch.cat(masks, dim=1)

    def keep_runs(self, runs: Tensor) -> None:
        """Continue with some of the runs, in this order."""
        for parameter in self.parameters():
            parameter.data, parameter.grad = parameter.data[runs], None
        self.dropout.keep_runs(runs)
        for layer in self.stacked_layers():
            if layer.input_mask is not None:
                layer.input_mask = layer.input_mask[runs]

    def columns(self, batch: Batch) -> dict[str, Tensor]:
        """(B, ...) columns by consumer: `dense`, each reducer if there are vectors, `categories`."""
        columns = {"dense": self.standardiser.dense_columns(batch)}
        if batch.vectors:
            for name, blocks in self.shape.groups.items():
                columns[name] = self.standardiser.block_columns(batch, blocks)
        codes, size = batch.categories, self.shape.categories
        # The last indicator is that of the padding, which is no category.
        columns["categories"] = torch.zeros(len(codes), size + 1).scatter_(1, codes, 1.0)[:, :size]
        return columns

    def linear_columns(self, batch: Batch) -> Tensor:
        """(B, linear_size) inputs of the linear model: all columns side by side."""
        return torch.cat([*self.columns(batch).values()], dim=1)

    def reduce(self, columns: dict[str, Tensor], dropout: StackedDropout | None) -> list[Tensor]:
        """(R, B, embedding_size) from every reducer."""
        return [reducer.layers(columns[name], dropout) for name, reducer in self.reducers.items()]

    def score(self, columns: dict[str, Tensor], reduced: list[Tensor]) -> Tensor:
        """(R, B) logits, given the vectors that vector blocks are reduced to."""
        vectors = [self.bottom(columns["dense"], self.dropout), *reduced]
        if self.categories is not None:
            vectors.append(self.categories(columns["categories"]))
        logit = self.interact(vectors)
        if self.linear is not None:
            logit = logit + self.linear(torch.cat([*columns.values()], dim=1))[:, :, 0]
        return logit

    def interact(self, vectors: list[Tensor]) -> Tensor:
        """(R, B) logits of DLRM from (R, B, embedding_size) vectors, that of the bottom MLP first."""
        features = vectors[0]
        if len(vectors) > 1:  # dot products of all pairs, in row order
            products = [(first * second).sum(-1) for first, second in combinations(vectors, 2)]
            features = torch.cat([features, torch.stack(products, dim=-1)], dim=-1)
        logit: Tensor = self.top(features, self.dropout)
        return logit[:, :, 0]

    def forward(self, batch: Batch) -> Tensor:
        """(R, B) logits, shifted by the class weights of the loss."""
        columns = self.columns(batch)
        return self.score(columns, self.reduce(columns, self.dropout))
