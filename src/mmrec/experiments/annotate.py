"""Annotates all reviews and photos of a data set, without training on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mmrec.config import Config, VisionConfig
from mmrec.data.schema import EntityKind, Reviews
from mmrec.evidence.views import EvidenceViews
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.openai_batch import AnswersPending
from mmrec.llm.types import Note, Summary
from mmrec.pipeline import prepare_data
from mmrec.vision.openai_captioner import OpenAICaptioner

__all__ = ["CAPTION", "AnnotationRun", "SummarizedViews", "annotate_reviews"]

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
    """The annotations of a data set.

    Attributes:
        dataset: all n reviews.
        notes: (n) of each review, under the strategy `notes`.
        summaries: under `summary`, of every view that training or the saved model uses.
        failed: reasons why an annotation is missing, and how often.
        pending: answers that the server has not given yet, by annotations that wait for them.
    """

    dataset: Dataset
    notes: list[Note] = field(default_factory=list)
    summaries: list[SummarizedViews] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    pending: list[AnswersPending] = field(default_factory=list)


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
    views: list[tuple[EntityKind, Dataset, EvidenceViews]] = [
        ("item", prepared.dataset, evidence.item),
        ("item", dataset, EvidenceViews.all_reviews(dataset.data.item)),
        ("user", prepared.dataset, evidence.user),
        ("user", dataset, EvidenceViews.all_reviews(dataset.data.user)),
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
