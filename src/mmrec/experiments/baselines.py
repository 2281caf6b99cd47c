"""Simple peers that a model must beat: means of ratings, and a regularised bias model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from mmrec.data.schema import Interactions
from mmrec.data.split import Split

__all__ = [
    "MEAN_BASELINES",
    "BaselineScorer",
    "baseline_probabilities",
    "best_scorer",
    "bias_model",
    "bias_scores",
    "calibrated",
]

_ALPHAS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
BaselineScorer = Callable[[Interactions, np.ndarray], np.ndarray]


def _mean(data: Interactions, rows: np.ndarray, entity: np.ndarray) -> np.ndarray:
    """Mean rating of every row's entity over `rows`; the overall mean where there is none."""
    size = int(entity.max()) + 1
    count = np.bincount(entity[rows], minlength=size)
    total = np.bincount(entity[rows], weights=data.rating[rows], minlength=size)
    overall = data.rating[rows].mean()
    return np.where(count > 0, total / np.maximum(count, 1), overall)[entity]


def bias_scores(data: Interactions, rows: np.ndarray, alpha: float) -> np.ndarray:
    """Rating = mean + user bias + item bias, by least squares with an L2 penalty on the biases.

    Args:
        data: all interactions.
        rows: rows that the biases are fitted on.
        alpha: weight of the penalty, in reviews.

    Returns:
        (n,) expected rating of every row.
    """
    each = np.arange(len(data))
    one_hot = [
        csr_matrix((np.ones(len(data)), (each, entity)), shape=(len(data), size))
        for entity, size in ((data.user, len(data.users)), (data.item, len(data.items)))
    ]
    design = csr_matrix(hstack(one_hot))
    model = Ridge(alpha=alpha, solver="sparse_cg", tol=1e-6)
    # The penalty must not pull on the mean, so ratings are centred rather than an intercept fitted.
    mean = float(data.rating[rows].mean())
    model.set_params(fit_intercept=False).fit(
        design[rows], data.rating[rows].astype(np.float64) - mean
    )
    return np.asarray(model.predict(design) + mean)


MEAN_BASELINES: dict[str, BaselineScorer] = {
    "user mean": lambda data, rows: _mean(data, rows, data.user),
    "item mean": lambda data, rows: _mean(data, rows, data.item),
    "user + item mean": lambda data, rows: (
        _mean(data, rows, data.user) + _mean(data, rows, data.item)
    ),
}
"""Scores of all rows, from the ratings of some."""


def baseline_probabilities(
    data: Interactions, split: Split, label: np.ndarray
) -> dict[str, np.ndarray]:
    """Probability of a like for every row, by each peer; only the test rows' are honest.

    Each peer is `calibrated`; the bias model's penalty is chosen on valid too.

    Returns:
        name -> (n,) probability; `always like` is the share of likes.
    """
    scorers = {**MEAN_BASELINES, "bias model": bias_model(data, split, label)}
    result = {"always like": np.full(len(data), label[split.train].mean())}
    return result | {
        name: calibrated(scorer, data, split, label) for name, scorer in scorers.items()
    }


def bias_model(data: Interactions, split: Split, label: np.ndarray) -> BaselineScorer:
    """`bias_scores` with the best penalty."""
    return best_scorer([partial(bias_scores, alpha=alpha) for alpha in _ALPHAS], data, split, label)


def best_scorer(
    scorers: Sequence[BaselineScorer], data: Interactions, split: Split, label: np.ndarray
) -> BaselineScorer:
    """The one with the highest ROC-AUC on valid when it is fitted on what is known before."""
    valid = split.valid
    return max(
        scorers,
        key=lambda s: roc_auc_score(label[valid], s(data, split.rows_before_validation)[valid]),
    )


def calibrated(
    scorer: BaselineScorer, data: Interactions, split: Split, label: np.ndarray
) -> np.ndarray:
    """(n,) probability of a like: scores fitted before valid, a curve on valid, then scores on all known."""
    curve = LogisticRegression(C=1e6)
    curve.fit(scorer(data, split.rows_before_validation)[split.valid, None], label[split.valid])
    return np.asarray(curve.predict_proba(scorer(data, split.evidence_rows)[:, None])[:, 1])
