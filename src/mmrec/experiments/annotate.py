"""Annotates all reviews and photos of a data set, without training on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from mmrec.config import Config, VisionConfig
from mmrec.data.schema import EntityKind, Reviews
from mmrec.evidence.views import EvidenceViews
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.cost import AnswersPending
from mmrec.llm.lexicon import split_sentences
from mmrec.llm.types import Note, Summary
from mmrec.pipeline import prepare_data
from mmrec.vision.openai_captioner import OpenAICaptioner

__all__ = ["CAPTION", "AnnotatedText", "AnnotatedTexts", "AnnotationRun", "SourcedText"]
__all__ += ["SummarizedViews", "annotate_reviews"]

CAPTION = "caption"
"""The captioner's calls in a plan."""


@dataclass(frozen=True)
class SummarizedViews:
    """Views of users or items over a dataset, and the summary of each."""

    kind: EntityKind
    dataset: Dataset
    views: EvidenceViews
    summaries: list[Summary]


class SourcedText(NamedTuple):
    """A text, and the id of the review where it stands; "" where a model wrote it."""

    text: str
    review_id: str = ""


@dataclass(frozen=True)
class AnnotatedText:
    """The annotation of a user, an item or a review, its text, and the rows that it was made of."""

    entity: str
    annotation: Note | Summary
    text: str
    dataset: Dataset
    rows: np.ndarray
    max_reviews: ClassVar = 500

    @cached_property
    def sentences(self) -> list[str]:
        """Of the text."""
        return split_sentences(self.text)

    @cached_property
    def reviews(self) -> dict[str, str]:
        """Review id -> text, of all rows or of `max_reviews` evenly spaced ones."""
        count = min(len(self.rows), self.max_reviews)
        # Evenly spaced, so that early and late reviews are among them.
        positions = np.linspace(0, len(self.rows) - 1, count).astype(np.int64)
        rows = self.rows[positions]
        return {self.dataset.review_ids[row]: self.dataset.texts[row] for row in rows}

    @cached_property
    def review_ids(self) -> frozenset[str]:
        """Ids of all its reviews."""
        return frozenset(self.dataset.review_ids[row] for row in self.rows)

    @cached_property
    def evidence_sentences(self) -> list[SourcedText]:
        """Distinct sentences of each review."""
        quotes = []
        for review_id, text in self.reviews.items():
            distinct = dict.fromkeys(split_sentences(text))
            quotes += [SourcedText(sentence, review_id) for sentence in distinct]
        return quotes


AnnotatedTexts = Mapping[str, Sequence[AnnotatedText]]
"""Annotated texts by what they are of: `item`, `user` or `review`."""


@dataclass(frozen=True)
class AnnotationRun:
    """The annotations of a data set of n reviews."""

    dataset: Dataset
    # Under the strategy `notes`, (n) of each review.
    notes: list[Note] = field(default_factory=list)
    # Under `summary`, of every view that training or the saved model uses.
    summaries: list[SummarizedViews] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # reasons of missing annotations
    pending: list[AnswersPending] = field(default_factory=list)  # not given by the server yet

    def texts(self) -> dict[str, list[AnnotatedText]]:
        """All annotations by kind, those without a text too."""
        texts: dict[str, list[AnnotatedText]] = defaultdict(list)
        for row, note in enumerate(self.notes):
            review_id, rows = self.dataset.review_ids[row], np.array([row])
            texts["review"].append(AnnotatedText(review_id, note, note.gist, self.dataset, rows))
        for part in self.summaries:
            data = part.dataset.data
            names = data.items if part.kind == "item" else data.users
            views = zip(part.views.entity, part.views.review_sets(), part.summaries, strict=True)
            for entity, rows, summary in views:
                text = AnnotatedText(names[entity], summary, summary.text, part.dataset, rows)
                texts[part.kind].append(text)
        return texts


def annotate_reviews(reviews: Reviews, config: Config, models: Models) -> AnnotationRun:
    """Annotate what `fit` with the same settings would have annotated; the store keeps the answers.

    Raises:
        DataError: too few reviews.
        MmrecError: the language model cannot be used, or the budget is reached.
    """
    dataset = Dataset.from_reviews(reviews, models, config)
    run = AnnotationRun(dataset, failed=models.annotator.failures)
    if config.vision.captioner != VisionConfig().captioner:
        _caption_photos(dataset, models, run)
    if config.annotation.strategy == "notes":
        with _recorded_if_pending(run):
            run.notes.extend(dataset.notes)
        return run
    prepared = prepare_data(reviews, config, models)
    evidence = prepared.evidence
    # A saved model uses all reviews, those that the filter dropped too.
    if len(prepared.dataset) == len(dataset):
        dataset = prepared.dataset
    data = dataset.data
    views: list[tuple[EntityKind, Dataset, EvidenceViews]] = [
        ("item", prepared.dataset, evidence.item),
        ("item", dataset, EvidenceViews.all_reviews(data.item)),
        ("user", prepared.dataset, evidence.user),
        ("user", dataset, EvidenceViews.all_reviews(data.user)),
    ]
    for kind, source, entity_views in views:
        with _recorded_if_pending(run):
            summaries = source.summaries(kind, entity_views)
            run.summaries.append(SummarizedViews(kind, source, entity_views, summaries))
    return run


def _caption_photos(dataset: Dataset, models: Models, run: AnnotationRun) -> None:
    """Caption all photos; for a plan, count the calls to a server and estimate their tokens."""
    plan, photo_tokens, caption_tokens = models.annotator.plan, 1000, 35
    if plan is None:
        run.failed.update(dataset.captions.failures)
    elif isinstance(models.captioner, OpenAICaptioner) and (calls := dataset.captions_missing):
        plan.calls[CAPTION] += calls
        plan.input_tokens[CAPTION] += calls * photo_tokens
        plan.output_tokens[CAPTION] += calls * caption_tokens


@contextmanager
def _recorded_if_pending(run: AnnotationRun) -> Iterator[None]:
    """Pending answers of one part do not keep the others from being requested."""
    try:
        yield
    except AnswersPending as pending:
        run.pending.append(pending)
