"""`mmrec annotate`: annotate reviews with a language model, after an estimate of its cost."""

from __future__ import annotations

from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from mmrec.cli.options import AsJson, Data, load_reviews, print_json, print_table, stdout
from mmrec.config import Config
from mmrec.console import console, escape_text, single_line

if TYPE_CHECKING:
    from mmrec.data import Reviews
    from mmrec.experiments.annotate import AnnotationRun
    from mmrec.experiments.annotation_quality import AnnotationQuality
    from mmrec.features.dataset import Models


def annotate(
    data: Data,
    /,
    *,
    dry_run: bool = False,
    check: bool = False,
    truth: Path | None = None,
    batch: bool = False,
    json: AsJson = False,
    config: Config = Config(),
) -> None:
    """Annotate reviews with a language model; the answers are stored, and `mmrec fit` uses them.

    Args:
        dry_run: only estimate calls, tokens and price, for both strategies; no model is called.
        check: afterwards measure the quality of the annotations, and show the worst examples.
        truth: for --check, a file of items with their true `price` or `categories`.
        batch: submit the calls to OpenAI's Batch API at half the price; run the command again to
            collect the answers.
    """
    from mmrec.experiments.annotate import annotate_reviews
    from mmrec.experiments.annotation_quality import measure_annotation_quality
    from mmrec.pipeline import open_models

    reviews = load_reviews(data, config)
    if dry_run:
        estimates = {}
        for strategy in ("notes", "summary"):
            estimates[strategy] = _estimate(reviews, config, strategy, batch)
        print_json(estimates) if json else _print_estimates(estimates, config.language.llm)
        return
    models = open_models(config, batch=batch)
    run = annotate_reviews(reviews, config, models)
    result = _summary(run, models)
    if check:
        quality = measure_annotation_quality(run, config, models, truth)
        result["check"] = asdict(quality)
        if not json:
            print_quality(quality)
    print_json(result) if json else _print_summary(result)


def _estimate(reviews: Reviews, config: Config, strategy: str, batch: bool) -> dict[str, Any]:
    """Calls, tokens and price of a strategy, without those that are stored already."""
    from mmrec.experiments.annotate import CAPTION, annotate_reviews
    from mmrec.llm.annotator import CallPlan
    from mmrec.llm.cost import Price
    from mmrec.llm.types import Usage
    from mmrec.pipeline import open_models

    plan = CallPlan()
    annotation = config.annotation.model_copy(update={"strategy": strategy})
    config = config.model_copy(update={"annotation": annotation})
    models = open_models(config, plan, batch=batch)
    annotate_reviews(reviews, config, models)
    tasks: dict[str, dict[str, int]] = {}
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


def _print_estimates(estimates: dict[str, dict[str, Any]], model: str) -> None:
    rows: list[list[Any]] = []
    for strategy, estimate in estimates.items():
        for task, counts in estimate["tasks"].items():
            rows.append([strategy, task, *counts.values(), ""])
        dollars = estimate["dollars"]
        price = "unknown" if dollars is None else f"{dollars:,.2f}"
        rows.append([strategy, "total", "", "", "", price])
    header = ["strategy", "task", "calls", "tokens in", "tokens out", "US$"]
    print_table(header, rows, f"Estimate for {model}", words=(0, 1))
    console.print("Tokens are estimates. Stored answers are not counted. No model was called.")


def _summary(run: AnnotationRun, models: Models) -> dict[str, Any]:
    """What was annotated, what it cost, and what is missing."""
    from mmrec.llm.openai_client import ChatClient
    from mmrec.llm.types import Usage

    result: dict[str, Any] = {"model": models.annotator.note_provenance["model"]}
    for kind, texts in run.texts.items():
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
        result |= {"tokens_in": usage.input, "tokens_out": usage.output, "dollars": None}
        if all(cost.price for cost in costs):
            result["dollars"] = sum(cost.dollars for cost in costs)
    result |= {"failed": dict(run.failed.most_common()), "pending": None}
    if run.pending:
        pending = reduce(add, run.pending)
        names = ("submitted", "waiting", "deferred")
        result["pending"] = {name: getattr(pending, name) for name in names}
        result["pending"]["remark"] = str(pending)
    return result


def _print_summary(result: dict[str, Any], max_reasons: int = 5) -> None:
    rows = []
    for name, value in result.items():
        if name not in ("failed", "pending", "check") and value is not None:
            rows.append([name.replace("_", " "), value])
    print_table(["", ""], rows, words=(0, 1))
    if failures := result["failed"]:
        count = sum(failures.values())
        console.print(f"[yellow]{count:,} calls failed; their results count as missing:")
        # Without markup, and escaped: reasons quote what a server answered.
        for reason, count in list(failures.items())[:max_reasons]:
            console.print(f"  {count:,}: {escape_text(reason, 500)}", markup=False)
    if result["pending"]:
        console.print(escape_text(result["pending"]["remark"], 1000), markup=False)


def print_quality(quality: AnnotationQuality) -> None:
    """Print quality measures in tables that fit 80 columns; texts are escaped, not interpreted."""
    model, strategy = _inert(str(quality.model.get("model"))), quality.strategy
    title = f"Quality of the annotations by {model}, strategy {strategy}, prompts {quality.prompts}"
    stdout.print(Text(title, "bold"))
    _print_measures(quality.sample_counts)
    for name, measure in quality.measures.items():
        stdout.print(Text(name.capitalize(), "bold"))
        stdout.print(Text(measure.legend, "dim"))
        _print_measures(measure.rows)
        for example in measure.examples:
            stdout.print(Text(f"Worst: {_inert(example.entity)}: {example.reason}"))
            text = f"“{_inert(example.text)}”"
            if example.compared_text:
                text += f"\ncompared with “{_inert(example.compared_text)}”"
            if example.review_id:
                text += f" (review {_inert(example.review_id)})"
            stdout.print(Padding(Text(text), (0, 0, 0, 2)))
        stdout.print()
    for remark in quality.remarks:
        stdout.print(Text(f"Note: {remark}."))
    stdout.print()


def _print_measures(rows: dict[str, dict[str, Any]]) -> None:
    """Print figures by row and column; not every row has every column."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[name, *map(row.get, columns)] for name, row in rows.items()]
    print_table(["", *(column.replace("_", " ") for column in columns)], cells)


def _inert(text: str) -> str:
    """Untrusted text on one line, with unprintable characters escaped."""
    return escape_text(single_line(text), 400)
