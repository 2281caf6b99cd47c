"""Training a ranker: the paper's two steps, or both at once; the best epoch by validation, or its way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from mmrec.config import RankerConfig, TrainingConfig
from mmrec.progress import track
from mmrec.ranking.dlrm import Ranker
from mmrec.ranking.inputs import Batch, Forget, Inputs
from mmrec.ranking.reducer import Reducer

__all__ = ["History", "Task", "logits", "train", "weighted_loss"]

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Task:
    """What is learned from which rows.

    Attributes:
        inputs: features of all rows.
        label: (n,) bool, whether the row is a like.
        weights: of (dislike, like) in the loss.
        train, select: rows to learn from, and rows that choose the epoch.
        by_fpr: choose by the false positive rate (the paper) rather than by the loss.
    """

    inputs: Inputs
    label: np.ndarray
    weights: tuple[float, float]
    train: np.ndarray
    select: np.ndarray
    by_fpr: bool = False


@dataclass
class History:
    """Per epoch: the mean loss on train, and the figure that chooses the epoch (higher is better)."""

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The chosen epoch."""
        return int(np.argmax(self.score))


def weighted_loss(logit: Tensor, label: Tensor, weights: tuple[float, float]) -> Tensor:
    """Weighted binary cross entropy, divided by the sum of the weights (paper, section 3.4).

    Args:
        logit: (B,).
        label: (B,) 0 or 1.
        weights: of (dislike, like).
    """
    weight = torch.where(label > 0, weights[1], weights[0])
    entropy = functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return (weight * entropy).sum() / weight.sum()


@torch.inference_mode()
def logits(predict: Callable[[Batch], Tensor], inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """(len(rows),) logits of rows, some thousand at a time."""
    parts = torch.split(torch.from_numpy(rows), _ROWS_AT_ONCE)
    return torch.cat([predict(inputs.rows(part)) for part in parts]).numpy()


def train(
    ranker: Ranker, task: Task, ranking: RankerConfig, training: TrainingConfig, generator: torch.Generator
) -> dict[str, History]:
    """Train in place and leave the best epoch's weights.

    Returns:
        The course of each step: `ranker`, and in staged training each reducer before it.
    """
    ranker.standardise(task.inputs, task.train)
    course = {}
    learned: list[nn.Module] = [ranker]
    if ranking.reduction == "staged":
        for name, reducer in ranker.reducers.items():
            assert isinstance(reducer, Reducer)
            step = _Step([reducer], reducer.outcome)
            course[f"reducer {name}"] = _optimise(step, task, training, generator, f"reducing {name}")
        ranker.reducers.requires_grad_(False)
        learned = [part for name, part in ranker.named_children() if name != "reducers"]
    course["ranker"] = _optimise(_Step(learned, ranker), task, training, generator, "ranking")
    ranker.eval()
    return course


@dataclass(frozen=True)
class _Step:
    modules: list[nn.Module]
    predict: Callable[[Batch], Tensor]

    def set_training(self, mode: bool) -> None:
        for module in self.modules:
            module.train(mode)

    def state(self) -> list[dict[str, Tensor]]:
        return [copy.deepcopy(module.state_dict()) for module in self.modules]


def _optimise(
    step: _Step, task: Task, config: TrainingConfig, generator: torch.Generator, what: str
) -> History:
    parameters = [p for module in step.modules for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    label = torch.from_numpy(task.label.astype(np.float32))
    rows = torch.from_numpy(task.train)
    forget = Forget(task.inputs, config.forget, generator)
    history, best = History(), step.state()
    with track(what, config.epochs) as advance:
        for epoch in range(config.epochs):
            step.set_training(True)
            losses = []
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            for part in torch.split(shuffled, config.batch_size):
                optimiser.zero_grad()
                loss = weighted_loss(step.predict(forget.rows(part)), label[part], task.weights)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                losses.append(loss.item())
            step.set_training(False)
            history.loss.append(float(np.mean(losses)))
            history.score.append(_score(step.predict, task))
            advance(1)
            if history.best == epoch:
                best = step.state()
            elif epoch - history.best >= config.patience:
                advance(config.epochs - epoch - 1)
                break
    for module, state in zip(step.modules, best, strict=True):
        module.load_state_dict(state)
    return history


def _score(predict: Callable[[Batch], Tensor], task: Task) -> float:
    """Higher is better: minus the loss on valid, or (the paper) minus the false positive rate on test."""
    answers, label = logits(predict, task.inputs, task.select), task.label[task.select]
    if task.by_fpr:
        # Ties are common at 0, where nothing is recommended; the better order of rows breaks them.
        return 1e-6 * float(roc_auc_score(label, answers)) - float(np.mean(answers[~label] >= 0))
    # Not ROC-AUC, which on a few hundred rows is mostly luck.
    target = torch.from_numpy(label.astype(np.float32))
    return -weighted_loss(torch.from_numpy(answers), target, task.weights).item()
