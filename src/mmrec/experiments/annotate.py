"""Annotates all reviews and photos of a data set, without training on them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add
from typing import Any, ClassVar, Literal

import numpy as np

from mmrec.config import Config, VisionConfig
from mmrec.data.schema import EntityKind, Reviews
from mmrec.evidence.policies import EvidenceViews
from mmrec.features.dataset import Dataset, Models
from mmrec.llm.annotator import CallPlan
from mmrec.llm.cost import AnswersPending, Price
from mmrec.llm.lexicon import split_sentences
from mmrec.llm.openai_client import ChatClient
from mmrec.llm.types import Note, Summary, Usage
from mmrec.pipeline import open_models, prepare_data
from mmrec.vision.openai_captioner import OpenAICaptioner

CAPTION = "caption"
"""The captioner's calls in a plan."""
SourcedText = tuple[str, str, str]
"""Entity, text, and the id of the review where it stands; "" where a model wrote it."""


@dataclass(frozen=True)
class AnnotatedText:
    """The annotation of a user, an item or a review, its text, and its rows."""

    entity: str  # with its kind: `item NAME`, `user NAME` or `review ID`
    annotation: Note | Summary
    text: str  # may be empty
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
        count, ids, texts = len(self.rows), self.dataset.review_ids, self.dataset.texts
        positions = np.linspace(0, count - 1, min(count, self.max_reviews)).astype(np.int64)
        return {ids[row]: texts[row] for row in self.rows[positions]}

    @cached_property
    def evidence(self) -> list[SourcedText]:
        """Distinct sentences of each review."""
        quotes = []
        for review_id, text in self.reviews.items():
            for sentence in dict.fromkeys(split_sentences(text)):
                quotes.append((self.entity, sentence, review_id))
        return quotes


@dataclass(frozen=True)
class AnnotationRun:
    """The annotations of a data set by kind: a note of each review, or a summary of each view."""

    dataset: Dataset
    texts: dict[str, list[AnnotatedText]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[str] = field(default_factory=Counter)  # reasons, with counts
    pending: list[AnswersPending] = field(default_factory=list)  # not given yet

    def summary(self, models: Models) -> dict[str, Any]:
        """What was annotated by `models`, what it cost, and what is missing."""
        result: dict[str, Any] = {"model": models.annotator.note_provenance["model"]}
        for kind, texts in self.texts.items():
            if kind == "review":
                result |= {"notes": len(texts), "empty": sum(not note.text for note in texts)}
            else:
                result[f"summaries of {kind}s"] = len(texts)
        costs = []
        for model in (models.annotator.model, getattr(models.captioner, "client", None)):
            # Builtin models are no clients, and cost nothing.
            if isinstance(model, ChatClient):
                costs.append(model.costs)
        if costs:
            usage = sum((cost.usage for cost in costs), Usage())
            result |= {"calls": sum(cost.calls for cost in costs)}
            result |= {"tokens_in": usage.input, "tokens_out": usage.output}
            result["dollars"] = None
            if all(cost.price for cost in costs):
                result["dollars"] = sum(cost.dollars for cost in costs)
        result |= {"failed": dict(self.failed.most_common()), "pending": None}
        if self.pending:
            pending = reduce(add, self.pending)
            counts = ("submitted", "waiting", "deferred")
            result["pending"] = {name: getattr(pending, name) for name in counts}
            result["pending"]["remark"] = str(pending)
        return result


def annotated_texts(
    kind: str, dataset: Dataset, views: EvidenceViews, annotations: Iterable[Note | Summary]
) -> Iterator[AnnotatedText]:
    """The annotation of each view of items, users or reviews."""
    data = dataset.data
    names = {"item": data.items, "user": data.users, "review": dataset.review_ids}[kind]
    for code, rows, annotation in zip(views.entity, views.review_sets(), annotations, strict=True):
        text = annotation.gist if isinstance(annotation, Note) else annotation.text
        yield AnnotatedText(f"{kind} {names[code]}", annotation, text, dataset, rows)


def annotate_reviews(reviews: Reviews, config: Config, models: Models) -> AnnotationRun:
    """Annotate what `fit` with the same settings would have annotated; the store keeps the answers.

    Raises DataError for too few reviews, and MmrecError where the language model cannot be used,
    or the budget is reached.
    """
    all_reviews = EvidenceViews.all_reviews
    dataset, plan = Dataset.from_reviews(reviews, models, config), models.annotator.plan
    run = AnnotationRun(dataset, failed=models.annotator.failures)
    if config.vision.captioner != VisionConfig().captioner and plan is None:
        run.failed.update(dataset.captions.failures)
    elif isinstance(models.captioner, OpenAICaptioner) and (calls := dataset.captions_missing):
        assert plan is not None  # the calls to a server are only counted
        photo_tokens, caption_tokens = 1000, 35
        plan.calls[CAPTION] += calls
        plan.input_tokens[CAPTION] += calls * photo_tokens
        plan.output_tokens[CAPTION] += calls * caption_tokens
    parts: list[tuple[EntityKind | Literal["review"], Dataset, EvidenceViews]]
    parts = [("review", dataset, all_reviews(np.arange(len(dataset))))]
    if config.annotation.strategy == "summary":
        prepared = prepare_data(reviews, config, models)
        # A saved model uses all reviews, those that the filter dropped too.
        if len(prepared.dataset) == len(dataset):
            dataset = prepared.dataset
        parts = [
            ("item", prepared.dataset, prepared.evidence.item),
            ("item", dataset, all_reviews(dataset.data.item)),
            ("user", prepared.dataset, prepared.evidence.user),
            ("user", dataset, all_reviews(dataset.data.user)),
        ]
    for kind, source, views in parts:
        # Pending answers of one part do not keep the others from being requested.
        try:
            written = source.notes if kind == "review" else source.summaries(kind, views)
            run.texts[kind] += annotated_texts(kind, source, views, written)
        except AnswersPending as pending:
            run.pending.append(pending)
    return run


def estimate(reviews: Reviews, config: Config, strategy: str, *, batch: bool) -> dict[str, Any]:
    """Calls and tokens of a strategy by task, and dollars, without what is stored already."""
    plan, tasks = CallPlan(), {}
    config = config.changed("annotation", strategy=strategy)
    models = open_models(config, plan, batch=batch)
    annotate_reviews(reviews, config, models)
    dollars: float | None = 0.0
    for task, calls in plan.calls.items():
        usage = Usage(input=plan.input_tokens[task], output=plan.output_tokens[task])
        tasks[task] = {"calls": calls, "tokens_in": usage.input, "tokens_out": usage.output}
        is_caption = task == CAPTION
        called = models.captioner.provenance if is_caption else models.annotator.note_provenance
        provider, model = str(called.get("provider", "")), str(called["model"])
        price = Price.for_model(provider, model, config.language.llm_price)
        if price is None or dollars is None:
            dollars = None  # one unknown price makes the sum unknown
        else:
            # Only the language model takes batches, at half the price.
            dollars += price.cost(usage) / (2 if batch and not is_caption else 1)
    return {"tasks": tasks, "dollars": dollars}
