"""The upstream MLP: what the words say of the outcome, in 32 numbers (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec.ranking.inputs import Batch

__all__ = ["Reducer"]

_START = 0.01


class Reducer(nn.Module):
    """Concatenated vector blocks to one reduced vector.

    A block that is missing is replaced by a vector that is learned. Trained alone, the reducer predicts
    the outcome through `head`; its hidden layer before that is the reduced feature.

    Args:
        blocks: size of every block, by name.
        hidden_size: width of the first layer.
        embedding_size: size of the reduced vector (the paper's 32).
        dropout: of the first layer.
    """

    def __init__(self, blocks: dict[str, int], hidden_size: int, embedding_size: int, dropout: float) -> None:
        super().__init__()
        self.blocks = list(blocks)
        self.missing = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in blocks.values()])
        for at, size in enumerate(blocks.values()):
            self.register_buffer(f"mean_{at}", torch.zeros(size))
            self.register_buffer(f"scale_{at}", torch.ones(size))
        last = nn.Linear(hidden_size, embedding_size)
        self.layers = nn.Sequential(
            nn.Linear(sum(blocks.values()), hidden_size), nn.ReLU(), nn.Dropout(dropout), last
        )
        # A ranker starts from its numbers alone: random words at full strength drown them, and cost .009
        # of ROC-AUC (docs/log.md).
        nn.init.normal_(last.weight, std=_START / hidden_size**0.5)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(embedding_size, 1))

    def standardise(self, mean: dict[str, Tensor], deviation: dict[str, Tensor]) -> None:
        """Set the mean and the scale that bring each block to mean zero and, on average, length one."""
        for at, name in enumerate(self.blocks):
            self.get_buffer(f"mean_{at}").copy_(mean[name])
            # Unit length, so that hundreds of coordinates do not outrun the few numbers in training.
            length = float(deviation[name].square().sum().sqrt())
            self.get_buffer(f"scale_{at}").fill_(1 / max(length, 1e-4))

    def forward(self, batch: Batch) -> Tensor:
        """(B, embedding_size) reduced vectors."""
        parts = []
        for at, name in enumerate(self.blocks):
            scaled = (batch.vectors[name] - self.get_buffer(f"mean_{at}")) * self.get_buffer(f"scale_{at}")
            parts.append(torch.where(batch.present[name] > 0, scaled, self.missing[at]))
        return self.layers(torch.cat(parts, dim=1))

    def outcome(self, batch: Batch) -> Tensor:
        """(B,) logit of the outcome, which the reducer is trained on when it is trained alone."""
        return self.head(self(batch))[:, 0]
