"""DLRM (Naumov et al., arXiv 1906.00091) over reduced text, as the paper composes it; R runs at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mmrec.features.tables import visible_columns
from mmrec.ranker.inputs import Batch, InputMoments, RankerInputs, category_bag
from mmrec.ranker.layers import StackedDropout, StackedLinear, StackedMLP

__all__ = ["Ranker", "RankerShape", "Reducer", "TrainingRun", "VectorBlocks", "interact"]


class RankerShape(BaseModel):
    """Sizes that a ranker is built from; with the weights they are the whole model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: int
    """Number of dense columns."""
    groups: dict[str, dict[str, int]]
    """Reducers: name -> (block -> width)."""
    categories: int
    """Size of the category vocabulary; 0 leaves categories out."""
    embedding_size: int
    hidden_size: int
    runs: int = 1
    """Number of training runs side by side."""
    linear: bool = False
    """Whether DLRM corrects a linear model, starting from a correction of zero."""


@dataclass(frozen=True)
class TrainingRun:
    """Settings in which the runs of a stack differ."""

    seed: int
    """Of the initial weights and of dropout."""
    dropout: float
    """Share of cells that every MLP drops."""
    class_weights: tuple[float, float]
    """Of (dislike, like) in the loss."""
    masked_groups: frozenset[str] = frozenset()
    """Groups of inputs (`mmrec.features.tables`) hidden from the run (ablation)."""


