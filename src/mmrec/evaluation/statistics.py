"""How sure a figure, or a difference between two models, is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = [
    "Difference",
    "bootstrap_interval",
    "holm_correction",
    "paired_bootstrap",
    "paired_t_test",
]
__all__ += [
    "WeightedMetric",
    "weighted_auc",
    "weighted_brier",
    "weighted_fpr_at_tpr",
    "weighted_mean",
]

WeightedMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(n,) bool labels, (n,) probabilities, (..., n) weights -> (...) values; nan where a label has no weight."""

_CELLS = 1 << 20  # weights that are in memory at a time


def _roc(label: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(2, ..., t) rates of false and true positives at every threshold, from nothing recommended to all."""
    order = np.argsort(-p, kind="stable")
    label, weight = label[order], weight[..., order]
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(order) - 1)
    sums = np.stack([np.cumsum(weight * part, axis=-1)[..., ends] for part in (~label, label)])
    with np.errstate(invalid="ignore"):
        return np.insert(sums / sums[..., -1:], 0, 0.0, axis=-1)


def weighted_auc(label: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, a `WeightedMetric`."""
    fprs, tprs = _roc(label, p, weight)
    return np.asarray(np.trapezoid(tprs, fprs, axis=-1))


def weighted_fpr_at_tpr(
    label: np.ndarray, p: np.ndarray, weight: np.ndarray, tpr: float = 0.9
) -> np.ndarray:
    """`fpr_at_tpr`, a `WeightedMetric`; `functools.partial` makes that of another `tpr`."""
    fprs, tprs = _roc(label, p, weight)
    first = np.argmax(tprs >= tpr - 1e-12, axis=-1)[..., None]
    return np.where(
        np.isnan(tprs[..., -1]), np.nan, np.take_along_axis(fprs, first, axis=-1)[..., 0]
    )


def weighted_mean(label: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean of values that need no label, such as a column of `ListScores.each`; a `WeightedMetric`."""
    return np.asarray(weight @ value / weight.sum(axis=-1))


def weighted_brier(label: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean squared error of the probability, a `WeightedMetric`."""
    return weighted_mean(label, (p - label) ** 2, weight)


def bootstrap_interval(
    user: np.ndarray,
    label: np.ndarray,
    p: np.ndarray,
    figure: WeightedMetric,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A figure and the ends of its 95% percentile interval by a bootstrap over users (Efron, 1979).

    In every round as many users as there are are drawn with replacement, and each brings all of their rows,
    told by the (n,) `user`. One seed draws the same users for all. Rounds whose figure is nan do not count.
    """
    return _bootstrap(partial(figure, label, p), user, rounds, seed)[:3]


class Difference(NamedTuple):
    """A mean difference, the ends of its 95% interval, and the two-sided p-value of there being none."""

    mean: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    user: np.ndarray,
    label: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    figure: WeightedMetric,
    rounds: int = 1000,
    seed: int = 0,
) -> Difference:
    """Figure of (n,) `a` minus that of (n,) `b`, by `bootstrap_interval` with the same users for both.

    The p-value is twice the share of rounds on the rarer side of zero, with one more round counted there
    (Davison & Hinkley, 1997).
    """

    def gap(weight: np.ndarray) -> np.ndarray:
        return figure(label, a, weight) - figure(label, b, weight)

    mean, low, high, gaps = _bootstrap(gap, user, rounds, seed)
    rarer = min(np.sum(gaps <= 0), np.sum(gaps >= 0))
    return Difference(
        mean, low, high, min(1.0, float(2 * (1 + rarer) / (1 + np.sum(~np.isnan(gaps)))))
    )


def _bootstrap(
    of: Callable[[np.ndarray], np.ndarray], user: np.ndarray, rounds: int, seed: int
) -> tuple[float, float, float, np.ndarray]:
    """What comes `of` weights of one, the ends of its interval, and what comes of each round's draws."""
    users, row = np.unique(user, return_inverse=True)
    rng, size, values = np.random.default_rng(seed), max(1, _CELLS // len(row)), []
    for start in range(0, rounds, size):
        drawn = rng.integers(len(users), size=(min(size, rounds - start), len(users)))
        values.append(
            of(np.stack([np.bincount(one, minlength=len(users)) for one in drawn])[:, row])
        )
    each = np.concatenate(values)
    return (float(of(np.ones(len(row)))), *np.nanquantile(each, (0.025, 0.975)).tolist(), each)


def paired_t_test(a: Sequence[float], b: Sequence[float], ratio: float = 0.0) -> Difference:
    """`a` minus `b` over at least two seeds that both were run with, by Student's paired t-test.

    Where every seed splits the same reviews anew, the seeds share most of their rows, and differences vary
    less than those of new reviews would: their variance is multiplied by 1 + n `ratio` for n seeds (Nadeau &
    Bengio, 2003). Differences that do not vary at all allow no test: p is 1.

    Args:
        a, b: a figure by seed.
        ratio: test rows by train rows where splits differ; 0 where only the training does.
    """
    gaps = np.subtract(a, b)
    count, mean = len(gaps), float(np.mean(gaps))
    error = float(np.std(gaps, ddof=1) * np.sqrt(1 / count + ratio))
    if error < 1e-12:
        return Difference(mean, mean, mean, 1.0)
    low, high = stats.t.interval(0.95, count - 1, mean, error)
    return Difference(
        mean, float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, count - 1))
    )


def holm_correction(p: Sequence[float]) -> np.ndarray:
    """(n,) p-values adjusted for there being n of them, in the order given (Holm, 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(
        np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    )
    return np.minimum(stepped, 1)[np.argsort(order)]
