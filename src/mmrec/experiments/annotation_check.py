"""Are the words any good? What a language model wrote, held against the reviews that it read."""

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
from mmrec.experiments import annotation_quality as measures
from mmrec.experiments import item_truth
from mmrec.experiments.annotate import AnnotationRun
from mmrec.experiments.annotation_quality import (
    AnnotatedText,
    Example,
    QualityContext,
    QualityMeasure,
)
from mmrec.features.dataset import Models
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.types import Note, Summary

__all__ = ["AnnotationQuality", "measure_annotation_quality"]

_ENTITIES = 300
_REVIEWS = 3000
_SHOWN = 3
_REMARKS = (
    "a match shows that two texts are about the same thing, not that they say the same of it",
    "what reviews praise and blame is told by the builtin reader, which errs at times",
)
_NOTHING = "there is nothing to check: no two texts were written of reviews with words in them"
_QUOTES = (
    "the builtin reader quotes, and is judged by itself; its figures serve to compare others with"
)
_PENDING = "answers are still with the server; only what is here was looked at"


@dataclass(frozen=True)
class AnnotationQuality:
    """What was measured of the words of one model, asked in one way, and what must be known to read it.

    `sample_counts` counts texts `written` and `missing` of items, users or reviews, those
    `looked_at` (drawn at
    random, one an entity), and the `reviews` that these are held against.
    """

    model: dict[str, Any]
    strategy: str
    prompts: str
    sample_counts: dict[str, dict[str, int]]
    measures: dict[str, QualityMeasure]
    remarks: list[str]


def measure_annotation_quality(
    profiles: AnnotationRun, config: Config, models: Models, items: Path | None = None
) -> AnnotationQuality:
    """Measure support, agreement, coverage, polarity, and price and categories where the truth is given.

    At most 300 texts of items, of users, or of reviews are looked at, and 3,000 reviews of each side (500 of
    one entity), drawn by the configured seed.

    Args:
        profiles: what was read.
        config: how.
        models: what read it.
        items: file of items with their price or categories (see `truth.read_truth`).

    Raises:
        DataError: the file of items cannot be used.
    """
    builtin = ExtractiveModel(models.encoder, config.annotation.item_kind)
    judge = QualityContext(models, builtin, np.random.default_rng(config.seed))
    written: dict[str, list[AnnotatedText]] = {}
    drawn: dict[str, list[AnnotatedText]] = {}
    looked = {}
    for of, pieces in _pieces(profiles).items():
        written[of] = [piece for piece in pieces if piece.text.strip()]
        drawn[of] = _drawn(written[of], judge.rng)
        looked[of] = {
            "written": len(written[of]),
            "missing": sum(
                not piece.text.strip() and bool(piece.evidence_sentences) for piece in pieces
            ),
            "looked_at": len(drawn[of]),
            "reviews": sum(len(piece.reviews) for piece in drawn[of]),
        }
    several = {of: pieces for of, pieces in drawn.items() if len(pieces) > 1}
    facts = {"truth": _truth(written, profiles, config, items)} if items else {}
    found = {
        "support": measures.support(several, judge),
        "agreement": measures.agreement(written, judge),
        "coverage": measures.coverage(several, judge),
        "polarity": measures.polarity(several, judge),
        **facts,
    }
    model = {
        name: value
        for name, value in models.annotator.note_provenance.items()
        if name not in ("kind", "prompt")
    }
    remarks = [*_REMARKS] if several else [_NOTHING]
    remarks += [_QUOTES] * (model.get("model") == "builtin") + [_PENDING] * bool(profiles.pending)
    shown = {
        name: replace(one, examples=_worst(one.examples)) for name, one in found.items() if one.rows
    }
    return AnnotationQuality(
        model, config.annotation.strategy, config.language.prompts, looked, shown, remarks
    )


