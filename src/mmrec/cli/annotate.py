"""`mmrec annotate`: annotate reviews with a language model, after an estimate of its cost."""

from __future__ import annotations

from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mmrec.cli.options import AsJson, Settings, print_json, show_rejects, stdout
from mmrec.console import console
from mmrec.text import escape_text

if TYPE_CHECKING:
    from mmrec.data import Reviews
    from mmrec.experiments.annotate import AnnotationRun
    from mmrec.features.dataset import Models

__all__ = ["annotate"]


def annotate(
    data: Path,
    /,
    *,
    dry_run: bool = False,
    check: bool = False,
    truth: Path | None = None,
    batch: bool = False,
    json: AsJson = False,
    config: Settings = Settings(),
) -> None:
    """Annotate reviews with a language model; the answers are stored, and `mmrec fit` uses them.

    Args:
        data: as for `mmrec fit`.
        dry_run: only estimate calls, tokens and price, for both strategies; no model is called.
        check: afterwards measure the quality of the annotations, and show the worst examples.
        truth: for --check, a file of items with their true `price` or `categories`.
        batch: submit the calls to OpenAI's Batch API at half the price; run the command again to
            collect the answers.
        json: print one JSON object instead of tables.
    """
    from mmrec.data import read_reviews
    from mmrec.experiments.annotate import annotate_reviews
    from mmrec.pipeline import open_models

    reviews = read_reviews(data, config.read)
    show_rejects(reviews)
    if dry_run:
        estimates = {name: _estimate(reviews, config, name, batch) for name in ("notes", "summary")}
        print_json(estimates) if json else _print_estimates(estimates, config.language.llm)
        return
    models = open_models(config, batch=batch)
    run = annotate_reviews(reviews, config, models)
    result = _summary(run, models)
    if check:
        from mmrec.cli.annotation_quality import print_quality
        from mmrec.experiments.annotation_quality import measure_annotation_quality

        quality = measure_annotation_quality(run, config, models, truth)
        result["check"] = asdict(quality)
        if not json:
            print_quality(quality)
    print_json(result) if json else _print_summary(result)


def _estimate(reviews: Reviews, config: Settings, strategy: str, batch: bool) -> dict[str, Any]:
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
    table = Table(title=f"Estimate for {model}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("strategy")
    table.add_column("task")
    for name in ("calls", "tokens in", "tokens out", "US$"):
        table.add_column(name, justify="right")
    for strategy, estimate in estimates.items():
        for task, counts in estimate["tasks"].items():
            table.add_row(strategy, task, *(f"{count:,}" for count in counts.values()), "")
        dollars = estimate["dollars"]
        price = "unknown" if dollars is None else f"{dollars:,.2f}"
        table.add_row(strategy, "total", "", "", "", price, end_section=True)
    stdout.print(table)
    console.print(
        "Tokens are estimates. Stored answers are not counted. No model was called.", markup=False
    )


def _summary(run: AnnotationRun, models: Models) -> dict[str, Any]:
    from mmrec.llm.cost import CostTracker
    from mmrec.llm.openai_client import ChatClient
    from mmrec.llm.types import Usage

    result: dict[str, Any] = {"model": models.annotator.note_provenance["model"]}
    if run.notes:
        result["notes"] = len(run.notes)
        result["empty"] = sum(not note.gist for note in run.notes)
    for views in run.summaries:
        name = f"summaries of {views.kind}s"
        result[name] = result.get(name, 0) + len(views.summaries)
    costs: list[CostTracker] = []
    for model in (models.annotator.model, models.captioner):
        client = getattr(model, "client", None)
        if isinstance(client, ChatClient):
            costs.append(client.costs)
    if costs:
        usage = sum((cost.usage for cost in costs), Usage())
        result |= {"calls": sum(cost.calls for cost in costs)}
        result |= {"tokens_in": usage.input, "tokens_out": usage.output, "dollars": None}
        if all(cost.price for cost in costs):
            result["dollars"] = sum(cost.dollars for cost in costs)
    result["failed"] = dict(run.failed.most_common())
    result["pending"] = None
    if run.pending:
        pending = reduce(add, run.pending)
        counts = {"submitted": pending.submitted, "waiting": pending.waiting}
        result["pending"] = {**counts, "deferred": pending.deferred, "remark": str(pending)}
    return result


def _print_summary(result: dict[str, Any], max_reasons: int = 5) -> None:
    table = Table(show_header=False, box=SIMPLE_HEAD)
    for name, value in result.items():
        if name not in ("failed", "pending", "check") and value is not None:
            pattern = {float: ",.4f", int: ","}.get(type(value), "")
            table.add_row(name.replace("_", " "), Text(escape_text(format(value, pattern))))
    stdout.print(table)
    if failures := result["failed"]:
        count = sum(failures.values())
        console.print(f"[yellow]{count:,} calls failed; their results count as missing:")
        for reason, count in list(failures.items())[:max_reasons]:
            console.print(f"  {count:,}: {escape_text(reason, 500)}", markup=False)
    if result["pending"]:
        console.print(escape_text(result["pending"]["remark"], 1000), markup=False)
