"""Training R runs of a ranker as one program: the paper's two steps, or both at once.

All runs see the same rows in the same order; initial weights, dropout and class weights are each run's own.
Each run keeps the weights of its own best epoch, and leaves the stack when it has not improved for long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from mmrec.config import RankerConfig, TrainingConfig
from mmrec.console import track
from mmrec.ranker.dlrm import Ranker, TrainingRun
from mmrec.ranker.inputs import Batch, ColdStartDropout, RankerInputs
from mmrec.ranker.layers import StackedLinear
from mmrec.ranker.reducer import Reducer
from mmrec.ranker.shard import Shard

__all__ = ["TrainingHistory", "TrainingTask", "predict_logits", "train_ranker", "weighted_loss"]

_ROWS_AT_ONCE = 8192
_REDUCER_PATIENCE = 10


@dataclass(frozen=True)
class TrainingTask:
    """What is learned from which rows.

    Attributes:
        inputs: features of all rows.
        label: (n,) bool, whether the row is a like.
        train_rows, selection_rows: rows to learn from, and rows that choose the epoch.
        by_fpr: choose by the false positive rate (the paper) rather than by the loss.
    """

    inputs: RankerInputs
    label: np.ndarray
    train_rows: np.ndarray
    selection_rows: np.ndarray
    by_fpr: bool = False


@dataclass
class TrainingHistory:
    """Per epoch: the mean loss on train, and the figure that chooses the epoch (higher is better)."""

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The chosen epoch."""
        return int(np.argmax(self.score))


def weighted_loss(
    logit: Tensor, label: Tensor, weights: Tensor, batch_label: Tensor | None = None
) -> Tensor:
    """Weighted binary cross entropy of each run, divided by the sum of the weights (paper, section 3.4).

    Args:
        logit: (R, B).
        label: (B,) 0 or 1.
        weights: (R, 2) of (dislike, like).
        batch_label: labels of all rows of a batch of which these are a share; its weights are the divisor.

    Returns:
        (R,) losses.
    """
    weight = _of_class(label, weights)
    entropy = functional.binary_cross_entropy_with_logits(
        logit, label.expand_as(logit), reduction="none"
    )
    divisor = weight if batch_label is None else _of_class(batch_label, weights)
    return (weight * entropy).sum(1) / divisor.sum(1)


def _of_class(label: Tensor, weights: Tensor) -> Tensor:
    """(R, B) weights of rows."""
    return torch.where(label > 0, weights[:, 1:], weights[:, :1])


@torch.inference_mode()
def predict_logits(
    predict: Callable[[Batch], Tensor], inputs: RankerInputs, rows: np.ndarray
) -> np.ndarray:
    """(R, len(rows)) logits of rows, some thousand at a time."""
    parts = torch.split(torch.from_numpy(rows), _ROWS_AT_ONCE)
    return torch.cat([predict(inputs.row_batch(part)) for part in parts], dim=1).numpy()


def train_ranker(
    ranker: Ranker,
    runs: Sequence[TrainingRun],
    task: TrainingTask,
    ranking: RankerConfig,
    training: TrainingConfig,
    seed: int,
    shard: Shard | None = None,
) -> dict[str, list[TrainingHistory]]:
    """Train in place and leave each run with the weights of its best epoch.

    Args:
        ranker: a stack of as many runs, initialised and standardised.
        runs: what sets them apart.
        task: rows and labels, shared by all runs.
        ranking, training: how.
        seed: of the order of rows, and of what is hidden.
        shard: of this process in every batch; by default all of it.

    Returns:
        The course of each step, by run: `ranker`, and in staged training each reducer before it.
    """
    weights = torch.tensor([run.class_weights for run in runs])
    stack = StackTrainer(ranker, task, training, weights, seed, shard or Shard())
    course: dict[str, list[TrainingHistory]] = {}
    if ranker.linear is not None:
        ranker.linear.requires_grad_(False)
    learned = [parameter for parameter in ranker.parameters() if parameter.requires_grad]
    if ranking.reduction == "staged":
        for name, reducer in ranker.reducers.items():
            own = list(reducer.parameters())
            course[f"reducer {name}"] = stack.optimise(
                own, partial(stack.outcome, name), f"reducing {name}"
            )
        frozen = {id(parameter) for parameter in ranker.reducers.parameters()}
        learned = [parameter for parameter in learned if id(parameter) not in frozen]
        stack.freeze()
    start = [parameter.detach().clone() for parameter in learned]
    before = stack.losses(stack.rank)
    course["ranker"] = stack.optimise(learned, stack.rank, "ranking", final=True)
    if ranker.linear is not None:
        worse = ~_proven(before - stack.losses(stack.rank))
        for parameter, values in zip(learned, start, strict=True):
            parameter.data[worse] = values[worse]
    ranker.eval()
    return course


