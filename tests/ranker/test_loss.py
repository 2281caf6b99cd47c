"""Class weights and the weighted cross entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmrec.evaluation.metrics import reweighted
from mmrec.pipeline import TrainedModel
from mmrec.ranker.loss import class_weights
from mmrec.ranker.training import weighted_loss

EQUAL = (0.5, 0.5)


def test_weighted_loss_by_hand() -> None:
    logit, label = torch.tensor([0.0, np.log(3.0), -np.log(4.0)]), torch.tensor([1.0, 0.0, 0.0])
    # Entropies log 2, log 4, log 5/4 at weights .2, .8, .8.
    expected = (0.2 * np.log(2) + 0.8 * np.log(4) + 0.8 * np.log(1.25)) / 1.8
    weights = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    plain = (np.log(2) + np.log(4) + np.log(1.25)) / 3
    loss = weighted_loss(logit.float().expand(2, 3), label, weights)
    assert loss.tolist() == pytest.approx([expected, plain])


def test_weighted_loss_is_the_weighted_cross_entropy_of_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    weights = torch.tensor([EQUAL, (0.83, 0.17), (0.3, 0.9)])
    logit = torch.randn(3, 50, generator=rng) * 4
    label = (torch.rand(50, generator=rng) < 0.7).float()
    two = torch.stack([torch.zeros(3, 50), logit], dim=2)
    theirs = [
        functional.cross_entropy(one, label.long(), weight=weight).item()
        for one, weight in zip(two, weights, strict=True)
    ]
    assert weighted_loss(logit, label, weights).tolist() == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("loss", ["plain", "basic", "sqrt"])
@pytest.mark.parametrize("p", [0.02, 0.5, 0.85])
def test_probabilities_undo_the_class_weights(loss: str, p: float) -> None:
    weights = class_weights(np.arange(100) < 83, loss)
    logit = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([logit], max_iter=100, tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        entropy = (
            functional.softplus(-logit) * p * weights[1] + functional.softplus(logit) * (1 - p) * weights[0]
        )
        entropy.sum().backward()
        return entropy.sum()

    optimiser.step(closure)
    model = TrainedModel(builder=None, ranker=None, class_weights=weights, history={})  # type: ignore[arg-type]
    best = logit.detach().numpy()
    assert model.probability(best[None]) == pytest.approx([p], abs=2e-3)
    assert 1 / (1 + np.exp(-best)) == pytest.approx(reweighted(np.array([p]), weights), abs=2e-3)
