"""The linear model under our ranker: ridge regression of likes on all inputs, in closed form.

Out-of-fold features still leak a little: what a fold hides from an item's mean can be recovered by a model
that recognises the item. A linear model with a heavy penalty on text hardly can, and beats DLRM on the
same inputs (docs/log.md). DLRM then corrects it, where validation rows prove that this is better.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import expit

from mmrec.ranker.dlrm import Ranker, RankerShape
from mmrec.ranker.inputs import TrainingRun, TrainingTask

_CHUNK_ROWS = 4096


def logistic_curve(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of a logistic curve of (n,) scores (Platt scaling), which always rises.

    A curve must not turn the order round because a few labels contradict it. There it is almost level:
    the order stays, and all probabilities are near the share of likes.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second; a service needs none

    # With C = 1e6 the penalty is negligible.
    curve = LogisticRegression(C=1e6).fit(score[:, None], label)
    slope, intercept = float(curve.coef_[0, 0]), float(curve.intercept_[0])
    # One standard deviation of the scores changes the logit by .01.
    level_slope = 0.01 / max(float(score.std()), 1e-3)
    if slope < level_slope:
        share, slope = float(label.mean()), level_slope
        intercept = float(np.log(share / (1 - share)) - slope * score.mean())
    return slope, intercept


def fit_linear(
    ranker: Ranker, runs: Sequence[TrainingRun], task: TrainingTask, lightly_penalised: np.ndarray
) -> None:
    """Set the linear model of every run of a standardised ranker: a logit shifted by class weights.

    The regression is fitted on train rows; a logistic curve over its scores on validation rows makes
    probabilities (Platt scaling). `lightly_penalised` is (p,) bool: dense columns known to matter.
    """
    assert ranker.linear is not None
    penalty = _ridge_penalties(ranker.shape, lightly_penalised)
    masks = np.ones((len(runs), len(penalty)), dtype=bool)
    if ranker.linear.input_mask is not None:
        masks = ranker.linear.input_mask[:, :, 0].numpy() > 0
    # Runs with the same inputs have the same regression, so it is solved once per mask.
    distinct_masks, mask_of_run = np.unique(masks, axis=0, return_inverse=True)
    weights, bias = _solve_ridge(ranker, task, penalty, distinct_masks)

    def scores(rows: np.ndarray) -> np.ndarray:
        """(k, n) scores of (n,) rows by each regression."""
        batches = map(task.inputs.row_batch, torch.split(torch.from_numpy(rows), _CHUNK_ROWS))
        chunks = [ranker.linear_columns(batch).numpy() @ weights.T + bias for batch in batches]
        return np.concatenate(chunks).T

    label = task.label[task.valid_rows]
    some_rows = task.train_rows[:: max(1, len(task.train_rows) // 20_000)]
    pairs = zip(scores(task.valid_rows), scores(some_rows), strict=True)
    for index, (score, train_score) in enumerate(pairs):
        slope, intercept = logistic_curve(score, label)
        matched = _match_share(slope * train_score, task.label[some_rows])
        # Validation rows that are later than train rows may well have another share of likes.
        if abs(_excess(slope * score + matched, label)) < 3:
            intercept = matched
        weights[index] *= slope
        bias[index] = slope * bias[index] + intercept
    class_weights = np.array([run.class_weights for run in runs])  # (R, 2)
    shifts = np.log(class_weights[:, 1] / class_weights[:, 0])
    weight, run_bias = weights[mask_of_run][:, :, None], bias[mask_of_run] + shifts
    state = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(run_bias[:, None, None])}
    ranker.linear.load_state_dict(state)


def bias_ranker(
    trained: Ranker,
    effects: np.ndarray,
    curve: tuple[float, float],
    class_weights: tuple[float, float],
) -> Ranker:
    """The bias model as a ranker of one run: a logistic `curve` (slope, intercept) over the sum of the
    dense columns `effects`, (p,) bool; no other input has any influence. Its logits are shifted by
    the class weights, like those of the `trained` one, whose inputs it takes."""
    slope, intercept = curve
    # All weights are zero, as yet.
    ranker = Ranker(trained.shape.model_copy(update={"runs": 1}))
    ranker.standardiser.load_state_dict(trained.standardiser.state_dict())
    # Effects are shrunk already, so they need no limits.
    ranker.standardiser.dense_low.fill_(-torch.inf)
    ranker.standardiser.dense_high.fill_(torch.inf)
    assert ranker.linear is not None
    assert ranker.linear.bias is not None
    columns = torch.from_numpy(np.flatnonzero(effects))
    scale = ranker.standardiser.dense_scale[columns]
    # x = (standardised x) / scale + mean; a column that never varies has the scale 0.
    inverse = torch.where(scale > 0, 1 / scale, 0)
    ranker.linear.weight.data[0, columns, 0] = slope * inverse
    mean = float(ranker.standardiser.dense_mean[columns].sum())
    shift = np.log(class_weights[1] / class_weights[0])
    ranker.linear.bias.data += slope * mean + intercept + shift
    return ranker.eval()


def _excess(logit: np.ndarray, label: np.ndarray) -> float:
    """Likes among (n,) labels beyond those that (n,) logits expect, in standard errors."""
    probability = expit(logit)
    variance = (probability * (1 - probability)).sum()
    return float((label - probability).sum() / np.sqrt(max(variance, 1e-12)))


def _match_share(logit: np.ndarray, label: np.ndarray) -> float:
    """The intercept with which (n,) logits have as many likes as (n,) labels. Train rows are the many:
    the share of likes among few validation rows is mostly chance."""
    from scipy.optimize import brentq  # slow to import, and not for serving

    def excess(intercept: float) -> float:
        return float(expit(logit + intercept).mean() - label.mean())

    # At the ends all probabilities are 0, or 1.
    return float(brentq(excess, -logit.max() - 50, -logit.min() + 50, xtol=1e-12))


def _ridge_penalties(shape: RankerShape, lightly_penalised: np.ndarray) -> np.ndarray:
    """(p,) penalties of `Ranker.linear_columns`, of variance one, or length one by block."""
    # A user's text predicts less than an item's (docs/log.md).
    default, user_text = 300.0, 1000.0
    penalties = [np.where(lightly_penalised, 10.0, default)]
    for sizes in shape.groups.values():
        for name, width in sizes.items():
            penalties.append(np.full(width, user_text if name.startswith("user ") else default))
        penalties.append(np.full(len(sizes), default))  # indicators of missing blocks
    return np.concatenate([*penalties, np.full(shape.categories, default)])


@torch.inference_mode()
def _solve_ridge(
    ranker: Ranker, task: TrainingTask, penalty: np.ndarray, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(k, p) weights, zero outside of (k, p) masks, and (k,) constants of ridge regressions of likes:
    with X the centred columns and y the centred labels, (X'X + diag(penalty)) w = X'y."""
    size, rows = ranker.linear_size, task.train_rows
    x, xy = torch.zeros(2, size, dtype=torch.float64)
    xx = torch.zeros(size, size)
    like = torch.from_numpy(task.label.astype(np.float32))
    for chunk in torch.split(torch.from_numpy(rows), _CHUNK_ROWS):
        columns = ranker.linear_columns(task.inputs.row_batch(chunk))
        xx.addmm_(columns.T, columns)
        x += columns.sum(0)
        xy += columns.T @ like[chunk]
    mean, like_share = x.numpy() / len(rows), float(task.label[rows].mean())
    gram = xx.double().numpy() - len(rows) * np.outer(mean, mean)
    gram[np.diag_indices(size)] += penalty
    covariance = xy.numpy() - len(rows) * mean * like_share
    weights = np.zeros(masks.shape)
    for index, mask in enumerate(masks):
        visible = np.flatnonzero(mask)
        submatrix = gram[np.ix_(visible, visible)]
        weights[index, visible] = np.linalg.solve(submatrix, covariance[visible])
    return weights, like_share - weights @ mean