def _pieces(profiles: AnnotationRun) -> dict[str, list[AnnotatedText]]:
    """All that was written, or could have been."""
    pieces: dict[str, list[AnnotatedText]] = defaultdict(list)
    corpus = profiles.corpus
    for row, note in enumerate(profiles.notes):
        pieces["review"].append(
            AnnotatedText(corpus.review_ids[row], note, note.gist, corpus, np.array([row]))
        )
    for part in profiles.summaries:
        data = part.corpus.data
        names = data.items if part.kind == "item" else data.users
        for entity, rows, said in zip(
            part.views.entity, part.views.review_sets(), part.summaries, strict=True
        ):
            pieces[part.kind].append(
                AnnotatedText(names[entity], said, said.text, part.corpus, rows)
            )
    return pieces


def _drawn(written: Sequence[AnnotatedText], rng: np.random.Generator) -> list[AnnotatedText]:
    """Some at random, one an entity, that have sentences on both sides."""
    one_each = {written[at].who: written[at] for at in rng.permutation(len(written))}
    some = list(one_each.values())[:_ENTITIES]
    fits = np.cumsum([len(piece.reviews) for piece in some]) <= _REVIEWS
    return [
        piece
        for piece, fit in zip(some, fits, strict=True)
        if fit and piece.written and piece.evidence
    ]


def _truth(
    written: Mapping[str, Sequence[AnnotatedText]],
    profiles: AnnotationRun,
    config: Config,
    path: Path,
) -> QualityMeasure:
    """Score the items of which something was written: by all of its notes, or the summary that hears most."""
    data = profiles.corpus.data
    prices, labels = item_truth.read_truth(path, config.read.map.get("item"))
    if not (prices.keys() | labels.keys()) & {*data.items}:
        raise DataError(
            f"the item truth {path} says nothing of the items that are reviewed; check its ids"
        )
    said: dict[str, list[Note | Summary]] = defaultdict(list)
    for piece in written.get("review", []):
        said[data.items[data.item[piece.rows[0]]]].append(piece.annotation)
    for piece in sorted(written.get("item", []), key=lambda piece: len(piece.rows)):
        said[piece.entity] = [piece.annotation]
    priced, labelled = sorted(prices.keys() & said.keys()), sorted(labels.keys() & said.keys())
    found = QualityMeasure(
        "Rank correlation with the true price; share of true categories in the first five."
    )
    dear = np.array(
        [item_truth.price_level_score(one.price for one in said[item]) for item in priced]
    )
    real = np.array([prices[item] for item in priced])
    for item, gap in zip(priced, rankdata(dear) - rankdata(real), strict=True):
        why = f"{abs(gap):g} of {len(priced)} ranks too {'high' if gap > 0 else 'low'}"
        tags = ", ".join({one.price: None for one in said[item]})
        found.examples.append(
            Example(f"price of {item}", why, abs(gap) / len(priced), tags, f"{prices[item]:g}")
        )
    found.rows["price"] = {"count": len(priced), "written": measures.rank_correlation(dear, real)}
    frequent = item_truth.most_frequent_labels({item: labels[item] for item in labelled})
    ours, theirs = [], []
    for item in labelled:
        named = item_truth.rank_labels(one.categories for one in said[item])
        ours.append(item_truth.label_recall(named, labels[item]))
        theirs.append(item_truth.label_recall(frequent, labels[item]))
        who, why = f"categories of {item}", f"{ours[-1]:.0%} of the true ones are named"
        found.examples.append(
            Example(who, why, 1 - ours[-1], ", ".join(named[:5]), ", ".join(labels[item]))
        )
    shares = {
        "written": measures.mean_estimate(ours),
        "most_frequent": measures.mean_estimate(theirs),
    }
    found.rows["categories"] = {"count": len(labelled), **shares}
    return found


def _worst(bad: Sequence[Example]) -> list[Example]:
    """The three worst, each of another entity."""
    worst: dict[str, Example] = {}
    for example in sorted(bad, key=lambda one: -one.severity):
        if example.severity > 0:
            worst.setdefault(example.entity, example)
    return list(worst.values())[:_SHOWN]
