"""Annotates all reviews and photos of a data set, without training on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mmrec.config import Config, VisionConfig
from mmrec.data.schema import EntityKind, Reviews
from mmrec.evidence.policies import EvidenceViews
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.cost import AnswersPending
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
