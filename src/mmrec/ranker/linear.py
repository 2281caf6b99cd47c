"""The linear model under our ranker: ridge regression of likes on all inputs, in closed form.

Out-of-fold features still leak a little: what a fold hides from an item's mean can be recovered by a model
that recognises the item. A linear model with a heavy penalty on text hardly can, and beats DLRM on the
same inputs (docs/log.md). DLRM then corrects it, where validation rows prove that this is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from mmrec.ranker.dlrm import Ranker, RankerShape, TrainingRun
from mmrec.ranker.inputs import RankerInputs

__all__ = ["RegressionMoments", "fit_linear"]

_CHUNK_ROWS = 4096


def _ridge_penalties(
    shape: RankerShape,
    lightly_penalised: np.ndarray,
    rating_effect: float = 10.0,
    user_text: float = 1000.0,
    default: float = 300.0,
) -> np.ndarray:
    """(p,) penalty of each of `Ranker.linear_columns`, of variance one, or length one by block.

    Fitted rating effects are known to matter; a user's text predicts less than an item's
    (docs/log.md).
    """
    penalties = [np.where(lightly_penalised, rating_effect, default)]
    for sizes in shape.groups.values():
        for name, width in sizes.items():
            penalties.append(np.full(width, user_text if name.startswith("user ") else default))
        penalties.append(np.full(len(sizes), default))  # indicators of missing blocks
    penalties.append(np.full(shape.categories, default))
    return np.concatenate(penalties)


@dataclass(frozen=True)
class RegressionMoments:
    """Sums over n rows that the regression is solved from.

    Attributes:
        rows, likes: number of rows, and of likes among them.
        x: (p,) sum of the columns x.
        xx: (p, p) sum of x x'.
        xy: (p,) sum of x where the label is a like.
    """

    rows: int
    likes: float
    x: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @classmethod
    @torch.inference_mode()
    def from_rows(
        cls, ranker: Ranker, inputs: RankerInputs, label: np.ndarray, rows: np.ndarray
    ) -> RegressionMoments:
        """Add up in one pass over chunks of rows."""
        size = ranker.linear_size
        x, xy = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        xx = torch.zeros(size, size)
        like = torch.from_numpy(label.astype(np.float32))
        for chunk in torch.split(torch.from_numpy(rows), _CHUNK_ROWS):
            columns = ranker.linear_columns(inputs.row_batch(chunk))
            xx.addmm_(columns.T, columns)
            x += columns.sum(0)
            xy += columns.T @ like[chunk]
        likes = float(label[rows].sum())
        return cls(len(rows), likes, x.numpy(), xx.double().numpy(), xy.numpy())

    def solve(self, penalty: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
        """(p,) weights and the constant of the ridge regression of the label on p columns.

        With centred columns and label: (X'X + diag(penalty)) w = X'y, the constant from the means.
        Weights are zero outside of the mask, the (p,) bool of the columns that the run sees.
        """
        mean, like_share = self.x / self.rows, self.likes / self.rows
        columns = np.flatnonzero(mask)
        centre = mean[columns]
        gram = self.xx[np.ix_(columns, columns)] - self.rows * np.outer(centre, centre)
        gram[np.diag_indices(len(columns))] += penalty[columns]
        covariance = self.xy[columns] - self.rows * centre * like_share
        weights = np.zeros(len(penalty))
        weights[columns] = np.linalg.solve(gram, covariance)
        return weights, like_share - float(mean @ weights)


def fit_linear(
    ranker: Ranker,
    runs: Sequence[TrainingRun],
    inputs: RankerInputs,
    label: np.ndarray,
    train: np.ndarray,
    valid: np.ndarray,
    lightly_penalised: np.ndarray,
) -> None:
    """Set every run's linear model, as a logit shifted by the run's class weights.

    The regression is fitted on train rows; a logistic curve over its scores, fitted on validation rows,
    turns them into probabilities (Platt scaling).

    Args:
        ranker, runs: standardised; its `linear` is set, with the masks of the runs.
        inputs, label: features of all n rows, and (n,) bool.
        train, valid: rows.
        lightly_penalised: (dense columns,) bool, columns that are known to matter.
    """
    assert ranker.linear is not None
    moments = RegressionMoments.from_rows(ranker, inputs, label, train)
    penalty = _ridge_penalties(ranker.shape, lightly_penalised)
    masks = np.ones((len(runs), len(penalty)), dtype=bool)
    if ranker.linear.input_mask is not None:
        masks = ranker.linear.input_mask[:, :, 0].numpy() > 0
    # Runs with the same inputs have the same regression, so it is solved once per mask.
    distinct_masks, mask_of_run = np.unique(masks, axis=0, return_inverse=True)
    weights = np.zeros(distinct_masks.shape)  # (masks, p)
    bias = np.zeros(len(distinct_masks))
    for index, mask in enumerate(distinct_masks):
        weights[index], bias[index] = moments.solve(penalty, mask)
    scores = _scores(ranker, inputs, valid, weights) + bias
    for index in range(len(distinct_masks)):
        slope, intercept = _logistic_curve(scores[:, index], label[valid])
        weights[index] *= slope
        bias[index] = slope * bias[index] + intercept
    class_weights = np.array([run.class_weights for run in runs])  # (R, 2)
    shifts = np.log(class_weights[:, 1] / class_weights[:, 0])
    run_weights = torch.from_numpy(weights[mask_of_run]).float()
    run_bias = torch.from_numpy(bias[mask_of_run] + shifts).float()
    state = {"weight": run_weights[:, :, None], "bias": run_bias[:, None, None]}
    ranker.linear.load_state_dict(state)


@torch.inference_mode()
def _scores(
    ranker: Ranker, inputs: RankerInputs, rows: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(len(rows), masks) products of the linear columns with (masks, p) weights."""
    scores = np.empty((len(rows), len(weights)))
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        columns = ranker.linear_columns(inputs.row_batch(torch.from_numpy(rows[chunk])))
        scores[chunk] = columns.numpy() @ weights.T
    return scores


def _logistic_curve(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of a logistic curve over (n,) scores; C makes its penalty negligible."""
    curve = LogisticRegression(C=1e6).fit(score[:, None], label)
    slope, intercept = float(curve.coef_[0, 0]), float(curve.intercept_[0])
    if slope < 0:  # scores that contradict validation rows are ignored
        slope, intercept = 0.0, float(np.log(label.mean() / (1 - label.mean())))
    return slope, intercept
