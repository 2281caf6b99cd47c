"""What each group of inputs adds: models that see only some of the groups, trained side by side.

Every seed is another split, other evidence and other initial weights; what is compared shares all
three. The results of a seed are plain data: `extras` that were computed; `groups` that the data
have; `metrics` on test rows by row of the table; `coalitions`, ROC-AUC by set, as in
`ratings + photos`; `test_ratio`, test rows to train rows; and `remarks`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmrec import pipeline
from mmrec.config import Config
from mmrec.evaluation import statistics
from mmrec.evaluation.metrics import evaluate
from mmrec.evaluation.statistics import Difference
from mmrec.experiments.checkpoint import Checkpoint
from mmrec.experiments.report.charts import bar_chart
from mmrec.experiments.report.html import ResultTable, write_page
from mmrec.features.builder import FeatureBuilder, build_features
from mmrec.features.dataset import Dataset
from mmrec.features.tables import FEATURE_GROUPS, Features, available_groups
from mmrec.llm.types import Note
from mmrec.ranker.inputs import RankerInputs, TrainingRun
from mmrec.ranker.training import class_weights, predict_logits
from mmrec.recommender.explain import shapley_value

SeedResult = dict[str, Any]
MeanInterval = tuple[float, ...]
"""Mean over seeds and the ends of its 95% interval, or the value of a single seed alone."""
_TEXT, _PHOTOS = ("user text", "item text"), ("photos",)
_METRICS = {"auc": "ROC-AUC", "fpr_at_90": "FPR at TPR .90"}


def ablate(checkpoint: Checkpoint, seeds: int, extras: set[str]) -> list[SeedResult]:
    """Train what the checkpoint lacks, for `seeds` seeds from the config's on.

    The `extras` are `shapley`, all coalitions; `words` and `summaries`, other texts and pictures.
    Raises DataError for too few reviews.
    """
    results = []
    for seed in range(checkpoint.config.seed, checkpoint.config.seed + seeds):
        result = checkpoint.results.get(str(seed))
        if result is None or not extras <= {*result["extras"]}:
            result = _seed_result(checkpoint, seed, extras)
            checkpoint.put(str(seed), result)
        results.append(result)
    return results


def _coalition(groups: Sequence[str], without: Sequence[str] = ()) -> str:
    return " + ".join(group for group in groups if group not in without)


def _seed_result(checkpoint: Checkpoint, seed: int, extras: set[str]) -> SeedResult:
    config = checkpoint.config.model_copy(update={"seed": seed})
    prepared = pipeline.prepare_data(checkpoint.reviews, config, checkpoint.models)
    built = build_features(prepared.dataset, prepared.evidence, config)
    split = prepared.split
    groups = available_groups(built[1])
    # Row of the table -> the coalition that it is about; "" where it has no group.
    table = {"everything": _coalition(groups)}
    table |= {f"without {group}": _coalition(groups, [group]) for group in groups}
    table["without text"] = _coalition(groups, _TEXT)
    table |= {f"{group} alone": group for group in groups}
    needed = [*table.values(), _coalition(groups, _PHOTOS), _coalition(groups, _TEXT + _PHOTOS)]
    for size in range(1, len(groups)) if "shapley" in extras else ():
        needed += map(_coalition, combinations(groups, size))
    distinct = list(filter(None, dict.fromkeys(needed)))
    by_coalition = _probabilities(prepared, built, distinct)
    probability = {name: by_coalition[key] for name, key in table.items() if key}
    remarks = config.warnings()
    if absent := _coalition(FEATURE_GROUPS, groups).replace(" +", ","):
        remarks.append(f"left out, since these data and model have none: {absent}")
    for name, dataset, variant in _variants(prepared, extras, remarks):
        dataset.part = prepared.dataset.part
        built = build_features(dataset, prepared.evidence, variant)
        all_groups = _coalition(FEATURE_GROUPS)
        of_variant = _probabilities(prepared, built, [all_groups])
        probability[f"with {name}"] = of_variant[all_groups]
    label = prepared.label[split.test]
    weights = class_weights(prepared.label[split.train], config.training.loss)
    result: SeedResult = {"extras": sorted(extras), "groups": groups, "remarks": remarks}
    result |= {"metrics": {}, "coalitions": {}}
    for name, p in probability.items():
        result["metrics"][name] = evaluate(label, p, weights)
    for coalition, p in by_coalition.items():
        result["coalitions"][coalition] = evaluate(label, p, weights)["auc"]
    return result | {"test_ratio": len(split.test) / len(split.train)}


def _probabilities(
    prepared: pipeline.PreparedData, built: tuple[FeatureBuilder, Features], coalitions: list[str]
) -> dict[str, np.ndarray]:
    """Coalition -> (m,) probability of a like of every test row; all start alike."""
    (builder, features), split = built, prepared.split
    config = builder.config
    weights = class_weights(prepared.label[split.train], config.training.loss)
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
    runs = []
    for coalition in coalitions:
        masked = frozenset(FEATURE_GROUPS).difference(coalition.split(" + "))
        runs.append(TrainingRun(seed, config.ranker.dropout, weights, masked))
    ranker, _ = pipeline.train_runs(prepared, builder, features, runs)
    logits = predict_logits(ranker, RankerInputs(features), split.test)  # (coalitions, m)
    model = pipeline.TrainedModel(builder, ranker, weights, {})
    # Each run is a model of its own, not to be averaged with the others.
    return dict(zip(coalitions, map(model.probability, logits[:, None]), strict=True))


def _variants(
    prepared: pipeline.PreparedData, extras: set[str], remarks: list[str]
) -> Iterator[tuple[str, Dataset, Config]]:
    """The same model with other texts or pictures; remarks say why one cannot be tried."""
    reviews, dataset, config = prepared.reviews, prepared.dataset, prepared.config
    models, has_words = dataset.models, "words" in extras
    if config.ranker.features == "baseline":
        return
    for extra, strategy in (("summaries", "summary"), ("words", "notes")):
        variant = config.changed("annotation", strategy=strategy)
        if extra in extras and variant != config:
            variant_models = pipeline.open_models(variant, store=models.store)
            yield strategy, Dataset.from_reviews(reviews, variant_models, variant), variant
    if has_words:
        # Vectors of the whole reviews in place of their gists; the strategy is `notes`.
        notes = []
        for note, text in zip(dataset.notes, dataset.texts, strict=True):
            notes.append(Note(gist=text, price=note.price, categories=note.categories))
        yield "whole reviews", Dataset.from_reviews(reviews, models, variant, notes), variant
    if has_words and dataset.has_photos(prepared.evidence.evidence_rows, captions=False):
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
    """Name, mean and difference to the first row, `everything`, of every row; p is Holm's."""
    by_name: dict[str, list[float]] = defaultdict(list)  # values of seeds
    for result in results:
        for name, metrics in result["metrics"].items():
            by_name[name].append(metrics[metric])
    rows = []
    for name, values in by_name.items():
        if len(values) == len(results):  # trained with every seed
            gap = _paired_test(results, values, by_name["everything"])
            rows.append((name, _mean_interval(results, values), gap))
    # The first row is compared with itself, which is no test.
    corrected = statistics.holm_correction([gap.p_value for _, _, gap in rows[1:]])
    for row, p_value in enumerate(corrected.tolist(), 1):
        name, mean, gap = rows[row]
        rows[row] = name, mean, gap._replace(p_value=p_value)
    return rows


