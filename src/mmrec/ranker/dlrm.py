"""DLRM (Naumov et al., arXiv 1906.00091) over reduced words, as the paper composes it; R runs at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mmrec.features.groups import visible_columns
from mmrec.ranker.inputs import Batch, RankerInputs, category_bag
from mmrec.ranker.layers import StackedDropout, StackedLinear, StackedMLP
from mmrec.ranker.reducer import Reducer, VectorBlocks

__all__ = ["Ranker", "RankerShape", "TrainingRun", "interact"]

_START = 0.01


class RankerShape(BaseModel):
    """What a ranker is built from; with the weights it is the whole model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: int
    """Number of dense columns."""
    groups: dict[str, dict[str, int]]
    """Reducers: name -> (block -> size)."""
    categories: int
    """Size of the category vocabulary; 0 leaves the table out."""
    embedding_size: int
    hidden_size: int
    runs: int = 1
    """Number of runs that stand side by side."""
    linear: bool = False
    """Whether a linear part stands beside DLRM, which then starts from zero and corrects it."""


@dataclass(frozen=True)
class TrainingRun:
    """What sets one run of a stack apart from the others.

    Attributes:
        seed: of initial weights and dropout.
        dropout: share of cells that is dropped in every MLP.
        class_weights: of (dislike, like) in the loss.
        masked_groups: groups of inputs (`mmrec.features.groups`) that it is kept from (ablation).
    """

    seed: int
    dropout: float
    class_weights: tuple[float, float]
    masked_groups: frozenset[str] = frozenset()


def interact(vectors: Sequence[Tensor]) -> Tensor:
    """Dot products of all pairs of k (..., d) vectors: (..., k (k - 1) / 2), pairs in row order."""
    pairs = [(a * b).sum(-1) for at, a in enumerate(vectors) for b in vectors[at + 1 :]]
    return torch.stack(pairs, dim=-1)


