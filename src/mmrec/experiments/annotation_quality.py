"""Measures what a language model wrote against the reviews that it read, and known facts of items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from mmrec.config import Config
from mmrec.errors import DataError
from mmrec.experiments import annotation_measures as measures
from mmrec.experiments import item_truth
from mmrec.experiments.annotate import AnnotatedText, AnnotationRun
from mmrec.experiments.annotation_measures import Example, QualityContext, QualityMeasure
from mmrec.features.dataset import Models
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.types import Note, Summary

__all__ = ["AnnotationQuality", "measure_annotation_quality"]


@dataclass(frozen=True)
class AnnotationQuality:
    """Measures of the annotations of one model, and what readers of them must know."""

    model: dict[str, Any]
    strategy: str
    prompts: str
    # By kind, texts `written` and `missing`, those `sampled` (one an entity), and the `reviews`
    # that these are compared with.
    sample_counts: dict[str, dict[str, int]]
    measures: dict[str, QualityMeasure]  # with the worst examples of each
    remarks: list[str]


def measure_annotation_quality(
    run: AnnotationRun, config: Config, models: Models, truth: Path | None = None
) -> AnnotationQuality:
    """Measure support, agreement, coverage and polarity of the annotations.

    A file of items with their price or categories (see `item_truth.read_truth`) adds `truth`.

    Raises:
        DataError: the file of items cannot be used.
    """
    extractive = ExtractiveModel(models.encoder, config.annotation.item_kind)
    context = QualityContext(models, extractive, np.random.default_rng(config.seed))
    written: dict[str, list[AnnotatedText]] = {}
    sampled: dict[str, list[AnnotatedText]] = {}
    sample_counts = {}
    for kind, texts in run.texts().items():
        written[kind] = [text for text in texts if text.text.strip()]
        # An entity whose reviews have no words needs no text.
        missing = [text for text in texts if not text.text.strip() and text.evidence_sentences]
        sample = _sample(written[kind], context.rng)
        if len(sample) > 1:
            sampled[kind] = sample
        counts = {"written": len(written[kind]), "missing": len(missing), "sampled": len(sample)}
        sample_counts[kind] = counts | {"reviews": sum(len(text.reviews) for text in sample)}
    results = {
        "support": measures.support(sampled, context),
        "agreement": measures.agreement(written, context),
        "coverage": measures.coverage(sampled, context),
        "polarity": measures.polarity(sampled, context),
    }
    if truth:
        results["truth"] = _compare_with_truth(written, run, config, truth)
    shown = {}
    for name, measure in results.items():
        if measure.rows:
            shown[name] = replace(measure, examples=_worst_examples(measure.examples))
    provenance = models.annotator.note_provenance
    model = {name: value for name, value in provenance.items() if name not in ("kind", "prompt")}
    remarks = _remarks(bool(sampled), model.get("model") == "builtin", bool(run.pending))
    strategy, prompts = config.annotation.strategy, config.language.prompts
    return AnnotationQuality(model, strategy, prompts, sample_counts, shown, remarks)


def _sample(
    written: Sequence[AnnotatedText],
    rng: np.random.Generator,
    max_entities: int = 300,
    max_reviews: int = 3000,
) -> list[AnnotatedText]:
    """One random text an entity, of random entities, where both text and reviews have sentences."""
    shuffled = (written[number] for number in rng.permutation(len(written)))
    by_entity = {text.entity: text for text in shuffled}
    sample, reviews = [], 0
    for text in list(by_entity.values())[:max_entities]:
        reviews += len(text.reviews)
        if reviews <= max_reviews and text.sentences and text.evidence_sentences:
            sample.append(text)
    return sample


def _compare_with_truth(
    written: Mapping[str, Sequence[AnnotatedText]], run: AnnotationRun, config: Config, path: Path
) -> QualityMeasure:
    """Compare the annotations of items with the truth: all notes, or the summary of most reviews."""
    data = run.dataset.data
    prices, labels = item_truth.read_truth(path, config.read.map.get("item"))
    if not (prices.keys() | labels.keys()) & {*data.items}:
        raise DataError(f"the item truth {path} has none of the reviewed items; check its ids")
    annotations: dict[str, list[Note | Summary]] = defaultdict(list)
    for text in written.get("review", []):
        annotations[data.items[data.item[text.rows[0]]]].append(text.annotation)
    # The summary of most reviews comes last and replaces the others.
    for text in sorted(written.get("item", []), key=lambda text: len(text.rows)):
        annotations[text.entity] = [text.annotation]
    legend = "Rank correlation with the true price; share of true categories in the first five."
    measure = QualityMeasure(legend)
    items = sorted(prices.keys() & annotations.keys())
    tags = {item: [note.price for note in annotations[item]] for item in items}
    scores = np.array([item_truth.price_level_score(tags[item]) for item in items])
    # Prices may be levels or amounts: only their ranks count.
    true_prices = np.array([prices[item] for item in items])
    for item, gap in zip(items, rankdata(scores) - rankdata(true_prices), strict=True):
        reason = f"{abs(gap):g} of {len(items)} ranks too {'high' if gap > 0 else 'low'}"
        severity, named = abs(gap) / len(items), ", ".join(dict.fromkeys(tags[item]))
        example = Example(f"price of {item}", reason, severity, named, f"{prices[item]:g}")
        measure.examples.append(example)
    correlation = measures.rank_correlation(scores, true_prices)
    measure.rows["price"] = {"count": len(items), "written": correlation}
    items = sorted(labels.keys() & annotations.keys())
    frequent = item_truth.most_frequent_labels({item: labels[item] for item in items})
    recall, recall_of_frequent = [], []
    for item in items:
        ranked = item_truth.rank_labels(note.categories for note in annotations[item])
        recall.append(item_truth.label_recall(ranked, labels[item]))
        recall_of_frequent.append(item_truth.label_recall(frequent, labels[item]))
        reason = f"{recall[-1]:.0%} of the true ones are named"
        texts = ", ".join(ranked[:5]), ", ".join(labels[item])
        measure.examples.append(Example(f"categories of {item}", reason, 1 - recall[-1], *texts))
    measure.rows["categories"] = {
        "count": len(items),
        "written": measures.mean_estimate(recall),
        "most_frequent": measures.mean_estimate(recall_of_frequent),
    }
    return measure


def _worst_examples(examples: Sequence[Example], limit: int = 3) -> list[Example]:
    """The worst examples, each of another entity."""
    worst: dict[str, Example] = {}
    for example in sorted(examples, key=lambda example: -example.severity):
        if example.severity > 0:
            worst.setdefault(example.entity, example)
    return list(worst.values())[:limit]


def _remarks(sampled: bool, builtin: bool, pending: bool) -> list[str]:
    missing = "there is nothing to measure: no two texts were written of reviews with words in them"
    remarks = [missing]
    if sampled:
        remarks = [
            "a match shows that two texts have the same subject, not that they say the same of it",
            "the extractive model decides what reviews praise and blame, and errs at times",
        ]
    if builtin:
        text = "the extractive model quotes, and is measured by itself"
        remarks.append(f"{text}; its values serve for comparison")
    if pending:
        remarks.append("answers are pending on the server; only those that are here were measured")
    return remarks