def _paired_test(
    results: Sequence[SeedResult], first: Sequence[float], second: Sequence[float]
) -> Difference:
    test_ratio = np.mean([result["test_ratio"] for result in results])
    return statistics.paired_t_test(first, second, float(test_ratio))


def _mean_interval(results: Sequence[SeedResult], values: Sequence[float]) -> MeanInterval:
    return _paired_test(results, values, [0.0] * len(values)).interval


def shapley_values(results: Sequence[SeedResult]) -> dict[str, MeanInterval]:
    """Group -> its exact share of the ROC-AUC above .5; empty unless all coalitions are there."""
    shares: dict[str, list[float]] = defaultdict(list)
    for result in results:
        values = {frozenset[str](): 0.5}  # without inputs: guessing
        for coalition, value in result["coalitions"].items():
            values[frozenset(coalition.split(" + "))] = value
        if len(values) < 2 ** len(result["groups"]):
            return {}
        for group in result["groups"]:
            shares[group].append(shapley_value(values, group))
    return {group: _mean_interval(results, share) for group, share in shares.items()}


def synergy(results: Sequence[SeedResult]) -> Difference | None:
    """v(all) - v(without text) - v(without photos) + v(without both), v being ROC-AUC on test.

    None with one seed, and where text or photos are missing.
    """
    with_photos, without_photos = [], []  # what text adds, by seed
    for result in results:
        names = []
        for left_out in ((), _TEXT, _PHOTOS, _PHOTOS + _TEXT):
            names.append(_coalition(result["groups"], left_out))
        if len(results) < 2 or len({*names}) < 4:
            return None
        values = [result["coalitions"].get(name, 0.5) for name in names]
        with_photos.append(values[0] - values[1])
        without_photos.append(values[2] - values[3])
    return _paired_test(results, with_photos, without_photos)