class Ranker(nn.Module):
    """Bottom MLP on dense, an embedding bag on categories, reducers on words; dots; top MLP; one logit.

    Args:
        shape: sizes of everything.
        runs: seeds and dropout of each run; without them all weights are zero, to be loaded.
    """

    dense_mean: Tensor
    dense_scale: Tensor

    def __init__(self, shape: RankerShape, runs: Sequence[TrainingRun] = ()) -> None:
        super().__init__()
        self.shape = shape
        count, size, hidden = shape.runs, shape.embedding_size, shape.hidden_size
        noise = [(run.dropout, run.seed) for run in runs] or [(0.0, 0)] * count
        self.dropout = StackedDropout(*zip(*noise, strict=True))
        self.register_buffer("dense_mean", torch.zeros(shape.dense))
        self.register_buffer("dense_scale", torch.ones(shape.dense))
        self.blocks = nn.ModuleDict(
            {name: VectorBlocks(blocks) for name, blocks in shape.groups.items()}
        )
        self.reducers = nn.ModuleDict(
            {
                name: Reducer(count, words.size, hidden, size, self.dropout)
                for name, words in self._words()
            }
        )
        self.bottom = StackedMLP(count, [shape.dense, hidden, size], self.dropout)
        self.categories = (
            StackedLinear(count, shape.categories, size, bias=False) if shape.categories else None
        )
        vectors = 1 + bool(shape.categories) + len(shape.groups)
        self.top = StackedMLP(count, [size + vectors * (vectors - 1) // 2, hidden, 1], self.dropout)
        self.linear_size = (
            shape.dense + sum(words.size for _, words in self._words()) + shape.categories
        )
        self.linear = StackedLinear(count, self.linear_size, 1) if shape.linear else None
        for at, run in enumerate(runs):
            self._initialise(at, torch.Generator().manual_seed(run.seed))

    def _words(self) -> Iterator[tuple[str, VectorBlocks]]:
        for name, words in self.blocks.items():
            assert isinstance(words, VectorBlocks)
            yield name, words

    def _initialise(self, run: int, generator: torch.Generator) -> None:
        """Give one run its weights: PyTorch's usual ones, but words and categories start near zero.

        A ranker starts from its numbers alone: random words at full strength drown them, and cost .009 of
        ROC-AUC (docs/log.md).
        """
        small = [
            layer for name, layer in self.reducers.named_modules() if name.endswith("layers.3")
        ]
        with torch.no_grad():
            for layer in self.modules():
                if not isinstance(layer, StackedLinear) or layer is self.linear:
                    continue
                weight = layer.weight[run]
                if layer in small:
                    weight.normal_(std=_START / weight.shape[0] ** 0.5, generator=generator)
                elif layer is self.categories:
                    weight.normal_(std=_START / weight.shape[1] ** 0.5, generator=generator)
                else:
                    bound = (
                        0.0 if self.linear and layer is self.top[-1] else weight.shape[0] ** -0.5
                    )
                    weight.uniform_(-bound, bound, generator=generator)
                    if layer.bias is not None:
                        layer.bias[run].uniform_(-bound, bound, generator=generator)

    def mask_inputs(
        self, dense_columns: Sequence[str], masked_groups: Sequence[frozenset[str]]
    ) -> None:
        """Keep each of R runs from the groups that it is deaf to; `dense_columns` names the dense columns."""
        sizes = self.shape.groups.values()
        words = [
            [*(name for name in blocks for _ in range(blocks[name])), *blocks] for blocks in sizes
        ]
        columns = [dense_columns, *words, ["categories"] * self.shape.categories]
        masks = [torch.from_numpy(visible_columns(names, masked_groups)) for names in columns]
        reducers = [reducer.get_submodule("layers.0") for reducer in self.reducers.values()]
        for layer, mask in zip([self.bottom[0], *reducers, self.categories], masks, strict=True):
            if isinstance(layer, StackedLinear):
                layer.mask_inputs(mask)
        if self.linear is not None:
            self.linear.mask_inputs(torch.cat(masks, dim=1))

    def keep_runs(self, runs: Tensor) -> None:
        """Go on with some of the runs, in this order."""
        for parameter in self.parameters():
            parameter.data, parameter.grad = parameter.data[runs], None
        self.dropout.keep_runs(runs)
        for layer in self.modules():
            if isinstance(layer, StackedLinear) and layer.input_mask is not None:
                layer.input_mask = layer.input_mask[runs]

    def standardise(self, inputs: RankerInputs, rows: np.ndarray) -> None:
        """Learn the mean and scale of all inputs from some (training) rows."""
        mean, deviation, block_mean, block_deviation = inputs.moments(rows)
        self.dense_mean.copy_(mean)
        self.dense_scale.copy_(torch.where(deviation > 1e-4, 1 / deviation.clamp(min=1e-4), 0.0))
        for _, words in self._words():
            words.standardise(block_mean, block_deviation)

    def standardised_dense(self, batch: Batch) -> Tensor:
        """(B, p) standardised numbers."""
        return (batch.dense - self.dense_mean) * self.dense_scale

    def block_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Standardised words, by group."""
        return {name: words(batch) for name, words in self._words()}

    def category_columns(self, batch: Batch) -> list[Tensor]:
        """(B, c) which categories there are; nothing where the ranker knows of none."""
        return (
            [category_bag(batch.categories, self.shape.categories)] if self.shape.categories else []
        )

    def linear_columns(self, batch: Batch) -> Tensor:
        """(B, linear_size) all that the linear part reads: numbers, words, categories."""
        return torch.cat(
            [
                self.standardised_dense(batch),
                *self.block_columns(batch).values(),
                *self.category_columns(batch),
            ],
            dim=1,
        )

    def reduce(self, words: dict[str, Tensor]) -> list[Tensor]:
        """(R, B, embedding_size) for every reducer."""
        return [reducer(words[name]) for name, reducer in self.reducers.items()]

    def score(self, batch: Batch, words: dict[str, Tensor], reduced: list[Tensor]) -> Tensor:
        """(R, B) logits, given the words and what they are reduced to."""
        dense = self.standardised_dense(batch)
        bottom = self.bottom(dense)
        vectors = [bottom, *reduced]
        bag = self.category_columns(batch)
        if self.categories is not None:
            vectors.append(self.categories(bag[0]))
        logit = self.top(
            torch.cat([bottom, interact(vectors)], dim=-1) if len(vectors) > 1 else bottom
        )
        if self.linear is not None:
            logit = logit + self.linear(torch.cat([dense, *words.values(), *bag], dim=1))
        return logit[:, :, 0]

    def forward(self, batch: Batch) -> Tensor:
        """(R, B) logits, with the class weights of the loss in them."""
        words = self.block_columns(batch)
        return self.score(batch, words, self.reduce(words))
