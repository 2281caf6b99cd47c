"""The weighted cross entropy that rankers are trained with (paper, section 3.4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["class_weights", "remove_class_weights", "row_losses", "weighted_loss"]


def class_weights(label: np.ndarray, loss: str) -> tuple[float, float]:
    """Weights of (dislike, like), normalised to sum to one (paper, section 3.4).

    Args:
        label: (n,) bool of the training rows.
        loss: `plain`: equal; `basic`: w_c = 1 - n_c / n; `sqrt`: w_c = sqrt(1 - n_c / n).
    """
    like = float(np.mean(label))
    shares = {
        "plain": (1.0, 1.0),
        "basic": (like, 1 - like),
        "sqrt": (like**0.5, (1 - like) ** 0.5),
    }
    dislike_weight, like_weight = shares[loss]
    total = dislike_weight + like_weight
    return dislike_weight / total, like_weight / total


def remove_class_weights(logit: np.ndarray, weights: tuple[float, float]) -> np.ndarray:
    """Probability of a like from logits of a model trained with weights of (dislike, like).

    The weighted cross entropy is least at odds q / (1 - q) = w_like p / (w_dislike (1 - p)), so the
    logarithm of w_dislike / w_like is added to the logit.
    """
    shift = np.log(weights[0] / weights[1])
    return np.asarray(1 / (1 + np.exp(-(logit + shift))))


def row_losses(logit: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """(R, B) weighted cross entropy of (R, B) logits; see `weighted_loss`."""
    entropy = functional.binary_cross_entropy_with_logits(
        logit, label.expand_as(logit), reduction="none"
    )
    return _row_weights(label, weights) * entropy


def weighted_loss(
    logit: Tensor, label: Tensor, weights: Tensor, batch_label: Tensor | None = None
) -> Tensor:
    """(R,) cross entropy of (R, B) logits, divided by the sum of the weights (paper, section 3.4).

    Args:
        label: (B,) 0 or 1.
        weights: (R, 2) of (dislike, like).
        batch_label: labels of the whole batch, whose weights are the divisor, where the B rows are
            those of one shard.
    """
    divisor = _row_weights(label if batch_label is None else batch_label, weights).sum(1)
    return row_losses(logit, label, weights).sum(1) / divisor


def _row_weights(label: Tensor, weights: Tensor) -> Tensor:
    """(R, B) weights of (B,) labels."""
    return torch.where(label > 0, weights[:, 1:], weights[:, :1])
