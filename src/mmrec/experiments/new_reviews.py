"""A saved model on reviews that it has not seen, beside the simple baselines with the same evidence."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from mmrec.data.schema import Interactions, Split
from mmrec.errors import DataError
from mmrec.evaluation.metrics import Metrics, Verdict, evaluate
from mmrec.evaluation.simple_baselines import (
    ALWAYS_LIKE,
    BIAS_MODEL,
    BaselineTask,
    simple_baseline_probabilities,
)
from mmrec.evaluation.statistics import Difference
from mmrec.evaluation.verdict import RivalModels, reach_verdict
from mmrec.evidence.policies import assign_folds
from mmrec.experiments.compare import Intervals, bootstrap_models
from mmrec.recommender.recommender import Recommender

_COLUMNS = ["user", "item", "rating", "time"]


@dataclass(frozen=True)
class NewReviewsEvaluation:
    """Values on new reviews by model, that of the saved one last; intervals are 95%."""

    verdict: Verdict
    metrics: dict[str, Metrics]
    intervals: Intervals
    differences: dict[str, dict[str, Difference]]  # to the bias model


def evaluate_new_reviews(
    recommender: Recommender, fresh: pl.DataFrame, source: str
) -> NewReviewsEvaluation:
    """Measure a model, and baselines fitted on the reviews that it knows, on a table of other reviews
    from `source`; a DataError if these are all likes or all dislikes."""
    saved, config = recommender.saved, recommender.config
    seen, weights = saved.reviews.table, saved.model.class_weights
    table = pl.concat([seen[_COLUMNS], fresh[_COLUMNS]])
    label = (table["rating"] >= config.like_rating).to_numpy()
    rng, test = np.random.default_rng(config.seed), np.arange(len(seen), len(table))
    if label[test].all() or not label[test].any():
        need = "metrics need both likes and dislikes among them"
        raise DataError(f"{source}: {len(test):,} reviews are new to the model; {need}")
    # The baselines choose their penalties on a tenth of what the model knows.
    valid, train = np.split(rng.permutation(len(seen)), [len(seen) // 10])
    data, split = Interactions.from_table(table), Split(np.sort(train), np.sort(valid), test)
    task = BaselineTask(data, split, assign_folds(data, split, 10, rng), label)
    probability = simple_baseline_probabilities(task)
    # Not below the threshold of the weights, so that every review is a like.
    probability[ALWAYS_LIKE][:] = max(label[: len(seen)].mean(), weights[0] / sum(weights))
    by_model = {name: values[test] for name, values in probability.items()}
    name = saved.name
    trained = recommender.predict(fresh["user"].to_list(), fresh["item"].to_list())
    rows = data.user[test], label[test]
    baselines = {key: p for key, p in by_model.items() if key not in (ALWAYS_LIKE, BIAS_MODEL)}
    rivals = RivalModels(name, "new reviews", *rows, trained, by_model[BIAS_MODEL], baselines)
    verdict = reach_verdict(rivals, rivals, len(test), fallback=False)
    by_model[name] = trained
    metrics = {}
    for each, values in by_model.items():
        metrics[each] = evaluate(label[test], values, weights)
    del by_model[ALWAYS_LIKE]
    statistics = bootstrap_models(*rows, by_model, BIAS_MODEL, 500, config.seed)
    return NewReviewsEvaluation(verdict, metrics, *statistics)
