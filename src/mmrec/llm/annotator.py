"""Annotation of reviews by a language model: each prompt once ever, through the store."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar

from pydantic import ValidationError

from mmrec.cache.store import Failure, Result, Store
from mmrec.config import AnnotationConfig, LanguageConfig
from mmrec.data.schema import EntityKind
from mmrec.errors import StoreError
from mmrec.llm import parsing
from mmrec.llm.context import ContextWindow, Texts
from mmrec.llm.prompts import chat_messages, note_task, paper_tasks, reason_task, summary_task
from mmrec.llm.sanitize import sanitize
from mmrec.llm.types import Answer, LanguageModel, Note, Prompt, Review, Summary, Task

__all__ = ["Annotator", "CallPlan"]

T = TypeVar("T")
M = TypeVar("M", Note, Summary)


@dataclass
class CallPlan:
    """Calls that would be made, since the store lacks their answers; counted by kind of task."""

    calls: Counter[str] = field(default_factory=Counter)
    input_tokens: Counter[str] = field(default_factory=Counter)
    output_tokens: Counter[str] = field(default_factory=Counter)
    counted_keys: set[bytes] = field(default_factory=set)


class Annotator:
    """Writes notes and summaries of reviews with a language model.

    Raw answers go into the store before they are parsed. One that cannot be used is asked for
    once more with the reason; if that fails too, the result is empty and the failure is counted.
    With a `plan` no call is made, and calls that would be are added to it.
    """

    def __init__(
        self,
        model: LanguageModel,
        store: Store,
        language: LanguageConfig,
        annotation: AnnotationConfig,
        plan: CallPlan | None = None,
    ) -> None:
        self.model = model
        self.failures: Counter[str] = Counter()
        self.plan = plan
        self._store = store
        self._language = language
        self._annotation = annotation

    @property
    def note_provenance(self) -> dict[str, object]:
        """What determines a note besides the text."""
        return self.model.provenance(note_task(self._annotation.item_kind))

    @property
    def failure_summary(self) -> str:
        """How many prompts failed, and the most frequent reasons; empty when none did."""
        if not self.failures:
            return ""
        most_common = self.failures.most_common(3)
        reasons = "; ".join(f"{count:,} times {reason}" for reason, count in most_common)
        total = self.failures.total()
        return f"{total:,} prompts failed, and their results are missing: {reasons}"

    def write_notes(self, texts: Sequence[str]) -> list[Note]:
        """A note on each text alone; an empty one where the text is blank or the model failed."""
        task = note_task(self._annotation.item_kind)
        fitted: list[Texts] = []
        for text in texts:
            if self._is_extractive:
                fitted.append((text,) if text.strip() else ())
            else:
                fitted.append(self._context.fit_text(text))
        parse = self._parser(Note, parsing.parse_note)
        notes = self._ask(task, fitted, parse, "reading reviews")
        return [note or Note() for note in notes]

    def write_reasons(self, groups: Sequence[Sequence[str]]) -> list[str]:
        """A sentence on one item from each group of sentences about it.

        It is empty where the answer states more than the group does, also when asked again, and
        where the model is extractive.
        """
        if self._is_extractive:
            return [""] * len(groups)
        texts = [tuple(filter(None, map(sanitize, group))) for group in groups]
        task, check = reason_task(self._annotation.item_kind), parsing.check_supported
        sentences = self._ask(task, texts, parsing.parse_sentence, "writing reasons", check)
        return [sentence or "" for sentence in sentences]

    def write_summaries(
        self, entity_kind: EntityKind, groups: Sequence[Sequence[Review]]
    ) -> list[Summary]:
        """A summary of each group of reviews, all of one user or item; an empty one of no review."""
        if not self._is_extractive and self._language.long_history == "tree":
            return self._summarize_in_levels(entity_kind, groups)
        texts: list[Texts] = []
        for group in groups:
            if self._is_extractive:
                # Sorted, so that equal groups have the same key in the store.
                present = [review.text for review in group if review.text.strip()]
                texts.append(tuple(sorted(present)))
            else:
                texts.append(self._context.sample_reviews(group))
        return self._summarize(entity_kind, texts)

    @property
    def _is_extractive(self) -> bool:
        return self.model.window is None

    @cached_property
    def _context(self) -> ContextWindow:
        size = min(self.model.window or 0, self._language.call_tokens)
        return ContextWindow(self.model.count_tokens, size)

    def _summarize_in_levels(
        self, entity_kind: EntityKind, groups: Sequence[Sequence[Review]]
    ) -> list[Summary]:
        """Summarize long groups in parts first, then the summaries of their parts."""
        parts = [self._context.split_reviews(group) for group in groups]
        owners: list[int] = []  # the group of each long part
        long_parts: list[Texts] = []
        whole_groups: list[Texts] = []
        for index, texts in enumerate(parts):
            whole_groups.append(texts[0] if len(texts) == 1 else ())
            if len(texts) > 1:
                owners += [index] * len(texts)
                long_parts += texts
        upper: dict[int, list[Review]] = defaultdict(list)
        for owner, summary in zip(owners, self._summarize(entity_kind, long_parts), strict=True):
            # A plan has no summaries, so it takes a text that is about as long.
            text = _as_text(summary) if self.plan is None else "word " * 200
            upper[owner].append(Review(text, rating=0.0, time=len(upper[owner]), fold=0))
        of_long = self.write_summaries(entity_kind, [*upper.values()]) if upper else []
        summaries = self._summarize(entity_kind, whole_groups)
        for index, summary in zip(upper, of_long, strict=True):
            summaries[index] = summary
        return summaries

    def _summarize(self, entity_kind: EntityKind, texts: Sequence[Texts]) -> list[Summary]:
        """A summary of each tuple of texts that fit into a prompt."""
        kind, max_categories = self._annotation.item_kind, self._annotation.max_categories
        title = f"summarising {entity_kind}s"
        if self._is_extractive or self._language.prompts == "default":
            parse = self._parser(Summary, parsing.parse_summary)
            task = summary_task(entity_kind, kind, max_categories)
            return [summary or Summary() for summary in self._ask(task, texts, parse, title)]
        tasks = paper_tasks(entity_kind, kind)
        written = self._ask(tasks["text"], texts, parsing.parse_text, title)
        if entity_kind == "user":
            return [Summary(text=text or "") for text in written]
        prices = self._ask(tasks["price"], texts, parsing.parse_price, "asking for prices")
        parse_categories = partial(parsing.parse_categories, max_categories=max_categories)
        listed = self._ask(tasks["categories"], texts, parse_categories, "asking for categories")
        summaries = []
        for text, price, categories in zip(written, prices, listed, strict=True):
            summary = Summary(text=text or "", price=price or "none", categories=categories or [])
            summaries.append(summary)
        return summaries

    def _parser(
        self, result_type: type[M], parse: Callable[[Answer, int], M]
    ) -> Callable[[Answer], M]:
        """`parse` with the configured limit; what the extractive model writes is valid JSON."""
        if self._is_extractive:
            return lambda answer: result_type.model_validate_json(answer.text)
        return lambda answer: parse(answer, self._annotation.max_categories)

    def _ask(
        self,
        task: Task,
        texts: Sequence[Texts],
        parse: Callable[[Answer], T],
        title: str,
        check: Callable[[T, Texts], None] | None = None,
    ) -> list[T | None]:
        """The parsed answer about each tuple of texts; None for () and where no answer is usable.

        `check` compares an answer with its texts, and raises `UnusableAnswer` as `parse` does.
        """
        prompts = {index: Prompt(task, group) for index, group in enumerate(texts) if group}
        results: list[T | None] = [None] * len(texts)
        # Models that think before they answer need room for that too.
        roomy_task = replace(task, max_tokens=4 * task.max_tokens)
        for attempt in range(3 if self._language.retry_failed else 2):
            retries: dict[int, Prompt] = {}
            reasons: Counter[str] = Counter()
            answers = self._get_answers([*prompts.values()], "asking again" if attempt else title)
            for (index, prompt), answer in zip(prompts.items(), answers, strict=True):
                if isinstance(answer, Failure):
                    self.failures[answer.reason] += 1
                    continue
                try:
                    result = parse(answer)
                    if check is not None:
                        check(result, prompt.texts)
                    results[index] = result
                except parsing.UnusableAnswer as error:
                    rejected = json.dumps([answer.text[:2000], str(error)])
                    retries[index] = Prompt(roomy_task, prompt.texts, rejected)
                    reasons[f"no usable answer, also when asked again: {error}"] += 1
            prompts = retries
        self.failures.update(reasons)
        return results

    def _get_answers(self, prompts: Sequence[Prompt], title: str) -> list[Answer | Failure]:
        """Answers to prompts of one task, from the store or the model; none are made for a plan."""
        if not prompts:
            return []
        provenance = self.model.provenance(prompts[0].task)
        # The instructions are in the provenance, so a key needs the texts alone.
        inputs = [json.dumps([prompt.texts, prompt.rejected]) for prompt in prompts]
        if self.plan is not None:
            for key, index in self._store.missing(provenance, inputs).items():
                self._plan_call(self.plan, key, prompts[index])
            return [Failure("only planned")] * len(prompts)

        def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            prompt_blocks = ([(index, prompts[index]) for index in block] for block in blocks)
            for index, answer in self.model.generate(prompt_blocks):
                if isinstance(answer, Failure):
                    yield index, answer
                else:
                    yield index, answer.model_dump_json().encode()

        chunk, status = self.model.chunk_size, self.model.status
        results = self._store.get_or_compute(
            provenance, inputs, compute, title=title, chunk=chunk, status=status
        )
        return [_load_answer(result, prompts[0].task) for result in results]

    def _plan_call(self, plan: CallPlan, key: bytes, prompt: Prompt) -> None:
        """Count a call, unless one with the same key is counted already."""
        if key in plan.counted_keys:
            return
        plan.counted_keys.add(key)
        name = prompt.task.name
        text = "\n".join(message["content"] for message in chat_messages(prompt))
        plan.calls[name] += 1
        plan.input_tokens[name] += self.model.count_tokens([text])[0]
        # Means of real answers.
        plan.output_tokens[name] += 110 if name == "note" else 260


def _load_answer(stored: Result, task: Task) -> Answer | Failure:
    if isinstance(stored, Failure):
        return stored
    try:
        return Answer.model_validate_json(stored)
    except ValidationError as error:
        remedy = f"`mmrec store prune --kind '{task.name}'` deletes all of its kind"
        raise StoreError(f"an answer in the store is damaged; {remedy}") from error


def _as_text(summary: Summary) -> str:
    """A summary of a part as a text for the next level; empty where the model failed."""
    if not summary.text:
        return ""
    lines = [summary.text]
    for name in ("likes", "dislikes", "categories"):
        if phrases := getattr(summary, name):
            lines.append(f"{name.capitalize()}: {'; '.join(phrases)}")
    if summary.price != "none":
        lines.append(f"Price: {summary.price}")
    return "\n".join(lines)
