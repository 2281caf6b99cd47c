"""Four measures of what a language model wrote, compared with the reviews that it read.

A cosine means nothing alone. So a claim *matches* n texts where it occurs in them word for word, or
is nearer to one of them than to any of up to 19 n texts about other entities. Claims that have
nothing to do with the texts would match at the rate `by_chance`: n over all texts compared.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain, compress, product
from operator import attrgetter, itemgetter

import numpy as np
import polars as pl
from scipy.stats import linregress, sem, spearmanr

from mmrec.experiments.annotate import AnnotatedText, SourcedText
from mmrec.features.dataset import Models
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.lexicon import split_words


@dataclass(frozen=True)
class Example:
    """A text of an entity to read beside another one, why, and how severe that is."""

    entity: str
    reason: str
    severity: float
    text: str
    compared_text: str = ""
    review_id: str = ""


@dataclass(frozen=True)
class Estimate:
    """A value, and its standard error where it has one."""

    value: float
    error: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if self.error is None else f"±{self.error:.2f}")


Row = dict[str, int | Estimate | None]
"""Counts and estimates by name; None where there is nothing to estimate one from."""


@dataclass(frozen=True)
class QualityMeasure:
    """What a measure means in a line, its rows by what they are of, and the worst examples."""

    legend: str
    rows: dict[str, Row] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)


AnnotatedTexts = Mapping[str, Sequence[AnnotatedText]]


def support(texts: AnnotatedTexts, models: Models, rng: np.random.Generator) -> QualityMeasure:
    """Is each sentence of a text, each like and each dislike supported by its reviews?"""
    measure = QualityMeasure("Share of what was written that matches the reviews.")
    for kind, annotated in texts.items():
        evidence = list(chain.from_iterable(map(attrgetter("evidence"), annotated)))
        for aspect in ("text", "likes", "dislikes"):
            claims: list[SourcedText] = []
            for text in annotated:
                written = text.sentences if aspect == "text" else getattr(text.annotation, aspect)
                claims += product([text.entity], written, [""])
            rates = match_rates(claims, evidence, models, rng, measure.examples)
            measure.rows[f"{kind}: {aspect}"] = rates
    return measure


def coverage(
    texts: AnnotatedTexts, models: Models, extractive: ExtractiveModel, rng: np.random.Generator
) -> QualityMeasure:
    """Are likes (dislikes) that the extractive model quotes from reviews written with that polarity?"""
    measure = QualityMeasure("Share of reviews' likes and dislikes that match the text.")
    for kind, annotated in texts.items():
        # All reviews in one call; `zip` below takes as many notes as a text has reviews.
        reviews = list(chain.from_iterable(text.reviews.values() for text in annotated))
        all_notes = models.quote_annotator.write_notes(reviews)
        for aspect, sign in (("likes", 1), ("dislikes", -1)):
            notes, claims, written = iter(all_notes), list[SourcedText](), list[SourcedText]()
            for text in annotated:
                for review_id, note in zip(text.reviews, notes, strict=False):
                    claims += product([text.entity], getattr(note, aspect), [review_id])
                same_sign = extractive.polarity(text.sentences) * sign > 0
                written += product([text.entity], getattr(text.annotation, aspect), [""])
                written += product([text.entity], compress(text.sentences, same_sign), [""])
            rates = match_rates(claims, written, models, rng, measure.examples)
            measure.rows[f"{kind}: {aspect}"] = rates
    return measure


def match_rates(
    claims: Sequence[SourcedText],
    texts: Sequence[SourcedText],
    models: Models,
    rng: np.random.Generator,
    examples: list[Example],
) -> Row:
    """Compare claims with texts of their entities and of others; without a match, to `examples`."""
    vectors = []  # (claims, d) and (texts, d)
    for sourced in (claims, texts):
        plain = list(map(itemgetter(1), sourced))
        vectors.append(models.encoder.encode(plain, "checking").astype(np.float32))
    claim_vectors, text_vectors = vectors
    codes: dict[str, int] = {}
    words: dict[str, list[str]] = defaultdict(list)
    entity_code = np.empty(len(texts), dtype=np.int64)  # of each text's entity
    for row, (entity, text, _) in enumerate(texts):
        entity_code[row] = codes.setdefault(entity, len(codes))
        words[entity] += split_words(text)
    matched, verbatim, chances = list[bool](), list[bool](), list[float]()
    for (entity, claim, review_id), vector in zip(claims, claim_vectors, strict=True):
        is_same = entity_code == codes.get(entity, -1)
        same_rows, other_rows = np.flatnonzero(is_same), np.flatnonzero(~is_same)
        sample = rng.permutation(other_rows)[: 19 * len(same_rows)]
        cosine = text_vectors[same_rows] @ vector
        # Without texts of the entity or of others there is no match but word for word.
        limit, nearest = np.inf, float(cosine.max(initial=-1))
        if len(sample):
            limit = float((text_vectors[sample] @ vector).max())
            # The nearest of all is equally likely to be any of them.
            chances.append(len(same_rows) / (len(same_rows) + len(sample)))
        quoted = f" {' '.join(split_words(claim))} "  # between spaces: whole words
        verbatim.append(bool(quoted.strip()) and quoted in f" {' '.join(words[entity])} ")
        matched.append(verbatim[-1] or nearest > limit)
        if not matched[-1]:
            quote, reason = ("", "", ""), "nothing to match"
            if len(same_rows):
                quote = texts[same_rows[cosine.argmax()]]
                reason = f"nearest cosine {nearest:.2f}, others reach {limit:.2f}"
            compared = quote[1], review_id or quote[2]
            examples.append(Example(entity, reason, 1 - nearest, claim, *compared))
    entities = list(map(itemgetter(0), claims))
    return {
        "count": len(claims),
        "matched": mean_estimate(matched, entities),
        "verbatim": mean_estimate(verbatim, entities),
        "by_chance": Estimate(float(np.mean(chances))) if chances else None,
    }


def agreement(
    texts: AnnotatedTexts, models: Models, rng: np.random.Generator, max_pairs: int = 300
) -> QualityMeasure:
    """Do two summaries of one entity, of different reviews, agree more than those of two entities?

    `price` is the share of pairs with the same tag; `categories`, and `shared` reviews, are Jaccard
    indices.
    """
    measure = QualityMeasure("Likeness of two summaries of one entity, or of two.")
    for kind in ("item", "user"):
        annotated = texts.get(kind, [])
        by_entity: dict[str, dict[frozenset[str], AnnotatedText]] = defaultdict(dict)
        for number in rng.permutation(len(annotated)):
            text = annotated[number]
            by_entity[text.entity][frozenset(text.reviews)] = text
        pairs = [[*views.values()][:2] for views in by_entity.values() if len(views) > 1]
        pairs = pairs[:max_pairs]
        if len(pairs) < 2:
            continue
        firsts, seconds = zip(*pairs, strict=True)
        written = [text.text for text in (*firsts, *seconds)]
        vectors = models.encoder.encode(written, "checking").astype(np.float32)
        # The first summary of each entity beside its second one, or beside that of another entity.
        for name, shift in (("same", 0), ("others", 1)):
            partners = np.roll(np.arange(len(pairs)), shift)
            cosines = (vectors[: len(pairs)] * vectors[len(pairs) + partners]).sum(axis=1)
            likeness = []
            for first, partner, cosine in zip(firsts, partners, cosines, strict=True):
                second = seconds[partner]
                note, other_note = first.annotation, second.annotation
                labels = set(note.categories), set(other_note.categories)
                same_price = note.price == other_note.price
                shared = _jaccard(first.reviews.keys(), second.reviews.keys())
                likeness.append((cosine, same_price, _jaccard(*labels), shared))
                if name == "same":
                    reason = f"cosine {cosine:.2f}; {shared:.0%} of their reviews are shared"
                    severity = shared - float(cosine)
                    example = Example(first.entity, reason, severity, first.text, second.text)
                    measure.examples.append(example)
            row: Row = {"count": len(pairs)}
            columns = ("cosine", "price", "categories", "shared")
            for column, values in zip(columns, np.transpose(likeness), strict=True):
                row[column] = mean_estimate(values)
            measure.rows[f"{kind}: {name}"] = row
    return measure


def _jaccard(first: AbstractSet[object], second: AbstractSet[object]) -> float:
    union = first | second
    return len(first & second) / len(union) if union else np.nan


def polarity(
    texts: AnnotatedTexts, extractive: ExtractiveModel, rng: np.random.Generator
) -> QualityMeasure:
    """Are texts more positive, or more negative, than the reviews that they were made of?

    The polarity of a text is the mean over its sentences by the extractive model's rule. `rating` is
    its rank correlation with the mean rating of its reviews, `slope` that of the regression line on
    the polarity of its reviews, `shift` the mean difference to that. In the row `drawn`, as many
    sentences drawn from the reviews at random stand for the text: what brevity alone does.
    """
    measure = QualityMeasure("Praise less blame. Slope > 1: amplified; shift > 0: better.")
    for kind, annotated in texts.items():
        means = np.empty((len(annotated), 4))  # polarity of reviews, text, drawn; rating
        for row, text in zip(means, annotated, strict=True):
            reviews = extractive.polarity(list(map(itemgetter(1), text.evidence)))
            written = extractive.polarity(text.sentences)
            drawn = rng.choice(reviews, min(len(reviews), len(written)), replace=False)
            rating = text.dataset.data.rating[text.rows]
            row[:] = list(map(np.mean, (reviews, written, drawn, rating)))
            before, after, _, stars = row
            reason = f"polarity {after:+.2f}, its reviews {before:+.2f}, which rate {stars:.1f}"
            example = Example(text.entity, reason, abs(float(after - before)), text.text)
            measure.examples.append(example)
        x, of_text, of_drawn, ratings = means.T
        for name, y in ((kind, of_text), (f"{kind}: drawn", of_drawn)):
            line = linregress(x, y) if len(y) >= 4 and np.ptp(x) and np.ptp(y) else None
            measure.rows[name] = {
                "count": len(annotated),
                "rating": rank_correlation(y, ratings),
                "slope": Estimate(float(line.slope), float(line.stderr)) if line else None,
                "shift": mean_estimate(y - x),
            }
    return measure


def rank_correlation(x: np.ndarray, y: np.ndarray, min_pairs: int = 4) -> Estimate | None:
    """Spearman's correlation and its standard error (Bonett & Wright, 2000); None if undefined."""
    if len(x) < min_pairs or not np.ptp(x) or not np.ptp(y):
        return None
    r = float(spearmanr(x, y).statistic)
    if len(x) <= 3:  # the formula divides by n - 3
        return Estimate(r)
    return Estimate(r, (1 - r**2) * ((1 + r**2 / 2) / (len(x) - 3)) ** 0.5)


def mean_estimate(
    values: np.ndarray | Sequence[float], entities: Sequence[str] | None = None
) -> Estimate | None:
    """Mean of the values that are not nan; with `entities`, of the means of each of them."""
    labels = range(len(values)) if entities is None else entities
    frame = pl.DataFrame({"value": np.asarray(values, np.float64), "entity": labels})
    by_entity = frame.fill_nan(None).drop_nulls().group_by("entity", maintain_order=True)
    means = by_entity.mean()["value"].to_numpy()
    if not len(means):
        return None
    return Estimate(float(means.mean()), float(sem(means)) if len(means) > 1 else None)
