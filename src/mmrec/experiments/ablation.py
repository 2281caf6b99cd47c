"""What each group of inputs adds: models that see only some of the groups, trained side by side.

Every seed is another split, other evidence and other initial weights; what is compared shares all
three. The results of a seed are plain data: the `extras` that were computed; the `groups` that the
data have; `metrics` on test rows by row of the table; `coalitions`, the ROC-AUC by set of groups, as
in `ratings + photos`; `test_ratio`, test rows to train rows; `remarks`; and `bootstrap`: differences
to the row `everything`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from copy import copy
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.evaluation.metrics import evaluate
from mmrec.evaluation.statistics import Difference, holm_correction, paired_bootstrap, paired_t_test
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.report.html import ResultTable
from mmrec.experiments.significance import BOOTSTRAPPED_METRICS
from mmrec.features.builder import FeatureBuilder, build_features
from mmrec.features.dataset import Dataset, Models
from mmrec.features.tables import FEATURE_GROUPS, Features, available_groups
from mmrec.llm.types import Note
from mmrec.pipeline import PreparedData, TrainedModel, open_models, prepare_data, train_runs
from mmrec.ranker.dlrm import TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.training import class_weights, predict_logits
from mmrec.recommender.explain import shapley_value

__all__ = ["MeanInterval", "SeedResult", "ablate", "ablation_tables", "group_probabilities"]
__all__ += ["metric_rows", "shapley_values", "synergy"]

BuiltFeatures = tuple[FeatureBuilder, Features]
SeedResult = dict[str, Any]
MeanInterval = tuple[float, float]
"""Mean over seeds and half its 95% interval, which is 0 for a single seed."""


def ablate(
    reviews: Reviews, config: Config, models: Models, path: Path, *, seeds: int, extras: set[str]
) -> list[SeedResult]:
    """Train what the `Checkpoint` at `path` does not hold yet, for `seeds` seeds from the config's on.

    The `extras` are `shapley`, all coalitions; `words` and `summaries`, other texts and pictures in
    place of the model's; `bootstrap`, over users, where there is only one seed.

    Raises:
        DataError: too few reviews, or a file at `path` that is no checkpoint.
    """
    checkpoint = Checkpoint(path, reviews, config, models)
    results = []
    for seed in range(config.seed, config.seed + seeds):
        done = checkpoint.results.get(str(seed))
        if done is None or extras - {*done["extras"]}:
            prepared = prepare_data(reviews, config.model_copy(update={"seed": seed}), models)
            checkpoint.put(str(seed), _seed_result(prepared, extras))
        results.append(checkpoint.results[str(seed)])
    return results


def group_probabilities(
    prepared: PreparedData, built: BuiltFeatures, coalitions: Sequence[str]
) -> dict[str, np.ndarray]:
    """Coalition -> (m,) probability of a like of every test row; all start from the same weights."""
    (builder, features), label, split = built, prepared.label, prepared.split
    config = builder.config
    weights = class_weights(label[split.train], config.training.loss)
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
    runs = []
    for coalition in coalitions:
        # What is not in the coalition is masked.
        masked = frozenset(FEATURE_GROUPS).difference(coalition.split(" + "))
        runs.append(TrainingRun(seed, config.ranker.dropout, weights, masked))
    ranker, _ = train_runs(builder, features, label, split, runs)
    logits = predict_logits(ranker, RankerInputs(features), split.test)  # (coalitions, m)
    model = TrainedModel(builder, ranker, weights, {})
    probabilities = (model.probability(logit[None]) for logit in logits)
    return dict(zip(coalitions, probabilities, strict=True))


def _coalition(groups: Sequence[str], without: Collection[str] = ()) -> str:
    return " + ".join(group for group in groups if group not in without)


def _text_and_photo_coalitions(groups: Sequence[str]) -> list[str]:
    """All groups, those without text, without photos, and without both."""
    text, photos = {"user text", "item text"}, {"photos"}
    return [_coalition(groups, without) for without in ((), text, photos, text | photos)]


def _seed_result(prepared: PreparedData, extras: set[str]) -> SeedResult:
    config, split = prepared.config, prepared.split
    built = build_features(prepared.dataset, prepared.evidence, config)
    groups = available_groups(built[1])
    # Row of the table -> the coalition that it is about.
    table_rows = {"everything": _coalition(groups)}
    for group in groups:
        table_rows[f"without {group}"] = _coalition(groups, {group})
    table_rows["without text"] = _coalition(groups, {"user text", "item text"})
    for group in groups:
        table_rows[f"{group} alone"] = group
    needed = [*table_rows.values(), *_text_and_photo_coalitions(groups)]
    for size in range(1, len(groups)) if "shapley" in extras else ():
        needed += map(_coalition, combinations(groups, size))
    # A coalition is trained once, however many rows need it; none may be empty.
    distinct = list(filter(None, dict.fromkeys(needed)))
    by_coalition = group_probabilities(prepared, built, distinct)
    probability = {name: by_coalition[key] for name, key in table_rows.items() if key}
    remarks = config.warnings()
    if absent := ", ".join(group for group in FEATURE_GROUPS if group not in groups):
        remarks.append(f"left out, since these data and model have none: {absent}")
    for name, dataset, variant in _variants(prepared, extras, remarks):
        # Other texts, but the same folds.
        dataset.part = prepared.dataset.part
        variant_built = build_features(dataset, prepared.evidence, variant)
        everything = _coalition(FEATURE_GROUPS)
        variant_probability = group_probabilities(prepared, variant_built, [everything])
        probability[f"with {name}"] = variant_probability[everything]
    label, user = prepared.label[split.test], prepared.dataset.data.user[split.test]
    weights = class_weights(prepared.label[split.train], config.training.loss)
    result: SeedResult = {"extras": sorted(extras), "groups": groups, "remarks": remarks}
    result |= {"metrics": {}, "coalitions": {}, "bootstrap": {}}
    for name, p in probability.items():
        result["metrics"][name] = evaluate(label, p, weights)
        if "bootstrap" in extras:
            gaps = result["bootstrap"][name] = {}
            for key, metric in BOOTSTRAPPED_METRICS.items():
                gaps[key] = paired_bootstrap(user, label, p, probability["everything"], metric)
    for coalition, p in by_coalition.items():
        result["coalitions"][coalition] = evaluate(label, p, weights)["auc"]
    return result | {"test_ratio": len(split.test) / len(split.train)}


def _variants(
    prepared: PreparedData, extras: set[str], remarks: list[str]
) -> Iterator[tuple[str, Dataset, Config]]:
    """The same model with other texts or pictures; why one cannot be tried is added to the remarks."""
    reviews, dataset, config = prepared.reviews, prepared.dataset, prepared.config
    models = dataset.models
    if config.ranker.features == "baseline":
        return
    for extra, strategy in (("words", "notes"), ("summaries", "summary")):
        annotation = config.annotation.model_copy(update={"strategy": strategy})
        variant = config.model_copy(update={"annotation": annotation})
        if extra in extras and strategy != config.annotation.strategy:
            variant_models = open_models(variant, store=models.store)
            yield strategy, Dataset.from_reviews(reviews, variant_models, variant), variant
        if extra == "words" and extra in extras:
            # Vectors of the whole reviews in place of their gists.
            notes = []
            for note, text in zip(dataset.notes, dataset.texts, strict=True):
                notes.append(Note(gist=text, price=note.price, categories=note.categories))
            yield "whole reviews", Dataset.from_reviews(reviews, models, variant, notes), variant
    if "words" in extras and dataset.has_photos(prepared.evidence.evidence_rows, captions=False):
        if models.image_encoder.available():
            # Vectors of the photos themselves in place of their captions.
            seeing = copy(dataset)
            seeing.caption_vectors = dataset.image_vectors
            yield "image vectors", seeing, config
        else:
            model = config.vision.image_model
            remarks.append(f"image vectors were not tried: no weights of {model} here")


def metric_rows(
    results: Sequence[SeedResult], metric: str
) -> list[tuple[str, MeanInterval, Difference]]:
    """Name, mean and difference to the first row, `everything`, of every row of the table.

    `metric` is one of `BOOTSTRAPPED_METRICS`; p-values are adjusted for the number of rows (Holm).
    """
    by_seed = [result["metrics"] for result in results]
    everything = [metrics["everything"][metric] for metrics in by_seed]
    ratio = _test_ratio(results)
    rows = []
    for name in by_seed[0]:
        if not all(name in metrics for metrics in by_seed):
            continue
        values = [metrics[name][metric] for metrics in by_seed]
        if len(results) == 1:
            gap = Difference(*results[0]["bootstrap"][name][metric])
        else:
            gap = paired_t_test(values, everything, ratio)
        rows.append((name, _mean_interval(values, ratio), gap))
    # The first row is compared with itself, which is no test.
    p_values = [1.0, *holm_correction([gap.p_value for *_, gap in rows[1:]]).tolist()]
    return [
        (name, mean, gap._replace(p_value=p_value))
        for (name, mean, gap), p_value in zip(rows, p_values, strict=True)
    ]


def _test_ratio(results: Sequence[SeedResult]) -> float:
    return float(np.mean([result["test_ratio"] for result in results]))


def _mean_interval(values: Sequence[float], test_ratio: float) -> MeanInterval:
    if len(values) < 2:
        return values[0], 0.0
    # Against zeros the paired test gives the interval of a mean.
    mean, low, *_ = paired_t_test(values, [0.0] * len(values), test_ratio)
    return mean, mean - low


def shapley_values(results: Sequence[SeedResult]) -> dict[str, MeanInterval]:
    """Group -> its exact share of the ROC-AUC above .5; empty where a coalition was not trained."""
    shares: dict[str, list[float]] = {}
    for result in results:
        values = {frozenset[str](): 0.5}  # without inputs: guessing
        for coalition, value in result["coalitions"].items():
            values[frozenset(coalition.split(" + "))] = value
        # All 2^n coalitions of n groups are needed.
        if len(values) < 2 ** len(result["groups"]):
            return {}
        for group in result["groups"]:
            shares.setdefault(group, []).append(shapley_value(values, group))
    ratio = _test_ratio(results)
    return {group: _mean_interval(share, ratio) for group, share in shares.items()}


def synergy(results: Sequence[SeedResult]) -> Difference | None:
    """v(all) - v(without text) - v(without photos) + v(without both), v being ROC-AUC on test.

    Above zero, text and photos complement each other; below, they hold the same information. None
    with one seed, and where either is missing.
    """
    with_photos, without_photos = [], []  # what text adds, by seed
    for result in results:
        coalitions = _text_and_photo_coalitions(result["groups"])
        if len(results) < 2 or len({*coalitions}) < 4:
            return None
        values = [result["coalitions"].get(coalition, 0.5) for coalition in coalitions]
        with_photos.append(values[0] - values[1])
        without_photos.append(values[2] - values[3])
    return paired_t_test(with_photos, without_photos, _test_ratio(results))


def ablation_tables(results: Sequence[SeedResult]) -> list[ResultTable]:
    """One for each metric; where all coalitions were trained, what each group is worth."""
    test = "a bootstrap over users"
    if (count := len(results)) > 1:
        test = f"Student's t over {count} splits of the same reviews (Nadeau & Bengio's variance)"
    notes = [
        f"intervals (95%) and p, in pairs, by {test}; p is adjusted for the whole table (Holm)",
        "one training per row, where `mmrec fit` averages several (--ensemble)",
        *dict.fromkeys(chain(*(result["remarks"] for result in results))),
    ]
    if gap := synergy(results):
        meaning = "above 0 they complement each other, below they hold the same information"
        values = f"{gap.as_text(4)}, p {gap.p_value:.3f}"
        notes.append(f"synergy of text and photos in ROC-AUC: {values}; {meaning}")
    tables = []
    for metric, title in (("auc", "ROC-AUC"), ("fpr_at_90", "FPR at TPR .90")):
        rows = []
        for name, mean, gap in metric_rows(results, metric):
            rows.append([name, _format_mean(mean), gap.as_text(4), f"{gap.p_value:.3f}"])
        header = ["inputs", title, "less that of everything", "p"]
        tables.append(ResultTable(f"What inputs add to {title}", header, rows, notes=notes))
    if shares := shapley_values(results):
        rows = [[group, _format_mean(share)] for group, share in shares.items()]
        notes = ["exact Shapley values; they add up to the ROC-AUC of everything less .5"]
        header = ["group", "ROC-AUC"]
        tables.append(ResultTable("What each group is worth", header, rows, notes=notes))
    return tables


def _format_mean(mean: MeanInterval) -> str:
    return f"{mean[0]:.4f} ±{mean[1]:.4f}" if mean[1] else f"{mean[0]:.4f}"
