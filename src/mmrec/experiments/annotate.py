"""Having all reviews and photos of a data set read, without training on them."""

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
"""Asks of a plan that are the captioner's."""
_PHOTO_TOKENS, _CAPTION_TOKENS = 1000, 35


@dataclass(frozen=True)
class AnnotationRun:
    """What was read.

    Attributes:
        corpus: all reviews.
        notes: (n) what each review says, under the strategy `notes`.
        summaries: under `summary`, every view that training or the saved model hears, with what was written
            of it.
        failed: reasons why something is missing, and how often.
        pending: what is still with the server, of each part that is not here.
    """

    corpus: Dataset
    notes: list[Note] = field(default_factory=list)
    summaries: list[SummarizedViews] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    pending: list[AnswersPending] = field(default_factory=list)


@dataclass(frozen=True)
class SummarizedViews:
    """Views of users or items, of the reviews of a corpus, and a summary of each."""

    kind: EntityKind
    corpus: Dataset
    views: EvidenceViews
    summaries: list[Summary]


def annotate_reviews(reviews: Reviews, config: Config, models: Models) -> AnnotationRun:
    """Ask all that `fit` with the same settings would ask of the language model; its answers are stored.

    Raises:
        DataError: too few reviews.
        MmrecError: the language model cannot be used, or the budget is reached.
    """
    corpus = Dataset.from_reviews(reviews, models, config)
    profiles = AnnotationRun(corpus, failed=models.annotator.failures)
    if config.vision.captioner != VisionConfig().captioner:
        _look(corpus, models, profiles)
    if config.annotation.strategy == "notes":
        with _collected_later(profiles):
            profiles.notes.extend(corpus.notes)
        return profiles
    prepared = prepare_data(reviews, config, models)
    if len(prepared.dataset) == len(corpus):
        corpus = prepared.dataset
    evidence, data = prepared.evidence, corpus.data
    views: list[tuple[EntityKind, Dataset, EvidenceViews]] = [
        ("item", prepared.dataset, evidence.item),
        ("item", corpus, EvidenceViews.all_reviews(data.item)),
        ("user", prepared.dataset, evidence.user),
        ("user", corpus, EvidenceViews.all_reviews(data.user)),
    ]
    for of, own, side in views:
        with _collected_later(profiles):
            profiles.summaries.append(SummarizedViews(of, own, side, own.summaries(of, side)))
    return profiles


def _look(corpus: Dataset, models: Models, profiles: AnnotationRun) -> None:
    """Have photos described; where there is only a plan, count those that a server would be asked about."""
    if (plan := models.annotator.plan) is None:
        profiles.failed.update(corpus.captions.failures)
    elif isinstance(models.captioner, OpenAICaptioner) and (number := corpus.captions_missing):
        plan.calls[CAPTION] += number
        plan.input_tokens[CAPTION] += number * _PHOTO_TOKENS
        plan.output_tokens[CAPTION] += number * _CAPTION_TOKENS


@contextmanager
def _collected_later(profiles: AnnotationRun) -> Iterator[None]:
    """Answers that are still with the server do not keep the rest from being handed in."""
    try:
        yield
    except AnswersPending as pending:
        profiles.pending.append(pending)
