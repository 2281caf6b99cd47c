"""`mmrec annotate`: annotate reviews with a language model, after an estimate of its cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from mmrec.cli.options import AsJson, Data, load_reviews, print_json, print_table, stdout
from mmrec.config import Config
from mmrec.console import console, escape_text, single_line

if TYPE_CHECKING:
    from mmrec.experiments.annotation_quality import AnnotationQuality


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
    """Annotate reviews with a language model; answers are stored, and `mmrec fit` uses them.

    Args:
        dry_run: only estimate calls, tokens and price, for both strategies; no model is called.
        check: afterwards measure the quality of the annotations, and show the worst examples.
        truth: for --check, a file of items with their true `price` or `categories`.
        batch: submit the calls to OpenAI's Batch API at half the price; run the command again to
            collect the answers.
    """
    from mmrec.experiments.annotate import annotate_reviews, estimate
    from mmrec.experiments.annotation_quality import measure_annotation_quality
    from mmrec.pipeline import open_models

    reviews = load_reviews(data, config)
    if dry_run:
        estimates = {}
        for strategy in ("notes", "summary"):
            estimates[strategy] = estimate(reviews, config, strategy, batch=batch)
        print_json(estimates) if json else _print_estimates(estimates, config.language.llm)
        return
    models = open_models(config, batch=batch)
    run = annotate_reviews(reviews, config, models)
    result = run.summary(models)
    if check:
        quality = measure_annotation_quality(run, config, models, truth)
        result["check"] = asdict(quality)
        if not json:
            print_quality(quality)
    print_json(result) if json else _print_summary(result)


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
    console.print("Estimates, without stored answers. No model was called.")


def _print_summary(result: dict[str, Any]) -> None:
    rows = []
    for name, value in result.items():
        if name not in ("failed", "pending", "check") and value is not None:
            rows.append([name.replace("_", " "), value])
    print_table(["", ""], rows, words=(0, 1))
    if failures := result["failed"]:
        count = sum(failures.values())
        console.print(f"[yellow]{count:,} calls failed; their results count as missing:")
        # Without markup, and escaped: reasons quote what a server answered.
        for reason, count in list(failures.items())[:5]:
            console.print(f"  {count:,}: {escape_text(reason, 500)}", markup=False)
    if result["pending"]:
        console.print(escape_text(result["pending"]["remark"], 1000), markup=False)


def print_quality(quality: AnnotationQuality) -> None:
    """Print quality measures in tables of 80 columns; texts are escaped, not interpreted."""
    model = _inert(str(quality.model.get("model")))
    title = f"Quality of the annotations by {model}, strategy {quality.strategy}"
    stdout.print(Text(f"{title}, prompts {quality.prompts}", "bold"))
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
