"""Training R runs of a ranker as one program: the paper's two steps, or both at once.

All runs see the same rows in the same order; initial weights, dropout and class weights are each run's.
Each run keeps the weights of its best epoch, and leaves the stack when it has stopped improving.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmrec.config import TrainingConfig
from mmrec.console import track
from mmrec.ranker.dlrm import Ranker
from mmrec.ranker.inputs import ColdStartDropout, RankerInputs, Shard, TrainingRun, TrainingTask

_CHUNK_ROWS = 8192
Predict = Callable[[Tensor], Tensor]  # (R, B) logits of (B,) rows


@dataclass
class TrainingHistory:
    """Per epoch: the mean training loss, and the score that selects the epoch (higher is better)."""

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The selected epoch."""
        return int(np.argmax(self.score))


def class_weights(label: np.ndarray, loss: str) -> tuple[float, float]:
    """Weights of (dislike, like) that sum to one (paper, section 3.4), from (n,) bool labels: equal in
    the loss `plain`; in proportion to w_c = 1 - n_c / n in `basic`, and to sqrt(w_c) in `sqrt`."""
    like = float(np.mean(label))
    power = {"plain": 0.0, "basic": 1.0, "sqrt": 0.5}[loss]
    dislike_weight, like_weight = like**power, (1 - like) ** power
    total = dislike_weight + like_weight
    return dislike_weight / total, like_weight / total


def remove_class_weights(logit: np.ndarray, weights: tuple[float, float]) -> np.ndarray:
    """Probability of a like from logits of a model trained with weights of (dislike, like).

    The weighted cross entropy is least at odds q / (1 - q) = w_like p / (w_dislike (1 - p)), so the
    logarithm of w_dislike / w_like is added to the logit.
    """
    shift = np.log(weights[0] / weights[1])
    return np.asarray(1 / (1 + np.exp(-(logit + shift))))


def _row_weights(label: Tensor, weights: Tensor) -> Tensor:
    """(R, B) weights of (B,) labels."""
    return torch.where(label > 0, weights[:, 1:], weights[:, :1])


