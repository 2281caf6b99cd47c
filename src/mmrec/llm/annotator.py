"""Annotation of reviews by a language model: each prompt once ever, through the store."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from mmrec.cache.store import Failure, Result, Store
from mmrec.config import Config
from mmrec.data.schema import EntityKind
from mmrec.errors import ModelError, StoreError
from mmrec.llm import parsing
from mmrec.llm.lexicon import is_wish
from mmrec.llm.parsing import AnnotationT
from mmrec.llm.prompts import PROMPT_TEXTS, ContextWindow, chat_messages, sanitize
from mmrec.llm.types import (
    HOW_TO_GO_ON,
    Answer,
    LanguageModel,
    Note,
    Prompt,
    Review,
    StatedWish,
    Summary,
    Task,
    Texts,
    Wish,
)

T = TypeVar("T")
_Groups = Sequence[Sequence[Review]]
_Reason = create_model("_Reason", sentence=(str, ...))


@dataclass
class CallPlan:
    """Calls that would be made, since the store lacks their answers; counted by kind of task."""

    calls: Counter[str] = field(default_factory=Counter)
    input_tokens: Counter[str] = field(default_factory=Counter)
    output_tokens: Counter[str] = field(default_factory=Counter)
    counted_keys: set[bytes] = field(default_factory=set)


class Annotator:
    """Writes notes and summaries of reviews with a language model.

    Raw answers go into the store before they are parsed. An unusable one is asked for once more;
    if that fails too, the result is empty. With a `plan` calls are not made, but added to it.
    """

    def __init__(
        self, model: LanguageModel, store: Store, config: Config, plan: CallPlan | None = None
    ) -> None:
        self.model, self.plan, self._store = model, plan, store
        self._language, self._annotation = config.language, config.annotation
        self.failures: Counter[str] = Counter()
        # Prompts by kind of task: all, and those without a usable answer.
        self._asked, self._unanswered = Counter[str](), Counter[str]()
        # Whether a call that failed for the moment ends with a ModelError, instead of an empty result.
        self.insists = False

    @property
    def note_provenance(self) -> dict[str, object]:
        """What determines a note besides the text."""
        return self.model.provenance(build_task("note", self._annotation.item_kind))

    @property
    def failure_summary(self) -> str:
        """How many prompts failed, and the most frequent reasons; empty when none did."""
        if not self.failures:
            return ""
        reasons = [f"{count:,} times {reason}" for reason, count in self.failures.most_common(3)]
        failed = f"{self.failures.total():,} prompts failed, and their results are missing"
        return f"{failed}: {'; '.join(reasons)}"

    def insist_on_answers(self) -> None:
        """Raise a ModelError where most prompts of a kind failed, since the rest tells little."""
        for name, unanswered in self._unanswered.items():
            if 2 * unanswered > self._asked[name] and self.plan is None:
                kind = f"{unanswered:,} of {self._asked[name]:,} prompts ({name})"
                reason, _ = self.failures.most_common(1)[0]
                raise ModelError(f"{kind} have no usable answer: {reason}. {HOW_TO_GO_ON}")

    def write_notes(self, texts: Sequence[str]) -> list[Note]:
        """A note on each text alone; an empty one where the text is blank or the model failed."""
        if self._is_extractive:
            fitted: list[Texts] = [(text,) if text.strip() else () for text in texts]
        else:
            fitted = list(map(self._context.fit_text, texts))
        notes = self._ask("note", fitted, partial(self._parse, Note), "reading reviews")
        return [note or Note() for note in notes]

    def write_reasons(self, groups: Sequence[Sequence[str]]) -> list[str]:
        """A sentence on one item from each group of sentences about it; empty where that failed."""
        if self._is_extractive:
            return [""] * len(groups)
        texts = [tuple(filter(None, map(sanitize, group))) for group in groups]
        sentences = self._ask("reason", texts, parsing.parse_sentence, "writing reasons")
        return [sentence or "" for sentence in sentences]

    def read_wishes(self, texts: Sequence[str]) -> list[Wish | None]:
        """What each text says is wanted; None where it is too long for a wish or the model failed."""
        if self._is_extractive:
            return [None] * len(texts)
        fitted = [self._context.fit_text(text) if is_wish(text) else () for text in texts]
        try:
            return self._ask("wish", fitted, parsing.parse_wish, "reading wishes")
        except ModelError as error:  # no server answers; wishes can be read by rules
            self.failures[str(error)] += len(texts)
            return [None] * len(texts)

    def write_summaries(self, entity_kind: EntityKind, groups: _Groups) -> list[Summary]:
        """A summary of each group of reviews, all of one user or item; an empty one of no review."""
        if not self._is_extractive:
            if self._language.long_history == "tree":
                return self._summarize_in_levels(entity_kind, groups)
            return self._summarize(entity_kind, list(map(self._context.sample_reviews, groups)))
        texts: list[Texts] = []
        for group in groups:
            # Sorted, so that equal groups have the same key in the store.
            written = [review.text for review in group if review.text.strip()]
            texts.append(tuple(sorted(written)))
        return self._summarize(entity_kind, texts)

    @property
    def _is_extractive(self) -> bool:
        return self.model.window is None

    @cached_property
    def _context(self) -> ContextWindow:
        size = min(self.model.window or 0, self._language.call_tokens)
        return ContextWindow(self.model.count_tokens, size)

    def _summarize_in_levels(self, entity_kind: EntityKind, groups: _Groups) -> list[Summary]:
        """Summarize long groups in parts first, then the summaries of their parts."""
        owners: list[int] = []  # the group of each long part
        long_parts: list[Texts] = []
        whole_groups: list[Texts] = []
        for index, group in enumerate(groups):
            parts = self._context.split_reviews(group)
            whole_groups.append(parts[0] if len(parts) == 1 else ())
            if len(parts) > 1:
                owners += [index] * len(parts)
                long_parts += parts
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

    def _summarize(self, kind: EntityKind, texts: Sequence[Texts]) -> list[Summary]:
        """A summary of each tuple of texts that fit into a prompt."""

        def ask(name: str, parse: Callable[[Answer], T], title: str) -> list[T | None]:
            return self._ask(name, texts, lambda answer, _: parse(answer), title)

        name, title = f"summary of {kind}", f"summarising {kind}s"
        if self._is_extractive or self._language.prompts == "default":
            structured = ask(name, partial(self._parse, Summary), title)
            return [summary or Summary() for summary in structured]
        written = ask(f"paper's {name}", parsing.parse_text, title)
        if kind == "user":
            return [Summary(text=text or "") for text in written]
        prices = ask("paper's price", parsing.parse_price, "asking for prices")
        limit = self._annotation.max_categories
        parse = partial(parsing.parse_categories, max_categories=limit)
        listed = ask("paper's categories", parse, "asking for categories")
        summaries = []
        for text, price, labels in zip(written, prices, listed, strict=True):
            opinions: dict[str, Any] = {"price": price or "none"}
            summaries.append(Summary(text=text or "", **opinions, categories=labels or []))
        return summaries

    def _parse(self, result_type: type[AnnotationT], answer: Answer, _: Texts = ()) -> AnnotationT:
        if self._is_extractive:
            return result_type.model_validate_json(answer.text)
        return parsing.parse_annotation(answer, result_type, self._annotation.max_categories)

    def _ask(
        self, name: str, texts: Sequence[Texts], parse: Callable[[Answer, Texts], T], title: str
    ) -> list[T | None]:
        """The parsed answer about each tuple of texts; None for () and where no answer is usable."""
        task = build_task(name, self._annotation.item_kind, self._annotation.max_categories)
        prompts = {index: Prompt(task, group) for index, group in enumerate(texts) if group}
        results: list[T | None] = [None] * len(texts)
        # Models that think before they answer need room for that too.
        roomy_task = replace(task, max_tokens=4 * task.max_tokens)
        for attempt in range(3 if self._language.retry_failed else 2):
            retries: dict[int, Prompt] = {}
            reasons: Counter[str] = Counter()
            work = "asking again" if attempt else title
            answers = self._answers([*prompts.values()], work)
            for (index, prompt), answer in zip(prompts.items(), answers, strict=True):
                if isinstance(answer, Failure):
                    if self.insists and not answer.final:
                        raise ModelError(answer.reason)
                    self.failures[answer.reason] += 1
                    continue
                try:
                    results[index] = parse(answer, prompt.texts)
                except parsing.UnusableAnswer as error:
                    rejected = json.dumps([answer.text[:2000], str(error)])
                    retries[index] = Prompt(roomy_task, prompt.texts, rejected)
                    reasons[f"no usable answer, also when asked again: {error}"] += 1
            prompts = retries
        self.failures.update(reasons)
        asked = [index for index, group in enumerate(texts) if group]
        self._asked[name] += len(asked)
        self._unanswered[name] += sum(results[index] is None for index in asked)
        return results

    def _answers(self, prompts: Sequence[Prompt], title: str) -> list[Answer | Failure]:
        """Answers to prompts of one task, from the store or the model; none are made for a plan."""
        if not prompts:
            return []
        task = prompts[0].task
        provenance = self.model.provenance(task)
        inputs = [json.dumps([prompt.texts, prompt.rejected]) for prompt in prompts]
        if self.plan is not None:
            missing = self._store.missing(provenance, inputs)
            for key in missing.keys() - self.plan.counted_keys:
                messages = chat_messages(prompts[missing[key]])
                text = "\n".join(message["content"] for message in messages)
                self.plan.calls[task.name] += 1
                self.plan.input_tokens[task.name] += self.model.count_tokens([text])[0]
                # Means of real answers.
                self.plan.output_tokens[task.name] += 110 if task.name == "note" else 260
            self.plan.counted_keys.update(missing)
            return [Failure("only planned")] * len(prompts)

        def compute(blocks: Iterator[list[int]]) -> Generator[tuple[int, Result]]:
            numbered = ([(index, prompts[index]) for index in block] for block in blocks)
            for index, answer in self.model.generate(numbered):
                if isinstance(answer, Answer):
                    yield index, answer.model_dump_json().encode()
                else:
                    yield index, answer

        options: Any = {"chunk": self.model.chunk_size, "status": self.model.status}
        results = self._store.get_or_compute(provenance, inputs, compute, title=title, **options)

        def load(result: Result) -> Answer | Failure:
            return result if isinstance(result, Failure) else Answer.model_validate_json(result)

        try:
            return list(map(load, results))
        except ValidationError as error:
            remedy = f"`mmrec store prune --kind '{task.name}'` deletes all of its kind"
            raise StoreError(f"an answer in the store is damaged; {remedy}") from error


def build_task(name: str, item_kind: str, max_categories: int = 5) -> Task:
    """A task of `prompts.toml`, such as `note` or `summary of item`, about a kind of items."""
    texts = PROMPT_TEXTS["tasks"][name]
    parts = {"kind": item_kind, "max_categories": max_categories, **texts}
    rules = PROMPT_TEXTS["rules"].format_map(parts) if "texts" in texts else ""
    fields = PROMPT_TEXTS["fields"].format_map(parts) if "points" in texts else ""
    instructions = texts["prompt"].format(kind=item_kind, fields=fields, rules=rules)
    schema: dict[str, object] | None = None
    if "answer" in texts:
        answers: dict[str, type[BaseModel]]
        answers = {"Note": Note, "Summary": Summary, "Reason": _Reason, "Wish": StatedWish}
        properties: dict[str, dict[str, object]] = {}
        for label, details in answers[texts["answer"]].model_json_schema()["properties"].items():
            used = ("type", "items", "enum")  # without titles and defaults
            properties[label] = {key: details[key] for key in used if key in details}
        # OpenAI's strict form: every field required, no others.
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        schema["additionalProperties"] = False
    return Task(name, instructions, schema, texts["max_tokens"])


def _as_text(summary: Summary) -> str:
    """A summary of a part as a text for the next level; empty where the model failed."""
    lines = [summary.text]
    for name in ("likes", "dislikes", "categories"):
        if phrases := getattr(summary, name):
            lines.append(f"{name.capitalize()}: {'; '.join(phrases)}")
    if summary.price != "none":
        lines.append(f"Price: {summary.price}")
    return "\n".join(lines) if summary.text else ""
