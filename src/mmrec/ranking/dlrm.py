"""DLRM (Naumov et al., arXiv 1906.00091) over reduced words, as the paper composes it."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mmrec.ranking.inputs import Batch, Inputs
from mmrec.ranking.reducer import Reducer

__all__ = ["Ranker", "Shape", "interact"]

_START = 0.01


class Shape(BaseModel):
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
    dropout: float


def interact(vectors: list[Tensor]) -> Tensor:
    """Dot products of all pairs of k (B, d) vectors: (B, k (k - 1) / 2), pairs in row order."""
    stacked = torch.stack(vectors, dim=1)
    dots = stacked @ stacked.transpose(1, 2)
    row, column = torch.triu_indices(len(vectors), len(vectors), offset=1)
    return dots[:, row, column]


class Ranker(nn.Module):
    """Bottom MLP on dense, an embedding bag on categories, reducers on words; dots; top MLP; one logit.

    Args:
        shape: sizes of everything.
    """

    dense_mean: Tensor
    dense_scale: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size, hidden = shape.embedding_size, shape.hidden_size
        self.register_buffer("dense_mean", torch.zeros(shape.dense))
        self.register_buffer("dense_scale", torch.ones(shape.dense))
        self.reducers = nn.ModuleDict(
            {name: Reducer(blocks, hidden, size, shape.dropout) for name, blocks in shape.groups.items()}
        )
        self.bottom = _mlp(shape.dense, hidden, size, shape.dropout)
        self.categories: nn.EmbeddingBag | None = None
        if shape.categories:
            self.categories = nn.EmbeddingBag(
                shape.categories + 1, size, mode="sum", padding_idx=shape.categories
            )
            nn.init.normal_(self.categories.weight, std=_START / size**0.5)
            with torch.no_grad():
                self.categories.weight[shape.categories] = 0
        vectors = 1 + bool(shape.categories) + len(shape.groups)
        self.top = _mlp(size + vectors * (vectors - 1) // 2, hidden, 1, shape.dropout)

    def standardise(self, inputs: Inputs, rows: np.ndarray) -> None:
        """Learn the mean and scale of all inputs from some (training) rows."""
        mean, deviation, block_mean, block_deviation = inputs.moments(rows)
        self.dense_mean.copy_(mean)
        self.dense_scale.copy_(torch.where(deviation > 1e-4, 1 / deviation.clamp(min=1e-4), 0.0))
        for reducer in self.reducers.values():
            assert isinstance(reducer, Reducer)
            reducer.standardise(block_mean, block_deviation)

    def reduce(self, batch: Batch) -> list[Tensor]:
        """(B, embedding_size) for every reducer."""
        return [reducer(batch) for reducer in self.reducers.values()]

    def rank(self, batch: Batch, reduced: list[Tensor]) -> Tensor:
        """(B,) logits, given the reduced words."""
        bottom = self.bottom((batch.dense - self.dense_mean) * self.dense_scale)
        vectors = [bottom, *reduced]
        if self.categories is not None:
            vectors.append(self.categories(batch.categories))
        if len(vectors) > 1:
            logit = self.top(torch.cat([bottom, interact(vectors)], dim=1))
        else:
            logit = self.top(bottom)
        return logit[:, 0]

    def forward(self, batch: Batch) -> Tensor:
        """(B,) logits, with the class weights of the loss in them."""
        return self.rank(batch, self.reduce(batch))


def _mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )
