"""Four measures of what a language model wrote, held against the reviews that it read.

A cosine means nothing alone, so a claim *matches* n texts where it stands in them word for word, or is
nearer to one of them than to any of up to 19 n texts of others. Of claims about nobody, `luck` would match: n
over all texts looked at, one in twenty where others have enough. What fits everyone ("good food") is told
from luck only where it is quoted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress

import numpy as np
import polars as pl
from scipy.stats import linregress, sem, spearmanr

from mmrec.features.dataset import Dataset, Models
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.lexicon import split_words
from mmrec.llm.sentences import split_sentences
from mmrec.llm.types import Note, Summary

__all__ = [
    "AnnotatedText",
    "Estimate",
    "Example",
    "QualityContext",
    "QualityMeasure",
    "agreement",
    "coverage",
    "match_rates",
]
__all__ += ["mean_estimate", "polarity", "rank_correlation", "support"]

_LISTS = 19
_HEARD = 500
_PAIRED = 300
_FEWEST = 4

Quote = tuple[str, str]
"""A text, and the id of the review where it stands; "" of what a model wrote."""


@dataclass(frozen=True)
class Example:
    """Of whom something is shown, why, and how bad it is; two texts to compare, and the review of one."""

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


Row = dict[str, int | Estimate | None]
"""Figures by name, counts among them; None where there is nothing to tell one from."""


@dataclass(frozen=True)
class QualityMeasure:
    """What a measure means in a line, its figures by what they are of, and examples to read."""

    legend: str
    rows: dict[str, Row] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class AnnotatedText:
    """What was said of a user, item or review, its text or gist, and the rows of a corpus it was made of."""

    entity: str
    annotation: Note | Summary
    text: str
    corpus: Dataset
    rows: np.ndarray

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences of the text."""
        return split_sentences(self.text)

    @cached_property
    def reviews(self) -> dict[str, str]:
        """Texts by the ids of their reviews: all, or 500 at equal distances."""
        some = np.linspace(0, len(self.rows) - 1, min(len(self.rows), _HEARD)).astype(np.int64)
        return {self.corpus.review_ids[row]: self.corpus.texts[row] for row in self.rows[some]}

    @cached_property
    def evidence_sentences(self) -> list[Quote]:
        """Sentences of the reviews."""
        return [
            (one, review)
            for review, text in self.reviews.items()
            for one in dict.fromkeys(split_sentences(text))
        ]


Pieces = Mapping[str, Sequence[AnnotatedText]]
"""What was written, by what it is of: `item`, `user` or `review_id`."""


