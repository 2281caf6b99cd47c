"""Having reviews read: each ask once ever, answers checked, unusable ones repaired once, the rest missing."""

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
from mmrec.llm.prompts import (
    chat_messages,
    note_task,
    paper_tasks,
    reason_task,
    sanitize,
    summary_task,
)
from mmrec.llm.types import Answer, LanguageModel, Note, Prompt, Review, Summary, Task

__all__ = ["Annotator", "CallPlan"]

T = TypeVar("T")
_EXPECTED_TOKENS = {"note": 110}
_EXPECTED_SUMMARY = 260
_EXPECTED_TEXT = "word " * 200
_MORE = 4


@dataclass
class CallPlan:
    """What would be asked: calls and tokens by kind of ask, nothing of which is in the store yet."""

    calls: Counter[str] = field(default_factory=Counter)
    input_tokens: Counter[str] = field(default_factory=Counter)
    output_tokens: Counter[str] = field(default_factory=Counter)
    counted_keys: set[bytes] = field(default_factory=set)


class Annotator:
    """Reads reviews with a language model, through the store.

    Args:
        model: who reads.
        store: where raw answers are kept before anything in them is looked at.
        language, profile: settings.
        plan: when given, nothing is asked; what would be is added to it.
    """

    def __init__(
        self,
        model: LanguageModel,
        store: Store,
        language: LanguageConfig,
        profile: AnnotationConfig,
        plan: CallPlan | None = None,
    ) -> None:
        self.model = model
        self.failures: Counter[str] = Counter()
        self._store = store
        self._language = language
        self._profile = profile
        self.plan = plan

    @property
    def note_provenance(self) -> dict[str, object]:
        """What determines a note besides the text."""
        return self.model.provenance(note_task(self._profile.item_kind))

    @property
    def failure_summary(self) -> str:
        """How many asks failed, and why most of them did; empty when none did."""
        reasons = "; ".join(f"{count:,} times {why}" for why, count in self.failures.most_common(3))
        return (
            f"{self.failures.total():,} asks failed, what they are about is missing: {reasons}"
            if reasons
            else ""
        )

    def write_notes(self, texts: Sequence[str]) -> list[Note]:
        """Read every text alone; what is blank, or could not be read, gives an empty note."""
        task = note_task(self._profile.item_kind)
        parse: Callable[[Answer], Note] = _own_note
        if self.model.window is not None:
            parse = partial(parsing.parse_note, max_categories=self._profile.max_categories)
        ready = [self._alone(text) for text in texts]
        return [note or Note() for note in self._read(task, ready, parse, "reading reviews")]

    def write_reasons(self, groups: Sequence[Sequence[str]]) -> list[str]:
        """A sentence made of each group of sentences on one item, which says nothing but what they do.

        It is empty where the answer says more, also when asked again; and where the reader is no language
        model.
        """
        if self.model.window is None:
            return [""] * len(groups)
        texts = [tuple(sanitize(text) for text in group if text.strip()) for group in groups]
        task, what = reason_task(self._profile.item_kind), "writing reasons"
        return [
            one or ""
            for one in self._read(
                task, texts, parsing.parse_sentence, what, parsing.check_supported
            )
        ]

    def write_summaries(
        self, entity_kind: EntityKind, groups: Sequence[Sequence[Review]]
    ) -> list[Summary]:
        """Sum up each group of reviews, all of one user or item; an empty group gives an empty summary."""
        if self.model.window is None:
            texts = [
                tuple(sorted(review.text for review in group if review.text.strip()))
                for group in groups
            ]
            task = summary_task(entity_kind, self._profile.item_kind, self._profile.max_categories)
            return [
                one or Summary()
                for one in self._read(task, texts, _own_summary, f"summarising {entity_kind}s")
            ]
        if self._language.long_history == "sample":
            return self._summaries(
                entity_kind, [self._context.sample_reviews(group) for group in groups]
            )
        parts = [self._context.split_reviews(group) for group in groups]
        # A group that takes several calls is read in parts first; what was said of them is summed up next.
        flat = [(at, part) for at, some in enumerate(parts) if len(some) > 1 for part in some]
        upper: dict[int, list[Review]] = defaultdict(list)
        for (at, _), said in zip(
            flat, self._summaries(entity_kind, [part for _, part in flat]), strict=True
        ):
            spoken = _spoken(said) if said.text else _EXPECTED_TEXT if self.plan is not None else ""
            upper[at].append(Review(spoken, 0.0, len(upper[at]), 0))
        above = dict(
            zip(
                upper,
                self.write_summaries(entity_kind, list(upper.values())) if upper else [],
                strict=True,
            )
        )
        whole = [some[0] if len(some) == 1 else () for some in parts]
        return [above.get(at, one) for at, one in enumerate(self._summaries(entity_kind, whole))]

    @cached_property
    def _context(self) -> ContextWindow:
        return ContextWindow(
            self.model.count_tokens, min(self.model.window or 0, self._language.call_tokens)
        )

    def _alone(self, text: str) -> Texts:
        if self.model.window is None:
            return (text,) if text.strip() else ()
        return self._context.fit_text(text)

    def _summaries(self, of: EntityKind, texts: Sequence[Texts]) -> list[Summary]:
        kind, most = self._profile.item_kind, self._profile.max_categories
        what = f"summarising {of}s"
        if self._language.prompts == "default":
            parse = partial(parsing.parse_summary, max_categories=most)
            found = self._read(summary_task(of, kind, most), texts, parse, what)
            return [summary or Summary() for summary in found]
        tasks = paper_tasks(of, kind)
        written = self._read(tasks["text"], texts, parsing.parse_text, what)
        if of == "user":
            return [Summary(text=text or "") for text in written]
        prices = self._read(tasks["price"], texts, parsing.parse_price, "asking for prices")
        parse_categories = partial(parsing.parse_categories, max_categories=most)
        listed = self._read(tasks["categories"], texts, parse_categories, "asking for categories")
        return [
            Summary(text=text or "", price=price or "none", categories=categories or [])
            for text, price, categories in zip(written, prices, listed, strict=True)
        ]

    def _read(
        self,
        task: Task,
        texts: Sequence[Texts],
        parse: Callable[[Answer], T],
        what: str,
        check: Callable[[T, Texts], None] | None = None,
    ) -> list[T | None]:
        """What was answered to each ask; None where there was nothing to ask, or no usable answer.

        `check` holds an answer against the texts, and raises `Unusable` too.
        """
        asks = {at: Prompt(task, some) for at, some in enumerate(texts) if some}
        # Models that think before they answer need room for that too.
        longer = replace(task, max_tokens=_MORE * task.max_tokens)
        read: dict[int, T] = {}
        for turn in range(3 if self._language.retry_failed else 2):
            again: dict[int, Prompt] = {}
            reasons: Counter[str] = Counter()
            answers = self._answers(list(asks.values()), "asking again" if turn else what)
            for (at, ask), answer in zip(asks.items(), answers, strict=True):
                if isinstance(answer, Failure):
                    self.failures[answer.reason] += 1
                    continue
                try:
                    value = parse(answer)
                    if check is not None:
                        check(value, ask.texts)
                    read[at] = value
                except parsing.UnusableAnswer as why:
                    again[at] = Prompt(
                        longer, ask.texts, json.dumps([answer.text[:2000], str(why)])
                    )
                    reasons[f"no usable answer, also when asked again: {why}"] += 1
            asks = again
        self.failures.update(reasons)
        return [read.get(at) for at in range(len(texts))]

    def _answers(self, asks: Sequence[Prompt], what: str) -> list[Answer | Failure]:
        if not asks:
            return []
        maker = self.model.provenance(asks[0].task)
        inputs = (json.dumps([ask.texts, ask.rejected]) for ask in asks)
        if self.plan is not None:
            missing = self._store.missing(maker, inputs)
            self._count(
                asks, [at for key, at in missing.items() if key not in self.plan.counted_keys]
            )
            self.plan.counted_keys.update(missing)
            return [Failure("only planned")] * len(asks)

        def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            given = ([(at, asks[at]) for at in block] for block in blocks)
            for at, answer in self.model.generate(given):
                yield (
                    at,
                    answer if isinstance(answer, Failure) else answer.model_dump_json().encode(),
                )

        results = self._store.get_or_compute(
            maker,
            inputs,
            compute,
            title=what,
            chunk=self.model.chunk_size,
            status=self.model.status,
        )
        return [
            one if isinstance(one, Failure) else _restored(one, asks[0].task) for one in results
        ]

    def _count(self, asks: Sequence[Prompt], missing: Sequence[int]) -> None:
        assert self.plan is not None
        name = asks[0].task.name
        prompts = ("\n".join(one["content"] for one in chat_messages(asks[at])) for at in missing)
        self.plan.calls[name] += len(missing)
        self.plan.input_tokens[name] += sum(
            self.model.count_tokens([prompt])[0] for prompt in prompts
        )
        self.plan.output_tokens[name] += len(missing) * _EXPECTED_TOKENS.get(
            name, _EXPECTED_SUMMARY
        )


def _restored(kept: bytes, task: Task) -> Answer:
    try:
        return Answer.model_validate_json(kept)
    except ValidationError as error:
        mend = f"`mmrec store prune --kind '{task.name}'` forgets all of its kind"
        raise StoreError(f"an answer in the store is damaged; {mend}") from error


def _own_note(answer: Answer) -> Note:
    return Note.model_validate_json(answer.text)


def _own_summary(answer: Answer) -> Summary:
    return Summary.model_validate_json(answer.text)


def _spoken(summary: Summary) -> str:
    """A summary of a part, as a text for the next level."""
    lists = {"Likes": summary.likes, "Dislikes": summary.dislikes, "Categories": summary.categories}
    lines = [f"{name}: {'; '.join(said)}" for name, said in lists.items() if said]
    price = [f"Price: {summary.price}"] if summary.price != "none" else []
    return "\n".join([summary.text, *lines, *price])
