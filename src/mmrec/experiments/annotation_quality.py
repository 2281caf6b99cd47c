"""Measures what a language model wrote against its reviews, and facts that no model sees."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from mmrec.config import Config
from mmrec.data.files import read_records
from mmrec.data.readers import LAYOUTS
from mmrec.errors import DataError
from mmrec.experiments import annotation_measures as measures
from mmrec.experiments.annotate import AnnotatedText, AnnotationRun
from mmrec.experiments.annotation_measures import Example, QualityMeasure
from mmrec.features.dataset import Models
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.types import Note, Summary


@dataclass(frozen=True)
class AnnotationQuality:
    """Measures of the annotations of one model, and what readers of them must know."""

    model: dict[str, Any]
    strategy: str
    prompts: str
    # By kind, the numbers of texts, and of reviews of the sample.
    sample_counts: dict[str, dict[str, int]]
    measures: dict[str, QualityMeasure]
    remarks: list[str]


def measure_annotation_quality(
    run: AnnotationRun, config: Config, models: Models, truth: Path | None = None
) -> AnnotationQuality:
    """Support, agreement, coverage, polarity; a file for `read_truth` adds `truth`, or raises its errors."""
    extractive = ExtractiveModel(models.encoder, config.annotation.item_kind)
    rng = np.random.default_rng(config.seed)
    written, sampled = dict[str, list[AnnotatedText]](), dict[str, list[AnnotatedText]]()
    counts: dict[str, dict[str, int]] = {}
    for kind, texts in run.texts.items():
        written[kind] = [text for text in texts if text.text.strip()]
        # An entity whose reviews have no words needs no text.
        missing = sum(not text.text.strip() and bool(text.evidence) for text in texts)
        sample = _sample(written[kind], rng)
        counts[kind] = {"written": len(written[kind]), "missing": missing}
        reviews = sum(len(text.reviews) for text in sample)
        counts[kind] |= {"sampled": len(sample), "reviews": reviews}
        if len(sample) > 1:
            sampled[kind] = sample
    results = {
        "support": measures.support(sampled, models, rng),
        "agreement": measures.agreement(written, models, rng),
        "coverage": measures.coverage(sampled, models, extractive, rng),
        "polarity": measures.polarity(sampled, extractive, rng),
    }
    if truth:
        results["truth"] = _compare_with_truth(written, run, config, truth)
    for name, measure in list(results.items()):
        if not measure.rows:
            del results[name]
        worst: dict[str, Example] = {}  # by entity
        for example in sorted(measure.examples, key=lambda example: -example.severity):
            if example.severity > 0:
                worst.setdefault(example.entity, example)
        measure.examples[:] = list(worst.values())[:3]
    remarks = [
        "a match shows that two texts have one subject, not that they say the same of it",
        "the extractive model decides what reviews praise and blame; it may err",
    ]
    if not sampled:
        missing_texts = "no two texts were written of reviews with words in them"
        remarks = [f"there is nothing to measure: {missing_texts}"]
    model = models.annotator.note_provenance
    if model["model"] == "builtin":
        quotes = "the extractive model quotes, and is measured by itself"
        remarks.append(f"{quotes}; its values serve for comparison")
    if run.pending:
        remarks.append("answers are pending on the server; what came was measured")
    model = {key: value for key, value in model.items() if key not in ("kind", "prompt")}
    strategy, prompts = config.annotation.strategy, config.language.prompts
    return AnnotationQuality(model, strategy, prompts, counts, results, remarks)


def _sample(
    written: Sequence[AnnotatedText],
    rng: np.random.Generator,
    max_entities: int = 300,
    max_reviews: int = 3000,
) -> list[AnnotatedText]:
    """One random text an entity, of random entities; both text and reviews have sentences."""
    by_entity = {}
    for number in rng.permutation(len(written)):
        by_entity[written[number].entity] = written[number]
    sample, reviews = [], 0
    for text in list(by_entity.values())[:max_entities]:
        reviews += len(text.reviews)
        if reviews <= max_reviews and text.sentences and text.evidence:
            sample.append(text)
    return sample


def _compare_with_truth(
    written: Mapping[str, Sequence[AnnotatedText]], run: AnnotationRun, config: Config, path: Path
) -> QualityMeasure:
    """Compare items with the truth: all their notes, or the summary of most reviews."""
    data = run.dataset.data
    prices, labels = read_truth(path, config.read.map.get("item"))
    if not (prices.keys() | labels.keys()) & {*data.items}:
        raise DataError(f"the item truth {path} has none of the reviewed items; check ids")
    annotations: dict[str, list[Note | Summary]] = defaultdict(list)
    for text in written.get("review", []):
        annotations[data.items[data.item[text.rows[0]]]].append(text.annotation)
    # The summary of most reviews comes last and replaces the others.
    for text in sorted(written.get("item", []), key=lambda text: len(text.rows)):
        annotations[text.entity.removeprefix("item ")] = [text.annotation]
    legend = "Rank correlation with the price; share of categories in the first five."
    # Prices may be levels or amounts: only their ranks count.
    items, scores = sorted(prices.keys() & annotations.keys()), list[float]()
    for item in items:
        scores.append(price_level_score(note.price for note in annotations[item]))
    true_prices = np.array(list(map(prices.__getitem__, items)))
    correlation = measures.rank_correlation(np.array(scores), true_prices)
    of_price: measures.Row = {"count": len(items), "written": correlation}
    items, recall, recall_of_frequent = sorted(labels.keys() & annotations.keys()), [], []
    frequent = most_frequent_labels({item: labels[item] for item in items})
    for item in items:
        ranked = rank_labels(note.categories for note in annotations[item])
        recall.append(label_recall(ranked, labels[item]))
        recall_of_frequent.append(label_recall(frequent, labels[item]))
    written_recall = measures.mean_estimate(recall)
    of_categories: measures.Row = {"count": len(items), "written": written_recall}
    of_categories["most_frequent"] = measures.mean_estimate(recall_of_frequent)
    return QualityMeasure(legend, {"price": of_price, "categories": of_categories})


def normalise_label(label: str) -> str:
    """A label in lower case without punctuation: `Film-Noir` and `film noir` are the same."""
    return " ".join(re.findall(r"[^\W_]+", label.lower()))


def price_level_score(tags: Iterable[str]) -> float:
    """How expensive an item's notes call it, from -1 to 1: the mean over tags and five zeros."""
    # Fair counts a little: a price is called worth it more often where it is high.
    levels = {"cheap price": -1.0, "fair price": 0.3, "overpriced": 1.0}
    scores = list(map(levels.__getitem__, filter(levels.__contains__, tags)))
    return sum(scores) / (len(scores) + 5)  # so that a single note decides little


