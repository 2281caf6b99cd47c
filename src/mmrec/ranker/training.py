"""Training R runs of a ranker as one program: the paper's two steps, or both at once.

All runs see the same rows in the same order; initial weights, dropout and class weights are each run's.
Each run keeps the weights of its best epoch, and leaves the stack when it has stopped improving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from mmrec.config import RankerConfig, TrainingConfig
from mmrec.console import track
from mmrec.ranker.dlrm import Ranker, Reducer, TrainingRun
from mmrec.ranker.inputs import Batch, ColdStartDropout, RankerInputs
from mmrec.ranker.layers import BestWeights, Shard
from mmrec.ranker.loss import row_losses, weighted_loss

__all__ = ["TrainingHistory", "TrainingTask", "predict_logits", "train_ranker"]

_CHUNK_ROWS = 8192
Predict = Callable[[Tensor], Tensor]
"""(R, B) logits of (B,) rows."""


@dataclass(frozen=True)
class TrainingTask:
    """Features of n rows, their (n,) bool labels (likes), and the rows to use."""

    inputs: RankerInputs
    label: np.ndarray
    train_rows: np.ndarray
    selection_rows: np.ndarray
    """Rows that select the epoch."""
    by_fpr: bool = False
    """Select by the false positive rate (the paper) rather than by the loss."""


@dataclass
class TrainingHistory:
    """Per epoch: the mean training loss, and the score that selects the epoch (higher is better)."""

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The selected epoch."""
        return int(np.argmax(self.score))


@torch.inference_mode()
def predict_logits(
    predict: Callable[[Batch], Tensor], inputs: RankerInputs, rows: np.ndarray
) -> np.ndarray:
    """(R, len(rows)) logits of rows, in chunks."""
    chunks = torch.split(torch.from_numpy(rows), _CHUNK_ROWS)
    return torch.cat([predict(inputs.row_batch(chunk)) for chunk in chunks], dim=1).numpy()


def train_ranker(
    ranker: Ranker,
    runs: Sequence[TrainingRun],
    task: TrainingTask,
    ranking: RankerConfig,
    training: TrainingConfig,
    seed: int,
    shard: Shard | None = None,
) -> dict[str, list[TrainingHistory]]:
    """Train a standardised stack in place; each run keeps the weights of its best epoch.

    Args:
        ranker, runs: the stack, initialised, and the settings of its runs.
        task: rows and labels, shared by all runs.
        ranking, training: settings.
        seed: of the order of rows, and of cold-start dropout.
        shard: rows of every batch that this process computes; by default all of them.

    Returns:
        The history of each step, by run: `ranker`, and in staged training each reducer before it.
    """
    weights = torch.tensor([run.class_weights for run in runs])
    stack = StackTrainer(ranker, task, training, weights, seed, shard or Shard())
    history: dict[str, list[TrainingHistory]] = {}
    if ranker.linear is not None:
        ranker.linear.requires_grad_(False)
    if ranking.reduction == "staged":
        for name, reducer in ranker.reducers.items():
            predict, step = partial(stack.predict_outcome, name), f"reducer {name}"
            patience = min(training.patience, 10)
            history[step] = stack.optimise([*reducer.parameters()], predict, step, patience)
        stack.freeze_reducers()
    learned = [parameter for parameter in ranker.parameters() if parameter.requires_grad]
    initial = [parameter.detach().clone() for parameter in learned]
    losses_before = stack.selection_losses(stack.score)
    history["ranker"] = stack.optimise(
        learned, stack.score, "ranker", training.patience, by_fpr=task.by_fpr
    )
    if ranker.linear is not None:
        # A correction stays where validation rows prove it: the gain (R, m) of a run is on average
        # over one standard error above zero.
        gain = losses_before - stack.selection_losses(stack.score)
        unproven = ~(gain.mean(1) > gain.std(1) / gain.shape[1] ** 0.5)
        for parameter, values in zip(learned, initial, strict=True):
            parameter.data[unproven] = values[unproven]
    ranker.eval()
    return history


