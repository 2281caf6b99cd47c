"""Baseline and proposed beside the simple peers, on one split, from the same evidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmrec.config import Config
from mmrec.data.schema import Reviews
from mmrec.data.split import Split, filter_reviews, split_reviews
from mmrec.errors import DataError
from mmrec.evaluation import Metrics, OperatingPoint, class_weights, evaluate
from mmrec.evidence.policies import Evidence
from mmrec.experiments.baselines import baseline_probabilities
from mmrec.experiments.trained_baselines import trained_baseline_probabilities
from mmrec.features.dataset import Dataset, Models
from mmrec.features.tables import Features
from mmrec.pipeline import TrainedModel, train_model

__all__ = ["Comparison", "Prepared", "compare", "config_warnings", "operating_point", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A filtered corpus, split, with its evidence derived."""

    reviews: Reviews
    corpus: Dataset
    split: Split
    evidence: Evidence
    label: np.ndarray
    config: Config


@dataclass(frozen=True)
class Comparison:
    """What came out of one run.

    Attributes:
        prepared: the data.
        metrics: name -> figures on the test rows; peers first.
        probability: name -> (n,) probability of a like of every row.
        thresholds: of the trained ones, the probability from which on to recommend, chosen on valid.
        models, features: of the trained ones, by name.
        seconds: name -> time taken by preparing features and training.
        remarks: what was skipped or must be known to read the figures.
    """

    prepared: Prepared
    metrics: dict[str, Metrics]
    probability: dict[str, np.ndarray]
    thresholds: dict[str, float] = field(default_factory=dict)
    models: dict[str, TrainedModel] = field(default_factory=dict)
    features: dict[str, Features] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def prepare(reviews: Reviews, config: Config, models: Models) -> Prepared:
    """Filter and split reviews and derive the evidence, all from the configured seed.

    Raises:
        DataError: too few reviews, or only likes or only dislikes in some part.
    """
    table = reviews.table.with_row_index("row")
    rows = filter_reviews(table, config.split.min_reviews)["row"].to_numpy()
    if config.evidence.filtered_rows:
        kept = np.isin(np.arange(table.height), rows)
    else:
        kept, reviews = np.ones(len(rows), dtype=bool), replace(reviews, table=reviews.table[rows])
    corpus = Dataset.from_reviews(reviews, models, config)
    rng = np.random.default_rng(config.seed)
    split = split_reviews(corpus.data, config.split, rng, kept)
    evidence = Evidence.derive(
        corpus.data, split, config.evidence.policy, config.evidence.folds, rng
    )
    corpus.part = evidence.fold
    label = corpus.data.rating >= config.like_rating
    for name, rows in (("train", split.train), ("valid", split.valid), ("test", split.test)):
        if label[rows].all() or not label[rows].any():
            kind = "likes" if label[rows].any() else "dislikes"
            raise DataError(
                f"{reviews.source}: the {len(rows)} {name} reviews are all {kind} "
                f"(rating >= {config.like_rating:g}); there is nothing to tell apart. Bring more reviews, "
                "or check the ratings and --like-rating"
            )
    return Prepared(reviews, corpus, split, evidence, label, config)


def compare(
    reviews: Reviews,
    config: Config,
    models: Models,
    model_names: Sequence[str] = ("baseline", "proposed", "mmrec"),
    *,
    trained_baselines: bool = False,
) -> Comparison:
    """Run the peers and the models named on one split.

    Args:
        reviews: as read; filtered here.
        config: everything else; `config.ranker.features` is replaced by each of `model_names`.
        models: what reads.
        model_names: any of `baseline`, `proposed` and `mmrec`.
        trained_baselines: whether to train the peers too that take features (`trained_baselines.py`).
    """
    prepared = prepare(reviews, config, models)
    split, label = prepared.split, prepared.label
    weights = class_weights(label[split.train], config.training.loss)
    probability = baseline_probabilities(prepared.corpus.data, split, label)
    if set(model_names) - {"baseline"} and config.annotation.strategy == "notes":
        _ = prepared.corpus.notes  # What may fail goes before what takes long.
    result = Comparison(prepared, {}, probability, remarks=config_warnings(config))
    for name in model_names:
        start = time.perf_counter()
        ranker = config.ranker.model_copy(update={"features": name})
        own = config.model_copy(update={"ranker": ranker})
        model, features, probability[name] = train_model(
            prepared.corpus, prepared.evidence, split, own
        )
        result.models[name], result.features[name] = model, features
        result.seconds[name] = time.perf_counter() - start
        chosen = probability[name][split.valid]
        result.thresholds[name] = operating_point(config).threshold(label[split.valid], chosen)
        result.remarks.extend(_pictures(name, prepared, model, config))
    if trained_baselines:
        start = time.perf_counter()
        # The features of the paper's model; ours come with fitted effects, which are part of the ranker.
        features = result.features.get("proposed") or next(iter(result.features.values()))
        others, remarks = trained_baseline_probabilities(
            features, prepared.corpus.data, split, label, config.seed
        )
        probability.update(others)
        result.remarks.extend(remarks)
        result.seconds["peers"] = time.perf_counter() - start
    if failed := models.annotator.failure_summary:
        result.remarks.append(f"{models.annotator.note_provenance['model']}: {failed}")
    for name in sorted(probability, key=lambda name: name in result.models):  # peers first
        result.metrics[name] = evaluate(label[split.test], probability[name][split.test], weights)
    return result


def operating_point(config: Config) -> OperatingPoint:
    """The bound that a threshold is to keep."""
    if config.operating.min_tpr is not None:
        return OperatingPoint("min_tpr", config.operating.min_tpr)
    return OperatingPoint("max_fpr", config.operating.max_fpr)


def _pictures(name: str, prepared: Prepared, model: TrainedModel, config: Config) -> list[str]:
    """What must be known of the photos that a model was trained with, or without."""
    corpus = prepared.corpus
    if model.builder.image:
        failed = "" if name == "baseline" else str(corpus.captions)
        return [f"{name}: {failed}"] if failed else []
    if not corpus.has_photos(prepared.evidence.evidence_rows, captions=name != "baseline"):
        return [f"{name}: no image block, since no item has a photo"]
    model_name = config.vision.image_model
    return [
        f"{name}: no image block, since the weights of {model_name} are not here; name a folder that holds "
        f"them with --image-model, or bring them with `hf download {model_name}`"
    ]


def config_warnings(config: Config) -> list[str]:
    """What must be known of a configuration to read its figures."""
    remarks = []
    if config.training.select == "test":
        remarks.append(
            "the epochs were chosen on test rows, as in the paper: these figures flatter"
        )
    if config.evidence.policy in ("leave_one_out", "all"):
        remarks.append(
            f"evidence policy `{config.evidence.policy}` leaks the label into training rows"
        )
    if config.evidence.policy == "past":
        remarks.append(
            "under `past` train rows hear earlier valid rows, by which the epoch is chosen"
        )
    if config.evidence.summaries == "all" and config.annotation.strategy == "summary":
        remarks.append(
            "summaries are made of all known reviews, a row's own among them: they leak the label"
        )
    return remarks
