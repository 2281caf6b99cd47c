"""The upstream MLP: what the words say of the outcome, in 32 numbers (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec.ranker.inputs import Batch
from mmrec.ranker.layers import StackedDropout, StackedLinear, StackedMLP

__all__ = ["Reducer", "VectorBlocks"]


class VectorBlocks(nn.Module):
    """Vector blocks side by side, each brought to mean zero and, on average, to length one.

    A block that is missing is zero, and the last columns say which are: a first layer's weight of such a
    column is what a learned "missing" vector would come to.

    Args:
        blocks: size of every block, by name.
    """

    def __init__(self, blocks: dict[str, int]) -> None:
        super().__init__()
        self.blocks = list(blocks)
        self.size = sum(blocks.values()) + len(blocks)
        for at, size in enumerate(blocks.values()):
            self.register_buffer(f"mean_{at}", torch.zeros(size))
            self.register_buffer(f"scale_{at}", torch.ones(()))

    def standardise(self, mean: dict[str, Tensor], deviation: dict[str, Tensor]) -> None:
        """Set the mean and the scale of each block."""
        for at, name in enumerate(self.blocks):
            self.get_buffer(f"mean_{at}").copy_(mean[name])
            # Unit length, so that hundreds of coordinates do not outrun the few numbers in training.
            length = float(deviation[name].square().sum().sqrt())
            self.get_buffer(f"scale_{at}").fill_(1 / max(length, 1e-4))

    def forward(self, batch: Batch) -> Tensor:
        """(B, size): every block, then an indicator of each that is missing."""
        return self.some(batch.vectors, batch.present)

    def some(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """The same of those blocks that are given: block -> (B, d), and (B, 1) by which it is weighed."""
        parts = [
            (vectors[name] - self.get_buffer(f"mean_{at}"))
            * (self.get_buffer(f"scale_{at}") * present[name])
            for at, name in enumerate(self.blocks)
            if name in vectors
        ]
        missing = [1 - present[name] for name in self.blocks if name in vectors]
        return torch.cat([*parts, *missing], dim=1)


class Reducer(nn.Module):
    """Words of one group to one reduced vector, for R runs.

    Trained alone, it predicts the outcome through `head`; its layer before that is the reduced feature.

    Args:
        runs: R.
        inputs: columns of `Words`.
        hidden_size: width of the first layer.
        embedding_size: size of the reduced vector (the paper's 32).
        dropout: of the first layer.
    """

    def __init__(
        self, runs: int, inputs: int, hidden_size: int, embedding_size: int, dropout: StackedDropout
    ) -> None:
        super().__init__()
        self.layers = StackedMLP(runs, [inputs, hidden_size, embedding_size], dropout)
        self.head = nn.Sequential(nn.ReLU(), StackedLinear(runs, embedding_size, 1))

    def forward(self, words: Tensor) -> Tensor:
        """(R, B, embedding_size) reduced vectors."""
        return self.layers(words)

    def predict_outcome(self, words: Tensor) -> Tensor:
        """(R, B) logits of the outcome, which the reducer is trained on when it is trained alone."""
        return self.head(self(words))[:, :, 0]
