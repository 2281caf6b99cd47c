"""Simple baselines: means and the bias model, from ratings alone; who follows them needs no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import expit

from mmrec.data.schema import Interactions, Split
from mmrec.features.mixed_effects import Penalties, choose_penalties, fit_effects
from mmrec.ranker.linear import logistic_curve

ALWAYS_LIKE = "always like"
"""The baseline that gives every row the share of likes."""
BIAS_MODEL = "bias model"
"""The baseline that adds an effect of the user and one of the item."""
BaselineScorer = Callable[[Interactions, np.ndarray], np.ndarray]
"""Scores of all rows, (n,), from the ratings of the given ones."""


@dataclass(frozen=True)
class BaselineTask:
    """n reviews, their split, their folds as from `assign_folds`, and the (n,) labels."""

    data: Interactions
    split: Split
    fold: np.ndarray
    label: np.ndarray

    def choose(self, scorers: Sequence[BaselineScorer]) -> BaselineScorer:
        """The scorer with the highest ROC-AUC on valid, fitted on the rows before validation."""
        from sklearn.metrics import roc_auc_score  # slow to import

        valid, aucs = self.split.valid, list[float]()
        for scorer in scorers:
            scores = scorer(self.data, self.split.rows_before_validation)
            aucs.append(roc_auc_score(self.label[valid], scores[valid]))
        return scorers[int(np.argmax(aucs))]

    def calibrate(self, scorer: BaselineScorer) -> np.ndarray:
        """(n,) probability of a like: a logistic curve of scores, fitted on train and valid.

        Scores of a train row come from the other folds, those of valid from all of train, those of
        test from both, as features do under the policy `fold`.
        """
        split = self.split
        before, rows = split.rows_before_validation, np.concatenate([split.train, split.valid])
        scores = scorer(self.data, split.evidence_rows)
        for fold in np.unique(self.fold[rows]):
            of_fold = rows[self.fold[rows] == fold]
            scores[of_fold] = scorer(self.data, before[self.fold[before] != fold])[of_fold]
        slope, intercept = logistic_curve(scores[rows], self.label[rows])
        return np.asarray(expit(slope * scores + intercept))


def mean_scores(data: Interactions, rows: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """(n,) sum of mean ratings over `rows`, by default the overall mean, of `user`, `item` or both."""
    scores = np.zeros(len(data))
    for kind in kinds:
        entity = data.user if kind == "user" else data.item
        size = int(entity.max()) + 1
        count = np.bincount(entity[rows], minlength=size)
        total = np.bincount(entity[rows], weights=data.rating[rows], minlength=size)
        mean = np.where(count > 0, total / np.maximum(count, 1), data.rating[rows].mean())
        scores += mean[entity]
    return scores


def bias_scores(data: Interactions, rows: np.ndarray, penalties: Penalties) -> np.ndarray:
    """(n,) effect of the user + effect of the item on the rating, fitted on `rows`."""
    # The penalties must not pull on the mean, so ratings are centred first.
    mean = float(data.rating[rows].mean())
    centred = data.rating[rows].astype(np.float64) - mean
    user_effect, item_effect = fit_effects(data, rows, centred[:, None], penalties)
    return user_effect[data.user, 0] + item_effect[data.item, 0]


def choose_bias_model(task: BaselineTask) -> BaselineScorer:
    """`bias_scores` with the penalties that have the least error on valid, as in our features."""
    split = task.split
    penalties = choose_penalties(task.data, split.rows_before_validation, split.valid)
    return partial(bias_scores, penalties=penalties)


def simple_baseline_probabilities(task: BaselineTask) -> dict[str, np.ndarray]:
    """Name -> (n,) calibrated probability of a like by each simple baseline."""
    likes = task.label[task.split.train].mean()
    probability = {ALWAYS_LIKE: np.full(len(task.data), likes)}
    for kinds in (["user"], ["item"], ["user", "item"]):
        scorer = partial(mean_scores, kinds=kinds)
        probability[f"{' + '.join(kinds)} mean"] = task.calibrate(scorer)
    return probability | {BIAS_MODEL: task.calibrate(choose_bias_model(task))}