def _row_losses(logit: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """(R, B) weighted cross entropy of (R, B) logits."""
    entropy = functional.binary_cross_entropy_with_logits
    return _row_weights(label, weights) * entropy(logit, label.expand_as(logit), reduction="none")


def weighted_loss(
    logit: Tensor, label: Tensor, weights: Tensor, batch_label: Tensor | None = None
) -> Tensor:
    """(R,) cross entropy of (R, B) logits of (B,) 0/1 labels, by (R, 2) weights of (dislike, like),
    divided by their sum (paper, section 3.4), over `batch_label` in a shard."""
    divisor = _row_weights(label if batch_label is None else batch_label, weights).sum(1)
    return _row_losses(logit, label, weights).sum(1) / divisor


@torch.inference_mode()
def predict_logits(ranker: Ranker, inputs: RankerInputs, rows: np.ndarray) -> np.ndarray:
    """(R, len(rows)) logits of rows, in chunks."""
    batches = map(inputs.row_batch, torch.split(torch.from_numpy(rows), _CHUNK_ROWS))
    return torch.cat([*map(ranker, batches)], dim=1).numpy()


@dataclass
class StackTrainer:
    """Trains a standardised stack in place: what all steps share, and the runs still in training."""

    ranker: Ranker
    runs: Sequence[TrainingRun]
    task: TrainingTask
    config: TrainingConfig
    seed: int  # of the order of rows, and of cold-start dropout
    # The rows of a batch that this process computes.
    shard: Shard = field(default_factory=Shard)

    def __post_init__(self) -> None:
        self.ranker.dropout.shard = self.shard
        self.weights = torch.tensor([run.class_weights for run in self.runs])  # (R, 2)
        self.label = torch.from_numpy(self.task.label).to(self.weights.dtype)
        self.reducers_frozen = False
        self._reduced: list[Tensor] = []  # (R, n, embedding_size) of frozen reducers
        self._step = 0

    def train(self, reduction: str) -> dict[str, list[TrainingHistory]]:
        """Train all runs, with `staged` or `joint` reduction, and keep the weights of best epochs; the
        histories by step: `ranker`, and in staged training each reducer before it."""
        ranker, history = self.ranker, {}
        if ranker.linear is not None:
            ranker.linear.requires_grad_(False)
        if reduction == "staged":
            for name, reducer in ranker.reducers.items():
                predict, step = partial(self.predict_outcome, name), f"reducer {name}"
                patience = min(self.config.patience, 10)
                history[step] = self.optimise(reducer.parameters(), predict, step, patience)
            self.freeze_reducers()
        learned = [parameter for parameter in ranker.parameters() if parameter.requires_grad]
        initial = [parameter.detach().clone() for parameter in learned]
        before = _row_losses(*self._selection_logits(self.score), self.weights)  # (R, m)
        history["ranker"] = self.optimise(learned, self.score, "ranker", self.config.patience)
        if ranker.linear is not None:
            # A correction stays if its mean gain on validation rows is above one standard error.
            gain = before - _row_losses(*self._selection_logits(self.score), self.weights)
            unproven = ~(gain.mean(1) > gain.std(1) / gain.shape[1] ** 0.5)
            for parameter, values in zip(learned, initial, strict=True):
                parameter.data[unproven] = values[unproven]
        ranker.eval()
        return history

    def predict_outcome(self, name: str, rows: Tensor) -> Tensor:
        """(R, B) logits of a like by one reducer alone."""
        ranker, reducer = self.ranker, self.ranker.reducers[name]
        blocks = ranker.shape.groups[name]
        drop = self.cold_start if ranker.training else None
        batch = self.task.inputs.row_batch(rows, drop)
        columns = ranker.standardiser.block_columns(batch, blocks)
        return reducer.head(reducer.layers(columns, ranker.dropout).relu())[:, :, 0]

    def score(self, rows: Tensor) -> Tensor:
        """(R, B) logits of the whole ranker."""
        ranker = self.ranker
        if self._reduced:
            has_linear = ranker.linear is not None
            batch = self.task.inputs.row_batch(rows, with_vectors=has_linear)
            reduced = [table.index_select(1, rows) for table in self._reduced]
            return ranker.score(ranker.columns(batch), reduced)
        drop = self.cold_start if ranker.training else None
        columns = ranker.columns(self.task.inputs.row_batch(rows, drop))
        dropout = None if self.reducers_frozen else ranker.dropout
        return ranker.score(columns, ranker.reduce(columns, dropout))

    @torch.no_grad()
    def freeze_reducers(self) -> None:
        """Leave reducers as they are; without cold-start dropout their output is stored by row."""
        self.reducers_frozen = True
        for reducer in self.ranker.reducers.values():
            reducer.requires_grad_(False)
        if self.config.cold_start_dropout:
            return
        self.ranker.eval()
        chunks: list[list[Tensor]] = []
        for rows in torch.split(torch.arange(len(self.label)), _CHUNK_ROWS):
            columns = self.ranker.columns(self.task.inputs.row_batch(rows))
            chunks.append(self.ranker.reduce(columns, dropout=None))
        self._reduced = [torch.cat(reduced, dim=1) for reduced in zip(*chunks, strict=True)]

    def optimise(
        self, parameters: Iterable[nn.Parameter], predict: Predict, title: str, patience: int
    ) -> list[TrainingHistory]:
        """One step: fit `predict` by changing the `parameters` alone, until no run has improved for
        `patience` epochs."""
        config, ranker, learned = self.config, self.ranker, list(parameters)
        all_reduced, all_weights = self._reduced, self.weights
        self._step += 1
        seed = np.random.SeedSequence([self.seed, self._step]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        self.cold_start = ColdStartDropout(config.cold_start_dropout, generator, self.shard)
        optimiser = torch.optim.AdamW(
            learned, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        # Of all runs, to be restored at the end: weights of the best epoch, and masks.
        best = {parameter: parameter.detach().clone() for parameter in ranker.parameters()}
        masks = [(layer, layer.input_mask) for layer in ranker.stacked_layers()]
        histories = [TrainingHistory() for _ in self.weights]
        active = torch.arange(len(histories))  # (a,) runs still in training
        with track(title, config.epochs) as advance:
            for epoch in range(config.epochs):
                losses = self._train_epoch(optimiser, learned, predict)
                scores = self._selection_scores(predict)
                staying = []
                for index, run in enumerate(active.tolist()):
                    history = histories[run]
                    history.loss.append(losses[index])
                    history.score.append(scores[index])
                    if history.best == epoch and np.isfinite(scores[index]):
                        for parameter in learned:
                            best[parameter][run] = parameter.detach()[index]
                    if epoch - history.best < patience:
                        staying.append(index)
                advance(1)
                if not staying:
                    advance(config.epochs - epoch - 1)
                    break
                if len(staying) < len(active):
                    active = active[staying]
                    self._keep_runs(torch.tensor(staying), optimiser)
        for parameter, values in best.items():
            parameter.data, parameter.grad = values, None
        for layer, mask in masks:
            layer.input_mask = mask
        ranker.dropout.restart(self._step)
        self._reduced, self.weights = all_reduced, all_weights
        return histories

    def _train_epoch(
        self, optimiser: torch.optim.Optimizer, learned: list[nn.Parameter], predict: Predict
    ) -> list[float]:
        """Learn once from every training row; (R) mean losses."""
        self.ranker.train()
        rows = torch.from_numpy(self.task.train_rows)
        order = rows[torch.randperm(len(rows), generator=self.cold_start.generator)]
        batches = torch.split(order, self.config.batch_size)
        total = torch.zeros(len(self.weights))  # (R,)
        for batch in batches:
            optimiser.zero_grad()
            local = self.shard.local_rows(batch)
            # The sum over shards is the batch's loss.
            logits, label = predict(local), self.label[local]
            loss = weighted_loss(logits, label, self.weights, self.label[batch])
            # Runs share no weights, so the gradient of the sum is each run's own.
            loss.sum().backward()  # type: ignore[no-untyped-call]
            self.shard.all_reduce([x.grad for x in learned if x.grad is not None])
            optimiser.step()
            total += loss.detach()
        self.shard.all_reduce([total])
        return (total / len(batches)).tolist()

    @torch.no_grad()
    def _selection_logits(self, predict: Predict) -> tuple[Tensor, Tensor]:
        """(R, m) logits and (m,) labels of the selection rows; a process computes its shard."""
        self.ranker.eval()
        rows = torch.from_numpy(self.task.selection_rows)
        local = self.shard.local_rows(rows)
        logits = torch.cat([*map(predict, torch.split(local, _CHUNK_ROWS))], dim=1)
        start, count = self.shard.position(len(local))
        all_logits = logits.new_zeros(len(logits), count)
        all_logits[:, start : start + len(local)] = logits
        self.shard.all_reduce([all_logits])
        return all_logits, self.label[rows]

    @torch.no_grad()
    def _selection_scores(self, predict: Predict) -> list[float]:
        """(R) scores, higher is better: minus the loss, or (the paper's ranker) minus the false positive
        rate; -inf for a run that has diverged, which keeps the weights that it had before."""
        logits, label = self._selection_logits(predict)
        if self.task.test_rows is None or predict != self.score:
            # Not ROC-AUC, which on a few hundred rows is mostly chance.
            scores = -weighted_loss(logits, label, self.weights)
        else:
            # Imported here, since it is slow to import and mostly not needed.
            from sklearn.metrics import roc_auc_score

            scores = -(logits[:, label == 0] >= 0).double().mean(1)
            for run in torch.nonzero(logits.isfinite().all(1))[:, 0]:
                # Rates of 0, where nothing is recommended, are common; ROC-AUC breaks ties.
                scores[run] += 1e-6 * float(roc_auc_score(label.numpy(), logits[run].numpy()))
        return torch.where(logits.isfinite().all(1), scores, -torch.inf).tolist()

    def _keep_runs(self, runs: Tensor, optimiser: torch.optim.Optimizer) -> None:
        self.ranker.keep_runs(runs)
        for state in optimiser.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name][runs]
        self.weights = self.weights[runs]
        self._reduced = [table[runs] for table in self._reduced]
