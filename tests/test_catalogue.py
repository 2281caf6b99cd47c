"""All items at once are what they are one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec.ranker.dlrm import Ranker, TrainingRun
from mmrec.ranker.item_scores import ItemScores
from mmrec.ranker.training import TrainingTask
from toys import ranker_of, toy

EQUAL = (0.5, 0.5)


def random_ranker(task: TrainingTask, runs: int, *, linear: bool) -> Ranker:
    """A ranker in which every weight matters."""
    ranker = ranker_of(task, [TrainingRun(seed, 0.3, EQUAL) for seed in range(runs)], linear=linear)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return ranker.eval()


def one_by_one(ranker: Ranker, task: TrainingTask, user: int) -> np.ndarray:
    items = torch.arange(task.inputs.item.unknown_index)
    with torch.inference_mode():
        return ranker(task.inputs.view_batch(torch.full_like(items, user), items)).mean(0).numpy()


@pytest.mark.parametrize("tastes", [0, 3])
@pytest.mark.parametrize(("runs", "linear"), [(1, False), (3, True)])
def test_all_items_are_scored_as_one_by_one(runs: int, linear: bool, tastes: int) -> None:
    task = toy(tastes=tastes)
    ranker = random_ranker(task, runs, linear=linear)
    catalogue = ItemScores(ranker, task.inputs)
    for user in (0, 7, task.inputs.user.unknown_index):
        expected = one_by_one(ranker, task, user)
        assert np.ptp(expected) > 0.1
        assert catalogue.logits(task.inputs, user) == pytest.approx(expected, abs=1e-4)
        some = torch.tensor([4, 2, 2])
        assert catalogue.logits(task.inputs, user, some) == pytest.approx(expected[some], abs=1e-4)
    assert catalogue.logits(task.inputs, 0, torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("silent", [[0], [0, 1, 2]])
def test_runs_that_were_not_proven_are_left_out(silent: list[int]) -> None:
    task = toy(tastes=3)
    ranker = random_ranker(task, 3, linear=True)
    with torch.no_grad():
        for parameter in ranker.top[-1].parameters():
            parameter[silent] = 0
    with torch.no_grad():  # the linear part is the same in all runs
        for parameter in ranker.linear.parameters():  # type: ignore[union-attr]
            parameter.copy_(parameter[:1].expand_as(parameter))
    expected = one_by_one(ranker, task, 5)
    assert ItemScores(ranker, task.inputs).logits(task.inputs, 5) == pytest.approx(expected, abs=1e-4)