def _proven(gain: Tensor) -> Tensor:
    """(R,) whether (R, m) gains on rows of valid are more than one standard error above zero."""
    return gain.mean(1) > gain.std(1) / gain.shape[1] ** 0.5


class StackTrainer:
    """Runs that are trained as one: what all steps share, and the runs that are still in it."""

    def __init__(
        self,
        ranker: Ranker,
        task: TrainingTask,
        config: TrainingConfig,
        weights: Tensor,
        seed: int,
        share: Shard,
    ) -> None:
        self.ranker, self.task, self.config = ranker, task, config
        self.all_weights = self.weights = weights
        self.seed, self.step = seed, 0
        self.shard = ranker.dropout.shard = share
        self.label = torch.from_numpy(task.label).to(weights.dtype)
        self.frozen = False
        self.reduced: list[Tensor] = []

    def batch(self, rows: Tensor) -> Batch:
        return (self.cold_start_dropout if self.ranker.training else self.task.inputs).row_batch(
            rows
        )

    def outcome(self, name: str, rows: Tensor) -> Tensor:
        """What a reducer alone makes of rows."""
        reducer = self.ranker.reducers[name]
        assert isinstance(reducer, Reducer)
        return reducer.predict_outcome(self.ranker.block_columns(self.batch(rows))[name])

    def rank(self, rows: Tensor) -> Tensor:
        """What the whole ranker makes of rows."""
        if self.reduced:
            batch = self.task.inputs.row_batch(rows, vectors=self.ranker.linear is not None)
            words = self.ranker.block_columns(batch) if self.ranker.linear is not None else {}
            return self.ranker.score(
                batch, words, [table.index_select(1, rows) for table in self.reduced]
            )
        batch = self.batch(rows)
        if not self.frozen:
            return self.ranker(batch)
        words = self.ranker.block_columns(batch)
        training = self.ranker.training
        self.ranker.dropout.eval()
        with torch.no_grad():
            reduced = self.ranker.reduce(words)
        self.ranker.dropout.train(training)
        return self.ranker.score(batch, words, reduced)

    @torch.no_grad()
    def freeze(self) -> None:
        """From now on reducers stay as they are; where nothing is hidden, their answers are kept by row."""
        self.frozen = True
        if not self.config.cold_start_dropout:
            self.ranker.eval()
            rows = torch.split(torch.arange(len(self.label)), _ROWS_AT_ONCE)
            parts = [
                self.ranker.reduce(self.ranker.block_columns(self.batch(part))) for part in rows
            ]
            self.reduced = [torch.cat(own, dim=1) for own in zip(*parts, strict=True)]

    def optimise(
        self,
        learned: list[nn.Parameter],
        predict: Callable[[Tensor], Tensor],
        what: str,
        *,
        final: bool = False,
    ) -> list[TrainingHistory]:
        """One step of training: all runs until the last of them has stopped."""
        config, ranker = self.config, self.ranker
        self.step += 1
        seed = np.random.SeedSequence([self.seed, self.step]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        self.cold_start_dropout = ColdStartDropout(
            self.task.inputs, config.cold_start_dropout, generator, self.shard
        )
        optimiser = torch.optim.AdamW(
            learned, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        kept = {parameter: parameter.detach().clone() for parameter in ranker.parameters()}
        heard = [
            (layer, layer.input_mask)
            for layer in ranker.modules()
            if isinstance(layer, StackedLinear)
        ]
        tables, self.weights = self.reduced, self.all_weights
        histories = [TrainingHistory() for _ in self.weights]
        alive = torch.arange(len(histories))
        patience = config.patience if final else min(config.patience, _REDUCER_PATIENCE)
        with track(what, config.epochs) as advance:
            for epoch in range(config.epochs):
                losses = self._epoch(learned, optimiser, predict, generator)
                scores = self._scores(predict, by_fpr=self.task.by_fpr and final)
                for run, loss, score in zip(alive.tolist(), losses, scores, strict=True):
                    histories[run].loss.append(loss)
                    histories[run].score.append(score)
                best = torch.tensor([histories[run].best for run in alive.tolist()])
                better = (best == epoch) & torch.tensor(scores).isfinite()
                for parameter in learned:
                    kept[parameter][alive[better]] = parameter.detach()[better]
                advance(1)
                stay = torch.nonzero(epoch - best < patience)[:, 0]
                if not len(stay):
                    advance(config.epochs - epoch - 1)
                    break
                if len(stay) < len(alive):
                    alive = alive[stay]
                    self.keep_runs(stay, optimiser)
        for parameter, values in kept.items():
            parameter.data, parameter.grad = values, None
        for layer, mask in heard:
            layer.input_mask = mask
        ranker.dropout.restart(self.step)
        self.reduced, self.weights = tables, self.all_weights
        return histories

    def _epoch(
        self,
        learned: list[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        predict: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> list[float]:
        """Learn once from every training row; (R) mean losses."""
        self.ranker.train()
        rows = torch.from_numpy(self.task.train_rows)
        total = torch.zeros(len(self.weights))
        parts = torch.split(
            rows[torch.randperm(len(rows), generator=generator)], self.config.batch_size
        )
        for part in parts:
            optimiser.zero_grad()
            own = self.shard.local_rows(part)
            loss = weighted_loss(predict(own), self.label[own], self.weights, self.label[part])
            loss.sum().backward()  # type: ignore[no-untyped-call]
            self.shard.all_reduce([one.grad for one in learned if one.grad is not None])
            optimiser.step()
            total += loss.detach()
        self.shard.all_reduce([total])
        return (total / len(parts)).tolist()

    def _answers(self, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """(R, m) what is made of the rows that choose the epoch, each row by whose share it is."""
        self.ranker.eval()
        own = self.shard.local_rows(torch.from_numpy(self.task.selection_rows))
        answers = torch.cat([predict(part) for part in torch.split(own, _ROWS_AT_ONCE)], dim=1)
        start, rows = self.shard.position(len(own))
        whole = answers.new_zeros(len(answers), rows)
        whole[:, start : start + len(own)] = answers
        self.shard.all_reduce([whole])
        return whole

    @torch.no_grad()
    def losses(self, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """(R, m) weighted cross entropy of the rows that choose the epoch."""
        answers = self._answers(predict)
        label = self.label[self.task.selection_rows].expand_as(answers)
        entropy = functional.binary_cross_entropy_with_logits(answers, label, reduction="none")
        return _of_class(label, self.weights) * entropy

    @torch.no_grad()
    def _scores(self, predict: Callable[[Tensor], Tensor], *, by_fpr: bool) -> list[float]:
        """Higher is better: minus the loss on valid, or (the paper) minus the false positive rate on test.

        -inf for a run that has diverged: it keeps an earlier epoch, or the weights that it began with.
        """
        answers = self._answers(predict)
        sound = answers.isfinite().all(1)
        if not by_fpr:
            # Not ROC-AUC, which on a few hundred rows is mostly luck.
            losses = weighted_loss(answers, self.label[self.task.selection_rows], self.weights)
            return torch.where(sound, -losses, -torch.inf).tolist()
        label = self.task.label[self.task.selection_rows]
        # Ties are common at 0, where nothing is recommended; the better order of rows breaks them.
        return [
            1e-6 * float(roc_auc_score(label, own)) - float(np.mean(own[~label] >= 0))
            if fine
            else -np.inf
            for own, fine in zip(answers.numpy(), sound.tolist(), strict=True)
        ]

    def keep_runs(self, runs: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Take the runs that have stopped out of the stack."""
        self.ranker.keep_runs(runs)
        for state in optimiser.state.values():
            state.update({name: state[name][runs] for name in ("exp_avg", "exp_avg_sq")})
        self.weights = self.weights[runs]
        self.reduced = [table[runs] for table in self.reduced]