class VectorBlocks(nn.Module):
    """Vector blocks side by side, each brought to mean zero and, on average, to length one.

    A missing block is zero, and the last columns indicate which blocks are missing: the first layer's
    weights of these columns amount to a learned vector for missing blocks.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        """Of blocks with these widths, by name."""
        super().__init__()
        self.names = list(sizes)
        self.size = sum(sizes.values()) + len(sizes)
        for index, size in enumerate(sizes.values()):
            self.register_buffer(f"mean_{index}", torch.zeros(size))
            self.register_buffer(f"scale_{index}", torch.ones(()))

    def standardise(self, moments: InputMoments) -> None:
        """Set the mean and the scale of each block."""
        for index, name in enumerate(self.names):
            self.get_buffer(f"mean_{index}").copy_(moments.block_mean[name])
            # Unit length of the whole block; with unit variance of each coordinate, hundreds of them
            # would dominate the few dense columns in training.
            length = float(moments.block_deviation[name].square().sum().sqrt())
            self.get_buffer(f"scale_{index}").fill_(1 / max(length, 1e-4))

    def forward(self, batch: Batch) -> Tensor:
        """(B, size): every block, then an indicator of each that is missing."""
        columns: list[Tensor] = []
        for index, name in enumerate(self.names):
            weight = self.get_buffer(f"scale_{index}") * batch.present[name]  # (B, 1)
            columns.append((batch.vectors[name] - self.get_buffer(f"mean_{index}")) * weight)
        missing = [1 - batch.present[name] for name in self.names]
        return torch.cat([*columns, *missing], dim=1)


class Reducer(nn.Module):
    """Vector blocks of one group reduced to one vector, for R runs.

    Trained alone, it predicts a like through `head`; the layer before that is the reduced vector.
    """

    def __init__(
        self, runs: int, inputs: int, hidden_size: int, embedding_size: int, dropout: StackedDropout
    ) -> None:
        super().__init__()
        self.layers = StackedMLP(runs, [inputs, hidden_size, embedding_size], dropout)
        self.head = nn.Sequential(nn.ReLU(), StackedLinear(runs, embedding_size, 1))

    def forward(self, columns: Tensor) -> Tensor:
        """(R, B, embedding_size) reduced vectors of (B, inputs) columns."""
        return self.layers(columns)

    def predict_outcome(self, columns: Tensor) -> Tensor:
        """(R, B) logits of a like, which the reducer learns when it is trained alone."""
        return self.head(self(columns))[:, :, 0]


def interact(vectors: Sequence[Tensor]) -> Tensor:
    """Dot products of all pairs of k (..., d) vectors: (..., k (k - 1) / 2), pairs in row order."""
    pairs = combinations(vectors, 2)
    return torch.stack([(first * second).sum(-1) for first, second in pairs], dim=-1)


class Ranker(nn.Module):
    """Bottom MLP on dense columns, reducers on vector blocks, an embedding bag on categories; dot
    products of these vectors; top MLP; one logit.

    Without `runs`, the settings of each run, all weights are zero, to be loaded.
    """

    dense_mean: Tensor
    dense_scale: Tensor

    def __init__(self, shape: RankerShape, runs: Sequence[TrainingRun] = ()) -> None:
        super().__init__()
        self.shape = shape
        count, size, hidden = shape.runs, shape.embedding_size, shape.hidden_size
        rates = [run.dropout for run in runs] or [0.0] * count
        self.dropout = StackedDropout(rates, [run.seed for run in runs] or [0] * count)
        self.register_buffer("dense_mean", torch.zeros(shape.dense))
        self.register_buffer("dense_scale", torch.ones(shape.dense))
        self.blocks, self.reducers = nn.ModuleDict(), nn.ModuleDict()
        block_columns = 0
        for name, sizes in shape.groups.items():
            self.blocks[name] = blocks = VectorBlocks(sizes)
            self.reducers[name] = Reducer(count, blocks.size, hidden, size, self.dropout)
            block_columns += blocks.size
        self.bottom = StackedMLP(count, [shape.dense, hidden, size], self.dropout)
        self.categories: StackedLinear | None = None
        if shape.categories:
            self.categories = StackedLinear(count, shape.categories, size, bias=False)
        vectors = 1 + bool(shape.categories) + len(shape.groups)
        pairs = vectors * (vectors - 1) // 2
        self.top = StackedMLP(count, [size + pairs, hidden, 1], self.dropout)
        self.linear_size = shape.dense + block_columns + shape.categories
        self.linear = StackedLinear(count, self.linear_size, 1) if shape.linear else None
        for index, run in enumerate(runs):
            self._initialise(index, torch.Generator().manual_seed(run.seed))

    def _named_blocks(self) -> Iterator[tuple[str, VectorBlocks]]:
        for name, blocks in self.blocks.items():
            assert isinstance(blocks, VectorBlocks)
            yield name, blocks

    def _initialise(self, run: int, generator: torch.Generator, near_zero: float = 0.01) -> None:
        """Draw the weights of one run: PyTorch's usual ones, but text and categories start near zero.

        So a ranker starts from its dense columns alone: random text vectors at full strength drown
        them, and cost .009 of ROC-AUC (docs/log.md).
        """
        with torch.no_grad():
            for name, layer in self.named_modules():
                if not isinstance(layer, StackedLinear) or layer is self.linear:
                    continue
                weight = layer.weight[run]  # (inputs, outputs)
                inputs, outputs = weight.shape
                if name.startswith("reducers.") and name.endswith("layers.3"):  # their last layer
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

    def mask_inputs(
        self, dense_columns: Sequence[str], masked_groups: Sequence[frozenset[str]]
    ) -> None:
        """Hide from each of R runs its masked groups; `dense_columns` names the dense columns."""
        columns: list[Sequence[str]] = [dense_columns]
        for sizes in self.shape.groups.values():
            names = np.repeat([*sizes], [*sizes.values()]).tolist()
            columns.append([*names, *sizes])  # as in `VectorBlocks`: indicators come last
        columns.append(["categories"] * self.shape.categories)
        masks = [torch.from_numpy(visible_columns(names, masked_groups)) for names in columns]
        first_layers = [
            self.bottom[0],
            *(reducer.get_submodule("layers.0") for reducer in self.reducers.values()),
            self.categories,
        ]
        for layer, mask in zip(first_layers, masks, strict=True):
            if isinstance(layer, StackedLinear):
                layer.mask_inputs(mask)
        if self.linear is not None:
            self.linear.mask_inputs(torch.cat(masks, dim=1))

    def keep_runs(self, runs: Tensor) -> None:
        """Continue with some of the runs, in this order."""
        for parameter in self.parameters():
            parameter.data, parameter.grad = parameter.data[runs], None
        self.dropout.keep_runs(runs)
        for layer in self.modules():
            if isinstance(layer, StackedLinear) and layer.input_mask is not None:
                layer.input_mask = layer.input_mask[runs]

    def standardise(self, inputs: RankerInputs, rows: np.ndarray) -> None:
        """Learn the mean and the scale of all inputs from some (training) rows."""
        moments = inputs.moments(rows)
        deviation = moments.dense_deviation
        self.dense_mean.copy_(moments.dense_mean)
        # Columns that are constant in training are left out.
        scale = torch.where(deviation > 1e-4, 1 / deviation.clamp(min=1e-4), 0.0)
        self.dense_scale.copy_(scale)
        for _, blocks in self._named_blocks():
            blocks.standardise(moments)

    def standardised_dense(self, batch: Batch) -> Tensor:
        """(B, p) standardised dense columns."""
        return (batch.dense - self.dense_mean) * self.dense_scale

    def block_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Group -> (B, columns of its `VectorBlocks`)."""
        return {name: blocks(batch) for name, blocks in self._named_blocks()}

    def category_columns(self, batch: Batch) -> Tensor:
        """(B, c) indicators of the item's categories."""
        return category_bag(batch.categories, self.shape.categories)

    def linear_columns(self, batch: Batch) -> Tensor:
        """(B, linear_size) inputs of the linear model: dense columns, vector blocks, categories."""
        block_columns = self.block_columns(batch).values()
        columns = [self.standardised_dense(batch), *block_columns, self.category_columns(batch)]
        return torch.cat(columns, dim=1)

    def reduce(self, block_columns: dict[str, Tensor]) -> list[Tensor]:
        """(R, B, embedding_size) from every reducer."""
        return [reducer(block_columns[name]) for name, reducer in self.reducers.items()]

    def score(
        self, batch: Batch, block_columns: dict[str, Tensor], reduced: list[Tensor]
    ) -> Tensor:
        """(R, B) logits, given the columns of vector blocks and the vectors they are reduced to."""
        dense, categories = self.standardised_dense(batch), self.category_columns(batch)
        bottom = self.bottom(dense)
        vectors = [bottom, *reduced]
        if self.categories is not None:
            vectors.append(self.categories(categories))
        if len(vectors) > 1:
            logit = self.top(torch.cat([bottom, interact(vectors)], dim=-1))
        else:
            logit = self.top(bottom)
        if self.linear is not None:
            columns = [dense, *block_columns.values(), categories]
            logit = logit + self.linear(torch.cat(columns, dim=1))
        return logit[:, :, 0]

    def forward(self, batch: Batch) -> Tensor:
        """(R, B) logits, shifted by the class weights of the loss."""
        block_columns = self.block_columns(batch)
        return self.score(batch, block_columns, self.reduce(block_columns))
