"""Four measures of what a language model wrote, compared with the reviews that it read.

A cosine means nothing alone. So a claim *matches* n texts where it occurs in them word for word, or
is nearer to one of them than to any of up to 19 n texts about other entities. Claims that have
nothing to do with the texts would match at the rate `by_chance`: n over all texts compared, one in
twenty where there are enough. A claim that fits everyone ("good food") beats chance only where it is
quoted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import polars as pl
from scipy.stats import linregress, sem, spearmanr

from mmrec.experiments.annotate import AnnotatedText, AnnotatedTexts, SourcedText
from mmrec.features.dataset import Models
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.lexicon import split_words

__all__ = ["Estimate", "Example", "QualityContext"]
__all__ += ["QualityMeasure", "agreement", "coverage", "match_rates", "mean_estimate", "polarity"]
__all__ += ["rank_correlation", "support"]


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


@dataclass(frozen=True)
class QualityContext:
    """What measures use, the same for every language model."""

    models: Models
    extractive: ExtractiveModel
    rng: np.random.Generator

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) unit vectors of texts."""
        return self.models.encoder.encode(texts, "checking").astype(np.float32)


def support(texts: AnnotatedTexts, context: QualityContext) -> QualityMeasure:
    """Is each sentence of a text, each like and each dislike supported by a review of its evidence?"""
    measure = QualityMeasure("Share of what was written that matches the reviews.")
    for kind, annotated in texts.items():
        evidence = {f"{kind} {text.entity}": text.evidence_sentences for text in annotated}
        for part in ("text", "likes", "dislikes"):
            claims = []
            for text in annotated:
                written = text.sentences if part == "text" else getattr(text.annotation, part)
                claims.append([SourcedText(claim) for claim in written])
            row = match_rates(claims, evidence, context, measure.examples)
            measure.rows[f"{kind}: {part}"] = row
    return measure


def coverage(texts: AnnotatedTexts, context: QualityContext) -> QualityMeasure:
    """Are likes (dislikes) that the extractive model quotes from reviews written as such?

    As likes count the likes written and the sentences of the text with positive polarity, as dislikes
    those with negative polarity.
    """
    measure = QualityMeasure("Share of reviews' likes and dislikes that match what was written.")
    for kind, annotated in texts.items():
        reviews = [review for text in annotated for review in text.reviews.values()]
        # All reviews in one call; `zip` below takes as many notes as a text has reviews.
        all_notes = context.models.quote_annotator.write_notes(reviews)
        for part, sign in (("likes", 1), ("dislikes", -1)):
            claims, written, notes = [], {}, iter(all_notes)
            for text in annotated:
                quotes, points = [], list(getattr(text.annotation, part))
                for review_id, note in zip(text.reviews, notes, strict=False):
                    quotes += [SourcedText(point, review_id) for point in getattr(note, part)]
                claims.append(quotes)
                same_sign = context.extractive.polarity(text.sentences) * sign > 0
                points += compress(text.sentences, same_sign)
                written[f"{kind} {text.entity}"] = [SourcedText(point) for point in points]
            row = match_rates(claims, written, context, measure.examples)
            measure.rows[f"{kind}: {part}"] = row
    return measure


