"""The linear part of our ranker: ridge regression of likes on all numbers and words, in closed form.

Out-of-fold features still leak a little: what a fold hides from an item's mean can be read back by whoever
recognises the item. A model that is linear and heavily penalised in the words hardly can, and beats DLRM on
the same inputs (docs/log.md). DLRM then corrects it, where valid proves that this is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from mmrec.ranker.dlrm import Ranker, TrainingRun
from mmrec.ranker.inputs import RankerInputs

__all__ = ["Moments", "fit_linear"]

_ROWS_AT_ONCE = 4096
# Of columns of variance one and of blocks of length one; the words of a user say less than those of an item.
_PENALTY, _PENALTY_FREE, _PENALTY_USER = 300.0, 10.0, 1000.0


@dataclass
class Moments:
    """Sums over rows that the regression is solved from: of x, of x x', and of x times the label."""

    rows: int
    likes: float
    x: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @classmethod
    @torch.inference_mode()
    def from_rows(
        cls, ranker: Ranker, inputs: RankerInputs, label: np.ndarray, rows: np.ndarray
    ) -> Moments:
        """Go through rows once; memory is that of p columns squared."""
        size = ranker.linear_size
        x, xy = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        xx = torch.zeros(size, size)
        liked = torch.from_numpy(label.astype(np.float32))
        for part in torch.split(torch.from_numpy(rows), _ROWS_AT_ONCE):
            columns = ranker.linear_columns(inputs.row_batch(part))
            xx.addmm_(columns.T, columns)
            x += columns.sum(0)
            xy += columns.T @ liked[part]
        return cls(len(rows), float(label[rows].sum()), x.numpy(), xx.double().numpy(), xy.numpy())

    def solve(self, penalty: np.ndarray, heard: np.ndarray) -> tuple[np.ndarray, float]:
        """(p,) weights and the constant that predict the label, from the columns that are heard."""
        mean, like = self.x / self.rows, self.likes / self.rows
        at = np.flatnonzero(heard)
        gram = self.xx[np.ix_(at, at)] - self.rows * np.outer(mean[at], mean[at])
        gram[np.diag_indices(len(at))] += penalty[at]
        weights = np.zeros(len(penalty))
        weights[at] = np.linalg.solve(gram, self.xy[at] - self.rows * mean[at] * like)
        return weights, like - float(mean @ weights)


def fit_linear(
    ranker: Ranker,
    runs: Sequence[TrainingRun],
    inputs: RankerInputs,
    label: np.ndarray,
    train: np.ndarray,
    valid: np.ndarray,
    lightly_penalised: np.ndarray,
) -> None:
    """Give every run its linear part, as a logit with the class weights of its loss in it.

    Fitted on train and brought to a probability by a logistic curve on valid.

    Args:
        ranker: standardised; its `linear` is set, and heeds what each run hears.
        runs: what sets the runs apart.
        inputs: features of all rows.
        label: (n,) bool.
        train, valid: rows.
        lightly_penalised: (p,) bool, numbers that are known to matter, and so are hardly penalised.
    """
    assert ranker.linear is not None
    moments = Moments.from_rows(ranker, inputs, label, train)
    penalty = np.full(ranker.linear_size, _PENALTY)
    penalty[: ranker.shape.dense][lightly_penalised] = _PENALTY_FREE
    at = ranker.shape.dense
    for blocks in ranker.shape.groups.values():
        for name, size in blocks.items():
            penalty[at : at + size] = _PENALTY_USER if name.startswith("user ") else _PENALTY
            at += size
        at += len(blocks)
    heard = ranker.linear.input_mask
    masks = (
        np.ones((len(runs), len(penalty)), dtype=bool)
        if heard is None
        else heard[:, :, 0].numpy() > 0
    )
    distinct, which = np.unique(masks, axis=0, return_inverse=True)
    solved = np.stack([np.append(*moments.solve(penalty, mask)) for mask in distinct])
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(valid), _ROWS_AT_ONCE)
        scores = [
            ranker.linear_columns(inputs.row_batch(part)).numpy() @ solved[:, :-1].T
            for part in parts
        ]
    curves = [_curve(score, label[valid]) for score in (np.concatenate(scores) + solved[:, -1]).T]
    slopes, starts = np.array(curves).T
    solved *= slopes[:, None]
    solved[:, -1] += starts
    solved = solved[which]
    solved[:, -1] += [np.log(run.class_weights[1] / run.class_weights[0]) for run in runs]
    stacked = torch.tensor(solved, dtype=torch.float32)
    ranker.linear.load_state_dict(
        {"weight": stacked[:, :-1, None], "bias": stacked[:, -1, None, None]}
    )


def _curve(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Slope and constant of a logistic curve over (n,) scores."""
    curve = LogisticRegression(C=1e6).fit(score[:, None], label)
    slope, start = float(curve.coef_[0, 0]), float(curve.intercept_[0])
    if slope < 0:  # what says the opposite on valid says nothing
        slope, start = 0.0, float(np.log(label.mean() / (1 - label.mean())))
    return slope, start