def ablation_tables(results: Sequence[SeedResult]) -> list[ResultTable]:
    """One for each metric; where all coalitions were trained, what each group is worth."""
    remarks = dict.fromkeys(remark for result in results for remark in result["remarks"])
    training = "one training per row, where `mmrec fit` averages several (--ensemble)"
    notes = [training, *remarks]
    test = "one seed has no intervals and no p; add --seeds 3"
    if (count := len(results)) > 1:
        test = f"intervals (95%) and p by Student's t over {count} splits of the same "
        test += "reviews (Nadeau & Bengio); p is adjusted for all rows (Holm)"
    notes.insert(0, test)
    if gap := synergy(results):
        meaning = "above 0 they complement each other, below they say the same"
        values = f"{gap.as_text(4)}, p {gap.p_value:.3f}"
        notes.append(f"synergy of text and photos in ROC-AUC: {values}; {meaning}")
    tables = []
    for metric, title in _METRICS.items():
        rows = []
        for name, mean, gap in metric_rows(results, metric):
            p_value = f"{gap.p_value:.3f}" if len(results) > 1 else "-"
            rows.append([name, _format_mean(mean), gap.as_text(4), p_value])
        header = ["inputs", title, "difference to everything", "p"]
        tables.append(ResultTable(f"What inputs add to {title}", header, rows, notes=notes))
    if shares := shapley_values(results):
        note = "exact Shapley values; they add up to the ROC-AUC of everything less .5"
        rows = [[group, _format_mean(share)] for group, share in shares.items()]
        title, header = "What each group is worth", ["group", "ROC-AUC"]
        tables.append(ResultTable(title, header, rows, notes=[note]))
    return tables


def _format_mean(interval: MeanInterval) -> str:
    mean, *ends = interval
    return f"{mean:.4f} ±{ends[1] - mean:.4f}" if ends else f"{mean:.4f}"


def ablation_page(results: Sequence[SeedResult], model: str, path: Path, command: str) -> Path:
    """Write the page of what `ablate` returned for `model`."""
    charts: dict[str, list[str]] = {"changes": [], "alone": [], "shares": []}
    for metric, title in _METRICS.items():
        gaps = {}
        for name, _, gap in metric_rows(results, metric):
            if name.startswith("with"):
                gaps[name] = gap.interval
        is_auc, name = metric == "auc", f"less-{metric}"
        title = f"{title}: {'left' if is_auc else 'right'} is worse"
        charts["changes"].append(bar_chart(gaps, title, name, model, percent=not is_auc))
    alone = {}
    for name, auc, _ in metric_rows(results, "auc"):
        if name.endswith(" alone"):
            alone[name] = tuple(np.subtract(auc, 0.5))
    for panel, bars in (("alone", alone), ("shares", shapley_values(results))):
        if bars:
            charts[panel].append(bar_chart(bars, "ROC-AUC above .5", panel, model))
    title, tables = f"What the inputs of {model} add", ablation_tables(results)
    return write_page(path, title, command, "ablation", tables=tables, **charts)
