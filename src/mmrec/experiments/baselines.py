"""Simple baselines that a model must beat: means of ratings, and a regularised bias model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mmrec.data.schema import Interactions, Split
from mmrec.features.mixed_effects import fit_biases

__all__ = ["ALWAYS_LIKE", "MEAN_BASELINES", "BaselineScorer", "bias_scores", "calibrate"]
__all__ += ["choose_bias_model", "choose_scorer", "simple_baseline_probabilities"]

ALWAYS_LIKE = "always like"
"""The baseline that gives every row the share of likes."""
BaselineScorer = Callable[[Interactions, np.ndarray], np.ndarray]
"""Scores of all rows, (n,), from the ratings of the given ones."""


def _mean_rating(data: Interactions, rows: np.ndarray, entity: np.ndarray) -> np.ndarray:
    """(n,) mean rating of every row's entity over `rows`; the overall mean where it has none."""
    size = int(entity.max()) + 1
    count = np.bincount(entity[rows], minlength=size)
    total = np.bincount(entity[rows], weights=data.rating[rows], minlength=size)
    mean = np.where(count > 0, total / np.maximum(count, 1), data.rating[rows].mean())
    return mean[entity]


MEAN_BASELINES: dict[str, BaselineScorer] = {
    "user mean": lambda data, rows: _mean_rating(data, rows, data.user),
    "item mean": lambda data, rows: _mean_rating(data, rows, data.item),
    "user + item mean": lambda data, rows: (
        _mean_rating(data, rows, data.user) + _mean_rating(data, rows, data.item)
    ),
}


def bias_scores(data: Interactions, rows: np.ndarray, penalty: float) -> np.ndarray:
    """(n,) rating = mean + user bias + item bias, fitted on `rows` by least squares.

    The L2 `penalty` of the biases is in reviews.
    """
    # The penalty must not pull on the mean, so ratings are centred first.
    mean = float(data.rating[rows].mean())
    centred = data.rating[rows].astype(np.float64) - mean
    user_bias, item_bias = fit_biases(data, rows, centred, penalty)
    return mean + user_bias[data.user] + item_bias[data.item]


def simple_baseline_probabilities(
    data: Interactions, split: Split, label: np.ndarray
) -> dict[str, np.ndarray]:
    """Name -> (n,) calibrated probability of a like by each baseline; fair for test rows alone."""
    scorers = MEAN_BASELINES | {"bias model": choose_bias_model(data, split, label)}
    probability = {ALWAYS_LIKE: np.full(len(data), label[split.train].mean())}
    for name, scorer in scorers.items():
        probability[name] = calibrate(scorer, data, split, label)
    return probability


def choose_bias_model(data: Interactions, split: Split, label: np.ndarray) -> BaselineScorer:
    """`bias_scores` with the penalty that is best on valid."""
    penalties = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
    scorers = [partial(bias_scores, penalty=penalty) for penalty in penalties]
    return choose_scorer(scorers, data, split, label)


def choose_scorer(
    scorers: Sequence[BaselineScorer], data: Interactions, split: Split, label: np.ndarray
) -> BaselineScorer:
    """The scorer with the highest ROC-AUC on valid, fitted on the rows before validation."""

    def auc_on_valid(scorer: BaselineScorer) -> float:
        scores = scorer(data, split.rows_before_validation)
        return float(roc_auc_score(label[split.valid], scores[split.valid]))

    return max(scorers, key=auc_on_valid)


def calibrate(
    scorer: BaselineScorer, data: Interactions, split: Split, label: np.ndarray
) -> np.ndarray:
    """(n,) probability of a like: a logistic curve of scores, fitted on valid."""
    # The curve is fitted on rows that the scores have not seen.
    before_valid = scorer(data, split.rows_before_validation)
    curve = LogisticRegression(C=1e6).fit(before_valid[split.valid, None], label[split.valid])
    scores = scorer(data, split.evidence_rows)  # for prediction, all evidence counts
    return np.asarray(curve.predict_proba(scores[:, None])[:, 1])