class StackTrainer:
    """Runs that are trained as one: the state that all steps share, and the runs still in training.

    `weights` are the (R, 2) class weights of (dislike, like); for the rest see `train_ranker`.
    """

    cold_start_dropout: ColdStartDropout

    def __init__(
        self,
        ranker: Ranker,
        task: TrainingTask,
        config: TrainingConfig,
        weights: Tensor,
        seed: int,
        shard: Shard,
    ) -> None:
        self.ranker, self.task, self.config, self.weights = ranker, task, config, weights
        self.seed, self.step = seed, 0
        self.shard = ranker.dropout.shard = shard
        self.label = torch.from_numpy(task.label).to(weights.dtype)
        self.reducers_frozen = False
        self.reduced: list[Tensor] = []  # (R, n, embedding_size) of frozen reducers, where stored

    def _batch(self, rows: Tensor) -> Batch:
        source = self.cold_start_dropout if self.ranker.training else self.task.inputs
        return source.row_batch(rows)

    def predict_outcome(self, name: str, rows: Tensor) -> Tensor:
        """(R, B) logits of one reducer alone."""
        reducer = self.ranker.reducers[name]
        assert isinstance(reducer, Reducer)
        return reducer.predict_outcome(self.ranker.block_columns(self._batch(rows))[name])

    def score(self, rows: Tensor) -> Tensor:
        """(R, B) logits of the whole ranker."""
        ranker = self.ranker
        if self.reduced:
            has_linear = ranker.linear is not None
            batch = self.task.inputs.row_batch(rows, with_vectors=has_linear)
            columns = ranker.block_columns(batch) if has_linear else {}
            return ranker.score(batch, columns, [x.index_select(1, rows) for x in self.reduced])
        batch = self._batch(rows)
        if not self.reducers_frozen:
            return ranker(batch)
        columns, was_training = ranker.block_columns(batch), ranker.training
        ranker.dropout.eval()
        with torch.no_grad():
            reduced = ranker.reduce(columns)
        ranker.dropout.train(was_training)
        return ranker.score(batch, columns, reduced)

    @torch.no_grad()
    def freeze_reducers(self) -> None:
        """Leave reducers as they are; without cold-start dropout their output is stored by row."""
        self.reducers_frozen = True
        self.ranker.reducers.requires_grad_(False)
        if self.config.cold_start_dropout:
            return
        self.ranker.eval()
        chunks: list[list[Tensor]] = []
        for rows in torch.split(torch.arange(len(self.label)), _CHUNK_ROWS):
            chunks.append(self.ranker.reduce(self.ranker.block_columns(self._batch(rows))))
        self.reduced = [torch.cat(reduced, dim=1) for reduced in zip(*chunks, strict=True)]

    def optimise(
        self,
        learned: list[nn.Parameter],
        predict: Predict,
        title: str,
        patience: int,
        *,
        by_fpr: bool = False,
    ) -> list[TrainingHistory]:
        """One step of training: epochs until no run has improved for `patience` epochs.

        Only `learned` parameters change, to fit the logits of `predict`; `title` is that of the
        progress bar, and `by_fpr` selects the epoch by the false positive rate.
        """
        config, ranker = self.config, self.ranker
        all_reduced, all_weights = self.reduced, self.weights
        self.step += 1
        seed = np.random.SeedSequence([self.seed, self.step]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        self.cold_start_dropout = ColdStartDropout(
            self.task.inputs, config.cold_start_dropout, generator, self.shard
        )
        optimiser = torch.optim.AdamW(
            learned, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        best = BestWeights(ranker)
        histories = [TrainingHistory() for _ in self.weights]
        active = torch.arange(len(histories))  # (a,) runs still in training
        with track(title, config.epochs) as advance:
            for epoch in range(config.epochs):
                losses = self._train_epoch(optimiser, predict, generator)
                scores = self._selection_scores(predict, by_fpr=by_fpr)
                best_epoch = torch.empty_like(active)  # (a,)
                for index, run in enumerate(active.tolist()):
                    histories[run].loss.append(losses[index])
                    histories[run].score.append(scores[index])
                    best_epoch[index] = histories[run].best
                improved = (best_epoch == epoch) & torch.tensor(scores).isfinite()
                best.update(learned, active, improved)
                advance(1)
                staying = torch.nonzero(epoch - best_epoch < patience)[:, 0]
                if not len(staying):
                    advance(config.epochs - epoch - 1)
                    break
                if len(staying) < len(active):
                    active = active[staying]
                    self.keep_runs(staying, optimiser)
        best.restore()
        ranker.dropout.restart(self.step)
        self.reduced, self.weights = all_reduced, all_weights
        return histories

    def _train_epoch(
        self, optimiser: torch.optim.Optimizer, predict: Predict, generator: torch.Generator
    ) -> list[float]:
        """Learn the optimiser's parameters once from every training row; (R) mean losses."""
        learned: list[nn.Parameter] = optimiser.param_groups[0]["params"]
        self.ranker.train()
        rows = torch.from_numpy(self.task.train_rows)
        order = rows[torch.randperm(len(rows), generator=generator)]
        batches = torch.split(order, self.config.batch_size)
        total = torch.zeros(len(self.weights))  # (R,)
        for batch in batches:
            optimiser.zero_grad()
            local = self.shard.local_rows(batch)
            # Divided by the weights of the whole batch, so the sum over shards is the batch's loss.
            loss = weighted_loss(predict(local), self.label[local], self.weights, self.label[batch])
            # Runs share no weights, so the gradient of the sum is each run's own.
            loss.sum().backward()  # type: ignore[no-untyped-call]
            self.shard.all_reduce([x.grad for x in learned if x.grad is not None])
            optimiser.step()
            total += loss.detach()
        self.shard.all_reduce([total])
        return (total / len(batches)).tolist()

    def _selection_logits(self, predict: Predict) -> Tensor:
        """(R, m) logits of the rows that select the epoch; each process computes its shard of them."""
        self.ranker.eval()
        local = self.shard.local_rows(torch.from_numpy(self.task.selection_rows))
        logits = torch.cat([predict(chunk) for chunk in torch.split(local, _CHUNK_ROWS)], dim=1)
        start, count = self.shard.position(len(local))
        all_logits = logits.new_zeros(len(logits), count)
        all_logits[:, start : start + len(local)] = logits
        self.shard.all_reduce([all_logits])
        return all_logits

    @torch.no_grad()
    def selection_losses(self, predict: Predict) -> Tensor:
        """(R, m) weighted cross entropy of the rows that select the epoch."""
        label = self.label[self.task.selection_rows]
        return row_losses(self._selection_logits(predict), label, self.weights)

    @torch.no_grad()
    def _selection_scores(self, predict: Predict, *, by_fpr: bool) -> list[float]:
        """(R) scores, higher is better: minus the loss, or (the paper) minus the false positive rate.

        -inf for a run that has diverged: it keeps an earlier epoch, or its initial weights.
        """
        logits = self._selection_logits(predict)
        finite = logits.isfinite().all(1)
        if not by_fpr:
            # Not ROC-AUC, which on a few hundred rows is mostly chance.
            losses = weighted_loss(logits, self.label[self.task.selection_rows], self.weights)
            return torch.where(finite, -losses, -torch.inf).tolist()
        label = self.task.label[self.task.selection_rows]
        scores = np.full(len(logits), -np.inf)
        for run in np.flatnonzero(finite.numpy()):
            logit = logits[run].numpy()
            false_positive_rate = float(np.mean(logit[~label] >= 0))
            # Rates of 0, where nothing is recommended, are common; the order of the rows breaks ties.
            scores[run] = 1e-6 * float(roc_auc_score(label, logit)) - false_positive_rate
        return scores.tolist()

    def keep_runs(self, runs: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Continue with some of the runs, in this order."""
        self.ranker.keep_runs(runs)
        for state in optimiser.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name][runs]
        self.weights = self.weights[runs]
        self.reduced = [table[runs] for table in self.reduced]
