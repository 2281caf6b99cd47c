"""How certain a metric is, or a difference between two models."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

WeightedMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(n,) bool labels, (n,) probabilities, (..., n) weights -> (...) values, nan without a class."""


def _weighted_roc(
    label: np.ndarray, p: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(..., t) false and true positive rates at every threshold, from none recommended to all."""
    order = np.argsort(-p, kind="stable")
    label, weight = label[order], weight[..., order]
    last_of_ties = np.append(np.flatnonzero(np.diff(p[order])), len(order) - 1)
    rates = []
    for of_class in (~label, label):
        recommended = np.cumsum(weight * of_class, axis=-1)[..., last_of_ties]
        with np.errstate(invalid="ignore"):
            rates.append(np.insert(recommended / recommended[..., -1:], 0, 0.0, axis=-1))
    return rates[0], rates[1]


def weighted_auc(label: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, a `WeightedMetric`."""
    fprs, tprs = _weighted_roc(label, p, weight)
    return np.asarray(np.trapezoid(tprs, fprs, axis=-1))


def weighted_fpr_at_tpr(
    label: np.ndarray, p: np.ndarray, weight: np.ndarray, tpr: float = 0.9
) -> np.ndarray:
    """Lowest false positive rate with a share `tpr` of the likes recommended: a `WeightedMetric`."""
    fprs, tprs = _weighted_roc(label, p, weight)
    first_reached = np.argmax(tprs >= tpr - 1e-12, axis=-1)[..., None]
    fpr = np.take_along_axis(fprs, first_reached, axis=-1)[..., 0]
    return np.where(np.isnan(tprs[..., -1]), np.nan, fpr)


def weighted_ratio(_: np.ndarray, parts: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Ratio of the sums of (n, 2) `parts`, a `WeightedMetric` of these instead of probabilities."""
    with np.errstate(invalid="ignore"):
        return np.asarray((weight @ parts[:, 0]) / (weight @ parts[:, 1]))


def mean_log_likelihood(label: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean of the logarithm of the probability of what was observed: a `WeightedMetric`."""
    log_likelihood = np.log(np.clip(np.where(label, p, 1 - p), 1e-7, 1))
    return np.asarray(weight @ log_likelihood / weight.sum(axis=-1))


def as_plain(value: Any) -> Any:
    """A value for JSON: named tuples in it, at any depth, become dictionaries."""
    if isinstance(value, dict):
        return dict(zip(value, map(as_plain, value.values()), strict=True))
    if isinstance(value, list):
        return [*map(as_plain, value)]
    return value._asdict() if hasattr(value, "_asdict") else value


class Difference(NamedTuple):
    """A mean difference, the ends of its 95% interval, and the two-sided p-value of 0."""

    mean: float
    low: float
    high: float
    p_value: float

    @property
    def interval(self) -> tuple[float, ...]:
        """The mean and the ends; the mean alone where nothing varies."""
        return self[:3] if self.low < self.high else self[:1]

    @property
    def is_proven(self) -> bool:
        """Whether it is above 0, by a one-sided interval of 95%."""
        return self.mean > 0 and self.p_value < 0.1

    @property
    def standard_error(self) -> float:
        """Of the mean, if the interval is that of a normal distribution."""
        return (self.high - self.low) / (2 * 1.96)

    def as_text(self, digits: int, sign: str = "+") -> str:
        """Mean and interval, with the sign of positive values or without (`-`)."""
        mean, *ends = [f"{value:{sign}.{digits}f}" for value in self.interval]
        return f"{mean} [{', '.join(ends)}]" if ends else mean


def bootstrap_samples(
    user: np.ndarray,
    label: np.ndarray,
    p: np.ndarray,
    metric: WeightedMetric,
    rounds: int = 1000,
    seed: int = 0,
    max_cells: int = 1 << 20,
) -> np.ndarray:
    """(rounds,) values of a metric of (n,) probabilities, by a bootstrap over users.

    Every round draws users with replacement, and takes all rows of each; one seed draws the same
    for every model. At most `max_cells` weights are in memory.
    """
    users, user_of_row = np.unique(user, return_inverse=True)
    rng, chunks = np.random.default_rng(seed), []
    rounds_per_chunk = max(1, max_cells // len(user))
    for start in range(0, rounds, rounds_per_chunk):
        size = min(rounds_per_chunk, rounds - start)
        drawn = rng.integers(len(users), size=(size, len(users)))
        times_drawn = np.stack([np.bincount(sample, minlength=len(users)) for sample in drawn])
        # (size, n): a row weighs as often as its user was drawn.
        chunks.append(metric(label, p, times_drawn[:, user_of_row]))
    return np.concatenate(chunks)


def describe_samples(value: float, samples: np.ndarray) -> Difference:
    """A value with the percentile interval of its bootstrap samples; nan samples do not count.

    The p-value is twice the share of rounds on the rarer side of zero, with one more round counted
    there (Davison & Hinkley, 1997, section 4.2).
    """
    if np.isnan(samples).all():
        return Difference(value, np.nan, np.nan, np.nan)
    low, high = np.nanquantile(samples, (0.025, 0.975)).tolist()
    rarer_side = min(np.sum(samples <= 0), np.sum(samples >= 0))
    p_value = 2 * (1 + rarer_side) / (1 + np.sum(~np.isnan(samples)))
    return Difference(value, low, high, min(1.0, float(p_value)))


def bootstrap(
    user: np.ndarray,
    label: np.ndarray,
    p: np.ndarray,
    metric: WeightedMetric,
    reference: np.ndarray | None = None,
    rounds: int = 1000,
    seed: int = 0,
    max_cells: int = 1 << 20,
) -> Difference:
    """A metric of (n,) probabilities, less that of a `reference`, with its `bootstrap_samples`.

    Few users prove nothing, however alike they are: p is not below that of a sign test.
    """
    options, equal = (metric, rounds, seed, max_cells), np.ones(len(user))
    value = float(metric(label, p, equal))
    samples = bootstrap_samples(user, label, p, *options)
    if reference is not None:
        value -= float(metric(label, reference, equal))
        samples = samples - bootstrap_samples(user, label, reference, *options)
    result, lowest = describe_samples(value, samples), 2.0 ** (1 - len(np.unique(user)))
    return result._replace(p_value=float(np.maximum(result.p_value, lowest)))


def paired_t_test(first: ArrayLike, second: ArrayLike, test_ratio: float = 0.0) -> Difference:
    """`first` minus `second` over seeds that both were run with, by Student's paired t-test.

    Splits of the same reviews share most rows, so the variance of the mean is s^2 (1/n +
    `test_ratio`) for n seeds and the ratio of test to train rows (Nadeau & Bengio, 2003), 0 where
    only the training differs. p is 1 where the differences do not vary.
    """
    from scipy import stats  # slow to import, and not needed by a service

    differences = np.subtract(first, second)
    count, mean = len(differences), float(np.mean(differences))
    deviation = np.std(differences, ddof=min(1, count - 1))
    standard_error = float(deviation * np.sqrt(1 / count + test_ratio))
    if standard_error < 1e-12:
        return Difference(mean, mean, mean, 1.0)
    low, high = stats.t.interval(0.95, count - 1, mean, standard_error)
    p_value = 2 * stats.t.sf(abs(mean) / standard_error, count - 1)
    return Difference(mean, float(low), float(high), float(p_value))


def holm_correction(p_values: Sequence[float]) -> np.ndarray:
    """(n,) p-values adjusted for there being n tests, in the order given (Holm, 1979)."""
    # The k-th smallest is multiplied by n - k + 1, and may not fall below the one before.
    order = np.argsort(p_values)
    multiplied = np.array(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    return np.minimum(np.maximum.accumulate(multiplied), 1)[np.argsort(order)]