def match_rates(
    claims: Sequence[Sequence[SourcedText]],
    texts: Mapping[str, Sequence[SourcedText]],
    context: QualityContext,
    examples: list[Example],
) -> Row:
    """Compare the claims of every entity with its texts (by its name), and with those of others.

    Claims without a match become examples.
    """
    # (claims, d) and (texts, d), by entity in the same order
    claim_vectors = context.vectors([claim.text for group in claims for claim in group])
    text_vectors = context.vectors([quote.text for quotes in texts.values() for quote in quotes])
    # (texts,) number of the entity whose text it is
    owner = np.repeat(np.arange(len(texts)), [len(quotes) for quotes in texts.values()])
    entities: list[str] = []  # of every claim
    matched, verbatim, chance = list[bool](), list[bool](), list[float]()
    for number, ((entity, quotes), group) in enumerate(zip(texts.items(), claims, strict=True)):
        # (claims of the entity, all texts)
        cosine = claim_vectors[len(entities) : len(entities) + len(group)] @ text_vectors.T
        own, foreign = np.flatnonzero(owner == number), np.flatnonzero(owner != number)
        # Without own or foreign texts there is no match but word for word.
        needed = np.full(len(group), np.inf)
        if len(own) and len(foreign):
            sample = context.rng.permutation(foreign)[: 19 * len(own)]
            needed = cosine[:, sample].max(axis=1)
            # The nearest of all is equally likely to be any of them.
            chance += [len(own) / (len(own) + len(sample))] * len(group)
        all_words = _padded_words(" ".join(quote.text for quote in quotes))
        for claim, near, limit in zip(group, cosine[:, own], needed, strict=True):
            nearest = float(near.max(initial=-1))
            words = _padded_words(claim.text)
            entities.append(entity)
            verbatim.append(bool(words.strip()) and words in all_words)
            matched.append(verbatim[-1] or nearest > limit)
            if not matched[-1]:
                quote, reason = SourcedText(""), "nothing to match"
                if quotes:
                    quote = quotes[near.argmax()]
                    reason = f"nearest cosine {nearest:.2f}, others reach {limit:.2f}"
                review_id = claim.review_id or quote.review_id
                example = Example(entity, reason, 1 - nearest, claim.text, quote.text, review_id)
                examples.append(example)
    return {
        "count": len(entities),
        "matched": mean_estimate(matched, entities),
        "verbatim": mean_estimate(verbatim, entities),
        "by_chance": Estimate(float(np.mean(chance))) if chance else None,
    }


def _padded_words(text: str) -> str:
    """The words of a text between spaces, so that one text is found in another by whole words."""
    return f" {' '.join(split_words(text))} "


def agreement(
    texts: AnnotatedTexts, context: QualityContext, max_pairs: int = 300
) -> QualityMeasure:
    """Do two summaries of one entity, of different reviews, agree more than those of two entities?

    `price` is the share of pairs with the same tag; `categories`, and `shared` reviews, are Jaccard
    indices.
    """
    measure = QualityMeasure("Likeness of two summaries of one entity, and of two entities.")
    for kind in ("item", "user"):
        annotated = texts.get(kind, [])
        by_entity: dict[str, dict[frozenset[str], AnnotatedText]] = defaultdict(dict)
        for number in context.rng.permutation(len(annotated)):
            text = annotated[number]
            by_entity[text.entity][text.review_ids] = text
        pairs = [[*views.values()][:2] for views in by_entity.values() if len(views) > 1]
        pairs = pairs[:max_pairs]
        if len(pairs) < 2:
            continue
        firsts, seconds = zip(*pairs, strict=True)
        # (2 pairs, d): the first summary of each entity, then the second one of each
        vectors = context.vectors([text.text for text in (*firsts, *seconds)])
        # The first summary of each entity beside its second one, or beside that of another entity.
        for name, shift in (("same", 0), ("others", 1)):
            partners = np.roll(np.arange(len(pairs)), shift)
            cosine = (vectors[: len(pairs)] * vectors[len(pairs) + partners]).sum(axis=1)
            columns: dict[str, list[float]] = {"price": [], "categories": [], "shared": []}
            for first, partner, near in zip(firsts, partners, cosine, strict=True):
                second, note = seconds[partner], first.annotation
                labels = set(note.categories), set(second.annotation.categories)
                columns["price"].append(note.price == second.annotation.price)
                columns["categories"].append(_jaccard(*labels))
                share = _jaccard(first.review_ids, second.review_ids)
                columns["shared"].append(share)
                if name == "same":
                    reason = f"cosine {near:.2f}; they share {share:.0%} of their reviews"
                    entity, severity = f"{kind} {first.entity}", share - float(near)
                    example = Example(entity, reason, severity, first.text, second.text)
                    measure.examples.append(example)
            row: Row = {"count": len(pairs), "cosine": mean_estimate(cosine)}
            row |= {column: mean_estimate(values) for column, values in columns.items()}
            measure.rows[f"{kind}: {name}"] = row
    return measure


