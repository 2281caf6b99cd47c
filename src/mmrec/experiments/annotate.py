"""Annotates all reviews and photos of a data set, without training on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from mmrec.config import Config, VisionConfig
from mmrec.data.schema import EntityKind, Reviews
from mmrec.evidence.policies import EvidenceViews
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.cost import AnswersPending
from mmrec.llm.lexicon import split_sentences
from mmrec.llm.types import Note, Summary
from mmrec.pipeline import prepare_data
from mmrec.vision.openai_captioner import OpenAICaptioner

CAPTION = "caption"
"""The captioner's calls in a plan."""


@dataclass(frozen=True)
class SummarizedViews:
    """Views of users or items over a dataset, and the summary of each."""

    kind: EntityKind
    dataset: Dataset
    views: EvidenceViews
    summaries: list[Summary]


@dataclass(frozen=True)
class AnnotationRun:
    """The annotations of a data set of n reviews."""

    dataset: Dataset
    # Under the strategy `notes`, (n) of each review.
    notes: list[Note] = field(default_factory=list)
    # Under `summary`, of every view that training or the saved model uses.
    summaries: list[SummarizedViews] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # reasons, with counts
    pending: list[AnswersPending] = field(default_factory=list)  # not given yet


SourcedText = tuple[str, str, str]
"""Entity, text, and the id of the review where it stands; "" where a model wrote it."""


@dataclass(frozen=True)
class AnnotatedText:
    """The annotation of a user, an item or a review, its text, and the rows that it was made of."""

    kind: str  # `item`, `user` or `review`
    entity: str
    annotation: Note | Summary
    text: str
    dataset: Dataset
    rows: np.ndarray
    max_reviews: ClassVar = 500

    @property
    def name(self) -> str:
        """Kind and entity."""
        return f"{self.kind} {self.entity}"

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
        ids, texts = self.dataset.review_ids, self.dataset.texts
        return {ids[row]: texts[row] for row in self.rows[positions]}

    @cached_property
    def review_ids(self) -> frozenset[str]:
        """Ids of all its reviews."""
        return frozenset(map(self.dataset.review_ids.__getitem__, self.rows))

    @cached_property
    def evidence(self) -> list[SourcedText]:
        """Distinct sentences of each review."""
        quotes = []
        for review_id, text in self.reviews.items():
            for sentence in dict.fromkeys(split_sentences(text)):
                quotes.append((self.name, sentence, review_id))
        return quotes


def annotated_texts(run: AnnotationRun) -> dict[str, list[AnnotatedText]]:
    """All annotations by kind, those without a text too."""
    texts: dict[str, list[AnnotatedText]] = defaultdict(list)
    for row, (name, note) in enumerate(zip(run.dataset.review_ids, run.notes, strict=False)):
        rows = np.array([row])
        texts["review"].append(AnnotatedText("review", name, note, note.gist, run.dataset, rows))
    for part in run.summaries:
        kind, data = part.kind, part.dataset.data
        names = data.items if kind == "item" else data.users
        views = zip(part.views.entity, part.views.review_sets(), part.summaries, strict=True)
        for entity, rows, summary in views:
            fields = names[entity], summary, summary.text, part.dataset, rows
            texts[kind].append(AnnotatedText(kind, *fields))
    return texts


def annotate_reviews(reviews: Reviews, config: Config, models: Models) -> AnnotationRun:
    """Annotate what `fit` with the same settings would have annotated; the store keeps the answers.

    Raises:
        DataError: too few reviews.
        MmrecError: the language model cannot be used, or the budget is reached.
    """
    dataset, plan = Dataset(reviews, models, config), models.annotator.plan
    run = AnnotationRun(dataset, failed=models.annotator.failures)

    @contextmanager
    def recorded_if_pending() -> Iterator[None]:
        # Pending answers of one part do not keep the others from being requested.
        try:
            yield
        except AnswersPending as pending:
            run.pending.append(pending)

    if config.vision.captioner != VisionConfig().captioner and plan is None:
        run.failed.update(dataset.captions.failures)
    elif isinstance(models.captioner, OpenAICaptioner) and (calls := dataset.captions_missing):
        assert plan is not None  # the calls to a server are only counted
        photo_tokens, caption_tokens = 1000, 35
        plan.calls[CAPTION] += calls
        plan.input_tokens[CAPTION] += calls * photo_tokens
        plan.output_tokens[CAPTION] += calls * caption_tokens
    if config.annotation.strategy == "notes":
        with recorded_if_pending():
            run.notes.extend(dataset.notes)
        return run
    prepared = prepare_data(reviews, config, models)
    # A saved model uses all reviews, those that the filter dropped too.
    if len(prepared.dataset) == len(dataset):
        dataset = prepared.dataset
    data, evidence = dataset.data, prepared.evidence
    views: list[tuple[EntityKind, Dataset, EvidenceViews]] = [
        ("item", prepared.dataset, evidence.item),
        ("item", dataset, EvidenceViews.all_reviews(data.item)),
        ("user", prepared.dataset, evidence.user),
        ("user", dataset, EvidenceViews.all_reviews(data.user)),
    ]
    for kind, source, entity_views in views:
        with recorded_if_pending():
            summaries = source.summaries(kind, entity_views)
            run.summaries.append(SummarizedViews(kind, source, entity_views, summaries))
    return run
