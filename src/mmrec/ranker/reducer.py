"""The upstream MLP: from vectors of text and photos to 32 numbers about the rating (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec.ranker.inputs import Batch, InputMoments
from mmrec.ranker.layers import StackedDropout, StackedLinear, StackedMLP

__all__ = ["Reducer", "VectorBlocks"]


class VectorBlocks(nn.Module):
    """Vector blocks side by side, each brought to mean zero and, on average, to length one.

    A missing block is zero, and the last columns indicate which blocks are missing: the first layer's
    weights of these columns amount to a learned vector for missing blocks.

    Args:
        sizes: width of every block, by name.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
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

    Args:
        runs: R.
        inputs: columns of `VectorBlocks`.
        hidden_size: width of the first layer.
        embedding_size: size of the reduced vector (32 in the paper).
        dropout: of the first layer.
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