def rank_labels(labels: Iterable[Sequence[str]]) -> list[str]:
    """An item's labels by the number of notes that have them; on a tie the first one named."""
    return [label for label, _ in Counter(chain.from_iterable(labels)).most_common()]


def label_recall(ranked: Sequence[str], true_labels: Iterable[str], k: int = 5) -> float:
    """Share of an item's true labels among the first `k` ranked."""
    expected = set(map(normalise_label, true_labels))
    return len(expected & set(map(normalise_label, ranked[:k]))) / len(expected)


def most_frequent_labels(truth: Mapping[str, Sequence[str]], k: int = 5) -> list[str]:
    """The `k` labels that most items have: a comparator that knows the truth but reads nothing."""
    counts: Counter[str] = Counter()
    for labels in truth.values():
        counts.update(set(map(normalise_label, labels)))
    return sorted(counts, key=lambda label: (-counts[label], label))[:k]


def read_truth(
    path: Path, item: str | None = None
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Prices and normalised labels of items, from JSON lines or CSV with one row an item.

    These are the first column `price...` or `cost...`, in which "1,300" is 1300 and "$$" is 2, as a
    level; and the first `categor...`, `cuisine...` or `genre...`, with lists or text separated by
    commas or bars. `item` names the column of the id. A DataError says what cannot be read.
    """
    contents = map(attrgetter("content"), read_records(path))
    rows = [content for content in contents if isinstance(content, dict)]
    columns = dict.fromkeys(chain.from_iterable(rows))

    def first_column(*prefixes: str) -> str | None:
        return next((name for name in columns if name.lower().startswith(prefixes)), None)

    usual_ids = chain.from_iterable(names["item"] for names in LAYOUTS.values())
    ids = dict.fromkeys([item] if item else usual_ids)
    id_column = next(filter(columns.__contains__, ids), None)
    price_column = first_column("price", "cost")
    label_column = first_column("categor", "cuisine", "genre")
    if id_column is None or not (price_column or label_column):
        missing = "price or categories" if id_column else f"the item's id ({', '.join(ids)})"
        raise DataError(f"the item truth {path} has no column for {missing}; name one so")
    prices: dict[str, float] = {}
    labels: dict[str, list[str]] = {}
    for row in rows:
        if row.get(id_column) is None:
            continue
        name, price = str(row[id_column]), str(row.get(price_column or "") or "").strip()
        digits = re.sub(r"[^\d.]", "", price)  # "1,300 INR" -> "1300"
        if re.fullmatch(r"[$€£¥₩₹]+", price):
            prices[name] = float(len(price))
        elif re.fullmatch(r"\d+(\.\d+)?", digits):
            prices[name] = float(digits)
        value = row.get(label_column or "")
        texts = value if isinstance(value, list) else re.split(r"[,|]", str(value or ""))
        distinct = dict.fromkeys(map(normalise_label, map(str, texts)))
        distinct.pop("", None)
        if distinct:
            labels[name] = list(distinct)
    return prices, labels
