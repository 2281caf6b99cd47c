"""The configuration tree as flags, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmrec import config as settings
from mmrec.console import console

if TYPE_CHECKING:
    from mmrec.data import Reviews
    from mmrec.evaluation.metrics import Metrics
    from mmrec.experiments.report import tables

__all__ = [
    "AsJson",
    "PaperSettings",
    "ReadSettings",
    "ServeSettings",
    "Settings",
    "print_json",
    "stdout",
]
__all__ += ["print_scores", "print_table", "show_rejects"]

stdout = Console(highlight=False)
"""Results go to standard output; progress and remarks go to standard error."""

for _order, (_part, _title) in enumerate(
    (
        (settings.Config, "General"),
        (settings.ReadConfig, "Reading"),
        (settings.SplitConfig, "Splitting"),
        (settings.EvidenceConfig, "Evidence"),
        (settings.AnnotationConfig, "Words"),
        (settings.LanguageConfig, "Language model"),
        (settings.VisionConfig, "Vision model"),
        (settings.EncoderConfig, "Encoder"),
        (settings.RankerConfig, "Ranker"),
        (settings.TrainingConfig, "Training"),
        (settings.OperatingConfig, "Operating point"),
        (settings.EngineConfig, "Engine"),
        (settings.ServeConfig, "Service"),
    )
):
    # Every field of the tree becomes a flag of its own name; its docstring is its help.
    Parameter(name="*", group=Group(_title, sort_key=_order + 1))(_part)

PaperSettings = settings.PaperConfig
for _name in ("evidence", "ranker", "training"):
    # What is decided is not in the help, but parsed, so that who gives it is told why that cannot be.
    for _field, _info in type(getattr(PaperSettings(), _name)).model_fields.items():
        _info.metadata.extend(
            [Parameter(show=False)] if _field in PaperSettings.fixed_fields else []
        )
Settings = settings.Config
ReadSettings = settings.ReadConfig
ServeSettings = settings.ServeConfig
AsJson = Annotated[bool, Parameter(name="--json", negative=())]

_COLUMNS = {
    "accuracy": "acc.",
    "fpr": "FPR",
    "loss": "loss",
    "auc": "AUC",
    "ap_negative": "AP-",
    "fpr_at_80": "FPR@80",
    "fpr_at_90": "FPR@90",
    "fpr_at_95": "FPR@95",
}
_LEGEND = (
    "acc., FPR, loss: at the threshold of the weighted loss. AUC: area under the ROC curve. AP-: average "
    "precision of finding dislikes. FPR@90: share of dislikes recommended when 90% of the likes are."
)


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON object, for machines; what is no number, or infinite, is null."""
    strict = json.loads(json.dumps(result, default=str), parse_constant=lambda _: None)
    print(json.dumps(strict, indent=2, allow_nan=False))


def print_scores(scores: Mapping[str, Metrics], title: str) -> None:
    """Print models beside each other, the best figure of every column in bold."""
    table = Table(
        title=title,
        title_justify="left",
        caption=_LEGEND,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True)
    for name in _COLUMNS.values():
        table.add_column(name, justify="right", no_wrap=True)
    best = {
        key: (max if key in ("accuracy", "auc", "ap_negative") else min)(
            row[key] for row in scores.values()
        )
        for key in _COLUMNS
    }
    for name, row in scores.items():
        cells = [
            f"[bold]{value:.3f}[/]" if (value := row[key]) == best[key] else f"{value:.3f}"
            for key in _COLUMNS
        ]
        table.add_row(name, *cells)
    stdout.print(table)


def print_table(table: tables.Table) -> None:
    """Print a table of an experiment, with its notes below."""
    shown = Table(title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column, title in enumerate(table.header):
        justify: Any = "left" if column in table.words() else "right"
        shown.add_column(title, justify=justify, overflow="fold")
    for at, row in enumerate(table.rows):
        bold = ["bold" if (at, column) in table.bold else "" for column in range(len(row))]
        shown.add_row(*map(Text, row, bold))
    stdout.print(shown)
    for note in table.notes:
        stdout.print(Text(f"{note}."))
    stdout.print()


def show_rejects(reviews: Reviews, folder: Path | None = None) -> None:
    """Say how many rows were refused; write them to `rejects.jsonl` where there is a folder for it."""
    if not (count := reviews.rejects.height):
        return
    if folder is None:
        first = reviews.rejects.row(0, named=True)
        where = f"line {first['line']}: {first['reason']}, and so on; `mmrec fit` lists them all"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        reviews.rejects.write_ndjson(folder / "rejects.jsonl")
        where = f"see {folder / 'rejects.jsonl'}"
    console.print(f"{count:,} rows or photos were refused: {where}", markup=False)