@dataclass(frozen=True)
class QualityContext:
    """Who measures, the same whatever model wrote: the encoder, the builtin reader, and chance."""

    models: Models
    builtin: ExtractiveModel
    rng: np.random.Generator

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, d) of texts."""
        return self.models.encoder.encode(texts, "checking").astype(np.float32)


def support(pieces: Pieces, judge: QualityContext) -> QualityMeasure:
    """Is each sentence of a text or gist, each like and each dislike backed by a review in its evidence?"""
    found = QualityMeasure("Share of what was written that matches the reviews.")
    for of, some in pieces.items():
        texts = {f"{of} {piece.entity}": piece.evidence_sentences for piece in some}
        for part in ("text", "likes", "dislikes"):
            said = [
                piece.sentences if part == "text" else getattr(piece.annotation, part)
                for piece in some
            ]
            claims = [[(one, "") for one in own] for own in said]
            found.rows[f"{of}: {part}"] = match_rates(claims, texts, judge, found.examples)
    return found


def coverage(pieces: Pieces, judge: QualityContext) -> QualityMeasure:
    """Is what reviews like and dislike, as the builtin reader quotes it, written on the same side?

    On a side are the likes (dislikes) written, and the sentences of the text that praise (blame).
    """
    found = QualityMeasure("Share of reviews' likes and dislikes that match what was written.")
    for of, some in pieces.items():
        notes = iter(
            judge.models.quote_annotator.write_notes(
                [text for piece in some for text in piece.reviews.values()]
            )
        )
        read = [[(next(notes), review) for review in piece.reviews] for piece in some]
        for part, side in (("likes", 1), ("dislikes", -1)):
            points = [
                [(one, review) for note, review in own for one in getattr(note, part)]
                for own in read
            ]
            told = {}
            for piece in some:
                meant = compress(
                    piece.sentences, judge.builtin.polarity(piece.sentences) * side > 0
                )
                told[f"{of} {piece.entity}"] = [
                    (one, "") for one in (*getattr(piece.annotation, part), *meant)
                ]
            found.rows[f"{of}: {part}"] = match_rates(points, told, judge, found.examples)
    return found


def match_rates(
    claims: Sequence[Sequence[Quote]],
    texts: Mapping[str, Sequence[Quote]],
    judge: QualityContext,
    bad: list[Example],
) -> Row:
    """Hold the claims of every entity against its texts (by its name), and against those of others.

    Those without a match are added to `bad`.
    """
    claimed = judge.vectors([claim for own in claims for claim, _ in own])
    vectors = judge.vectors([text for held in texts.values() for text, _ in held])
    owner = np.repeat(np.arange(len(texts)), [len(held) for held in texts.values()])
    who: list[str] = []
    matched, verbatim, lucky = [], [], list[float]()
    for group, ((name, held), said) in enumerate(zip(texts.items(), claims, strict=True)):
        own, others = np.flatnonzero(owner == group), np.flatnonzero(owner != group)
        cosine = claimed[len(who) : len(who) + len(said)] @ vectors.T
        chance = np.full(len(said), np.inf)
        if len(own) and len(others):
            drawn = judge.rng.permutation(others)[: _LISTS * len(own)]
            chance = cosine[:, drawn].max(1)
            lucky += [len(own) / (len(own) + len(drawn))] * len(said)
        words = _words(" ".join(text for text, _ in held))
        for (claim, review), near, luck in zip(said, cosine[:, own], chance, strict=True):
            nearest = float(near.max(initial=-1))
            text, origin = held[near.argmax()] if held else ("", "")
            who.append(name)
            verbatim.append(bool(split_words(claim)) and _words(claim) in words)
            matched.append(verbatim[-1] or nearest > luck)
            if not matched[-1]:
                why = (
                    f"nearest cosine {nearest:.2f}, others reach {luck:.2f}"
                    if held
                    else "nothing to match"
                )
                bad.append(Example(name, why, 1 - nearest, claim, text, review or origin))
    return {
        "count": len(who),
        "matched": mean_estimate(matched, who),
        "verbatim": mean_estimate(verbatim, who),
        "luck": Estimate(float(np.mean(lucky))) if lucky else None,
    }


def _words(text: str) -> str:
    return f" {' '.join(split_words(text))} "


def agreement(written: Pieces, judge: QualityContext) -> QualityMeasure:
    """Do two summaries of one entity, made of different reviews, say the same? Beside two of different ones.

    `price` is the share of pairs with the same tag; `categories`, and `shared` reviews, are Jaccard indices.
    """
    found = QualityMeasure("Likeness of two summaries of one entity, and of two of others.")
    for of in ("item", "user"):
        views: dict[str, dict[AbstractSet[str], AnnotatedText]] = defaultdict(dict)
        some = written.get(of, [])
        for piece in (some[at] for at in judge.rng.permutation(len(some))):
            views[piece.who][frozenset(piece.corpus.review_ids[row] for row in piece.rows)] = piece
        pairs = [list(own.items())[:2] for own in views.values() if len(own) > 1][:_PAIRED]
        if len(pairs) < 2:
            continue
        vectors = judge.vectors([piece.text for pair in pairs for _, piece in pair])
        for name, shift in (("same", 0), ("others", 1)):
            ends = [(pair[0], pairs[at - shift][1]) for at, pair in enumerate(pairs)]
            near = (vectors[::2] * np.roll(vectors[1::2], shift, axis=0)).sum(1)
            shared = [_jaccard(heard, beside) for (heard, _), (beside, _) in ends]
            said = [(one.annotation, other.annotation) for (_, one), (_, other) in ends]
            found.rows[f"{of}: {name}"] = {
                "count": len(pairs),
                "cosine": mean_estimate(near),
                "price": mean_estimate([one.price == other.price for one, other in said]),
                "categories": mean_estimate(
                    [_jaccard({*a.categories}, {*b.categories}) for a, b in said]
                ),
                "shared": mean_estimate(shared),
            }
            for ((_, one), (_, other)), cosine, share in zip(
                ends, near.tolist(), shared, strict=True
            ):
                if name == "same":
                    why = f"cosine {cosine:.2f}; they share {share:.0%} of their reviews"
                    found.examples.append(
                        Example(f"{of} {one.entity}", why, share - cosine, one.text, other.text)
                    )
    return found


def _jaccard(one: AbstractSet[str], other: AbstractSet[str]) -> float:
    return len(one & other) / len(one | other) if one | other else np.nan


def polarity(pieces: Pieces, judge: QualityContext) -> QualityMeasure:
    """Does writing it down amplify praise or blame?

    The polarity of a text is the mean over its sentences by the builtin reader's rule. `rating` is its rank
    correlation with the mean rating of its reviews, `slope` that of the line which predicts it from the
    reviews' own, `shift` the mean difference to that. In the row `drawn`, as many sentences drawn from the
    reviews at random stand for what was written: what brevity alone does.
    """
    found = QualityMeasure(
        "Praise less blame. Slope > 1: amplified; shift > 0: made to look better."
    )
    for of, some in pieces.items():
        heard = [
            judge.builtin.polarity([one for one, _ in piece.evidence_sentences]) for piece in some
        ]
        said = [judge.builtin.polarity(piece.sentences) for piece in some]
        drawn = [
            judge.rng.choice(x, min(len(x), len(y)), replace=False)
            for x, y in zip(heard, said, strict=True)
        ]
        rating = np.array([piece.corpus.data.rating[piece.rows].mean() for piece in some])
        own, told, blind = (
            np.array([tones.mean() for tones in side]) for side in (heard, said, drawn)
        )
        for name, y in ((of, told), (f"{of}: drawn", blind)):
            line = linregress(own, y) if len(y) >= _FEWEST and np.ptp(own) and np.ptp(y) else None
            found.rows[name] = {
                "count": len(some),
                "rating": rank_correlation(y, rating),
                "slope": Estimate(float(line.slope), float(line.stderr)) if line else None,
                "shift": mean_estimate(y - own),
            }
        for piece, x, y, stars in zip(some, own, told, rating, strict=True):
            why = f"polarity {y:+.2f}, of its reviews {x:+.2f}, which rate {stars:.1f}"
            found.examples.append(
                Example(f"{of} {piece.entity}", why, abs(float(y - x)), piece.text)
            )
    return found


def rank_correlation(x: np.ndarray, y: np.ndarray, fewest: int = _FEWEST) -> Estimate | None:
    """Spearman's correlation, with a standard error (Bonett & Wright 2000) of four pairs or more.

    None where it is not defined, or there are fewer pairs than `fewest`.
    """
    if len(x) < fewest or not np.ptp(x) or not np.ptp(y):
        return None
    r = float(spearmanr(x, y).statistic)
    return Estimate(
        r, (1 - r * r) * ((1 + r * r / 2) / (len(x) - 3)) ** 0.5 if len(x) > 3 else None
    )


def mean_estimate(
    values: np.ndarray | Sequence[float], who: Sequence[str] | None = None
) -> Estimate | None:
    """Mean of the values that are not NaN, or of the means of those `who` has some, who count the same."""
    frame = pl.DataFrame(
        {"value": np.asarray(values, dtype=np.float64), "who": who or range(len(values))}
    )
    known = frame.fill_nan(None).drop_nulls()
    each = known.group_by("who", maintain_order=True).mean()["value"].to_numpy()
    if not len(each):
        return None
    return Estimate(float(each.mean()), float(sem(each)) if len(each) > 1 else None)