def _jaccard(first: AbstractSet[str], second: AbstractSet[str]) -> float:
    union = first | second
    return len(first & second) / len(union) if union else np.nan


def polarity(texts: AnnotatedTexts, context: QualityContext) -> QualityMeasure:
    """Are texts more positive, or more negative, than the reviews that they were made of?

    The polarity of a text is the mean over its sentences by the extractive model's rule. `rating` is
    its rank correlation with the mean rating of its reviews, `slope` that of the regression line on
    the polarity of its reviews, `shift` the mean difference to that. In the row `drawn`, as many
    sentences drawn from the reviews at random stand for the text: what brevity alone does.
    """
    measure = QualityMeasure("Praise less blame. Slope > 1: amplified; shift > 0: improved.")
    for kind, annotated in texts.items():
        means = np.empty((len(annotated), 4))  # polarity of reviews, text, drawn sentences; rating
        for row, text in zip(means, annotated, strict=True):
            reviews = context.extractive.polarity([quote.text for quote in text.evidence_sentences])
            written = context.extractive.polarity(text.sentences)
            drawn = context.rng.choice(reviews, min(len(reviews), len(written)), replace=False)
            rating = text.dataset.data.rating[text.rows]
            row[:] = reviews.mean(), written.mean(), drawn.mean(), rating.mean()
        x, of_text, of_drawn, rating = means.T
        for name, y in ((kind, of_text), (f"{kind}: drawn", of_drawn)):
            line = linregress(x, y) if len(y) >= 4 and np.ptp(x) and np.ptp(y) else None
            measure.rows[name] = {
                "count": len(annotated),
                "rating": rank_correlation(y, rating),
                "slope": Estimate(float(line.slope), float(line.stderr)) if line else None,
                "shift": mean_estimate(y - x),
            }
        for text, before, after, stars in zip(annotated, x, of_text, rating, strict=True):
            reason = f"polarity {after:+.2f}, of its reviews {before:+.2f}, which rate {stars:.1f}"
            severity = abs(float(after - before))
            example = Example(f"{kind} {text.entity}", reason, severity, text.text)
            measure.examples.append(example)
    return measure


def rank_correlation(x: np.ndarray, y: np.ndarray, min_pairs: int = 4) -> Estimate | None:
    """Spearman's correlation, from four pairs on with the standard error of Bonett & Wright (2000).

    None where it is not defined, or there are fewer than `min_pairs`.
    """
    if len(x) < min_pairs or not np.ptp(x) or not np.ptp(y):
        return None
    r = float(spearmanr(x, y).statistic)
    if len(x) <= 3:  # the formula divides by n - 3
        return Estimate(r)
    return Estimate(r, (1 - r**2) * ((1 + r**2 / 2) / (len(x) - 3)) ** 0.5)


def mean_estimate(
    values: np.ndarray | Sequence[float], entities: Sequence[str] | None = None
) -> Estimate | None:
    """Mean of the values that are not nan; with `entities`, the mean of the means of each of them."""
    labels = range(len(values)) if entities is None else entities
    frame = pl.DataFrame({"value": np.asarray(values, dtype=np.float64), "entity": labels})
    by_entity = frame.fill_nan(None).drop_nulls().group_by("entity", maintain_order=True)
    means = by_entity.mean()["value"].to_numpy()
    if not len(means):
        return None
    return Estimate(float(means.mean()), float(sem(means)) if len(means) > 1 else None)
