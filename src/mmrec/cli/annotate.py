"""`mmrec profile`: have reviews read by a language model, after saying what it will cost."""

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
    from mmrec.experiments.annotate import AnnotationRun
    from mmrec.features.dataset import Models
    from mmrec.llm.annotator import CallPlan

__all__ = ["profile"]

_REASONS = 5


def profile(
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
    """Have reviews read by a language model; what it answers is kept, and `mmrec fit` finds it.

    Args:
        data: as for `mmrec fit`.
        dry_run: only say how many calls and tokens it would take, and what they cost, for both strategies.
        check: afterwards measure how good what was written is, with the worst examples.
        truth: file of items with their true `price` or `categories`, for --check.
        batch: hand the asks in by OpenAI's Batch API at half the price; run the same again to collect.
        json: print one JSON object instead of tables.
    """
    from mmrec.data import read_reviews
    from mmrec.experiments.annotate import annotate_reviews
    from mmrec.pipeline import open_models

    reviews = read_reviews(data, config.read)
    show_rejects(reviews)
    if dry_run:
        plans = {
            strategy: _planned(reviews, config, strategy, batch)
            for strategy in ("notes", "summary")
        }
        print_json(plans) if json else _print_plans(plans, config)
        return
    models = open_models(config, batch=batch)
    profiles = annotate_reviews(reviews, config, models)
    result = _result(profiles, models)
    if check:
        from mmrec.cli.annotation_quality import print_check
        from mmrec.experiments.annotation_quality import measure_annotation_quality

        found = measure_annotation_quality(profiles, config, models, truth)
        result["check"] = asdict(found)
        if not json:
            print_check(found)
    print_json(result) if json else _print_result(result)


def _planned(reviews: Any, config: Settings, strategy: str, batch: bool) -> dict[str, Any]:
    """Calls, tokens and price of one strategy, less what is stored already."""
    from mmrec.experiments.annotate import CAPTION, annotate_reviews
    from mmrec.llm.annotator import CallPlan
    from mmrec.pipeline import open_models
    from mmrec.vision.openai_captioner import OpenAICaptioner

    plan = CallPlan()
    chosen = config.annotation.model_copy(update={"strategy": strategy})
    own = config.model_copy(update={"annotation": chosen})
    models = open_models(own, plan, batch=batch)
    annotate_reviews(reviews, own, models)
    reader, captioner = models.annotator.note_provenance, {}
    if isinstance(models.captioner, OpenAICaptioner):
        captioner = models.captioner.provenance
    dollars = [
        _dollars(
            plan,
            [name for name in plan.calls if (name == CAPTION) == seeing],
            maker,
            config,
            halved,
        )
        for seeing, maker, halved in ((False, reader, batch), (True, captioner, False))
    ]
    rows = {
        name: {
            "calls": plan.calls[name],
            "tokens_in": plan.input_tokens[name],
            "tokens_out": plan.output_tokens[name],
        }
        for name in plan.calls
    }
    return {"asks": rows, "dollars": None if None in dollars else sum(filter(None, dollars))}


def _dollars(
    plan: CallPlan, names: list[str], maker: dict[str, object], config: Settings, halved: bool
) -> float | None:
    """What the asks of one model cost; None where its price is not known."""
    from mmrec.llm.cost import Price
    from mmrec.llm.types import Usage

    if not names:
        return 0.0
    price = Price.for_model(
        str(maker.get("provider", "")), str(maker["model"]), config.language.llm_price
    )
    if price is None:
        return None
    tokens = (
        sum(counts[name] for name in names) for counts in (plan.input_tokens, plan.output_tokens)
    )
    cost = price.cost(Usage(**dict(zip(("input", "output"), tokens, strict=True))))
    return cost / 2 if halved else cost


def _print_plans(plans: dict[str, dict[str, Any]], config: Settings) -> None:
    table = Table(
        title=f"What {config.language.llm} would be asked", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("strategy")
    table.add_column("ask")
    for name in ("calls", "tokens in", "tokens out", "US$"):
        table.add_column(name, justify="right")
    for strategy, plan in plans.items():
        for name, row in plan["asks"].items():
            table.add_row(
                strategy,
                name,
                *(f"{row[key]:,}" for key in ("calls", "tokens_in", "tokens_out")),
                "",
            )
        money = "unknown" if plan["dollars"] is None else f"{plan['dollars']:,.2f}"
        table.add_row(strategy, "together", "", "", "", money, end_section=True)
    stdout.print(table)
    console.print(
        "Tokens are estimates, those of the answers by experience; what is stored already is not counted. "
        "Nothing was asked."
    )


def _result(profiles: AnnotationRun, models: Models) -> dict[str, Any]:
    from mmrec.llm.cost import CostTracker
    from mmrec.llm.openai_client import ChatClient
    from mmrec.llm.types import Usage

    costs: list[CostTracker] = []
    for model in (models.annotator.model, models.captioner):
        if isinstance(client := getattr(model, "client", None), ChatClient):
            costs.append(client.costs)
    result: dict[str, Any] = {"model": models.annotator.note_provenance["model"]}
    if profiles.notes:
        result["notes"] = len(profiles.notes)
        result["empty"] = sum(not note.gist for note in profiles.notes)
    for part in profiles.summaries:
        name = f"summaries of {part.kind}s"
        result[name] = result.get(name, 0) + len(part.summaries)
    if costs:
        usage = sum((tracker.usage for tracker in costs), Usage())
        has_prices = all(tracker.price for tracker in costs)
        result |= {
            "calls": sum(tracker.calls for tracker in costs),
            "tokens_in": usage.input,
            "tokens_out": usage.output,
            "dollars": sum(tracker.dollars for tracker in costs) if has_prices else None,
        }
    return result | {"failed": dict(profiles.failed.most_common()), "pending": _pending(profiles)}


def _pending(profiles: AnnotationRun) -> dict[str, Any] | None:
    if not profiles.pending:
        return None
    pending = reduce(add, profiles.pending)
    counts = {
        "submitted": pending.submitted,
        "waiting": pending.waiting,
        "deferred": pending.deferred,
    }
    return {**counts, "remark": str(pending)}


def _print_result(result: dict[str, Any]) -> None:
    table = Table(show_header=False, box=SIMPLE_HEAD)
    for name, value in result.items():
        if name not in ("failed", "pending", "check") and value is not None:
            form = {float: ",.4f", int: ","}.get(type(value), "")
            table.add_row(name.replace("_", " "), Text(escape_text(format(value, form))))
    stdout.print(table)
    failed = result["failed"]
    if failed:
        console.print(
            f"[yellow]{sum(failed.values()):,} asks failed; what they are about counts as missing:"
        )
        for reason, count in list(failed.items())[:_REASONS]:
            console.print(f"  {count:,}: {escape_text(reason, 500)}", markup=False)
    if result["pending"]:
        console.print(escape_text(result["pending"]["remark"], 1000), markup=False)
