"""Settings as flags, and the printing that several commands share."""

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
    from mmrec.experiments.report.html import ResultTable

__all__ = [
    "AsJson",
    "PaperSettings",
    "ReadSettings",
    "ServeSettings",
    "Settings",
    "load_reviews",
    "print_json",
    "print_scores",
    "print_table",
    "show_rejects",
    "stdout",
]

stdout = Console(highlight=False)
"""For results; progress and remarks go to standard error."""

AsJson = Annotated[bool, Parameter(name="--json", negative=())]
Settings = settings.Config
PaperSettings = settings.PaperConfig
ReadSettings = settings.ReadConfig
ServeSettings = settings.ServeConfig


def _make_flags() -> None:
    """Make every setting a flag of its own name; the text under a field is its help."""
    titles = {
        settings.Config: "General",
        settings.ReadConfig: "Reading",
        settings.SplitConfig: "Splitting",
        settings.EvidenceConfig: "Evidence",
        settings.AnnotationConfig: "Annotation",
        settings.LanguageConfig: "Language model",
        settings.VisionConfig: "Vision model",
        settings.EncoderConfig: "Encoder",
        settings.RankerConfig: "Ranker",
        settings.TrainingConfig: "Training",
        settings.OperatingConfig: "Operating point",
        settings.EngineConfig: "Engine",
        settings.ServeConfig: "Service",
    }
    for order, (section_type, title) in enumerate(titles.items(), 1):
        Parameter(name="*", group=Group(title, sort_key=order))(section_type)
    paper = settings.PaperConfig()
    for section in (paper.evidence, paper.ranker, paper.training):
        for name, field in type(section).model_fields.items():
            # Fixed settings are hidden but parsed, so that setting one is an error with a reason.
            if name in paper.fixed_fields:
                field.metadata.append(Parameter(show=False))


_make_flags()


def load_reviews(data: Path, config: Settings, folder: Path) -> Reviews:
    """Read reviews; write rejected rows to `rejects.jsonl` in a folder."""
    from mmrec.data import read_reviews

    reviews = read_reviews(data, config.read)
    show_rejects(reviews, folder)
    return reviews


def show_rejects(reviews: Reviews, folder: Path | None = None) -> None:
    """Print how many rows were rejected; list them in `rejects.jsonl`, if there is a folder."""
    count = reviews.rejects.height
    if not count:
        return
    if folder is None:
        first = reviews.rejects.row(0, named=True)
        where = f"line {first['line']}: {first['reason']}, and so on; `mmrec fit` lists them all"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        reviews.rejects.write_ndjson(folder / "rejects.jsonl")
        where = f"see {folder / 'rejects.jsonl'}"
    console.print(f"{count:,} rows or photos were rejected: {where}", markup=False)


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON object; NaN and infinity, which JSON lacks, become null."""
    strict = json.loads(json.dumps(result, default=str), parse_constant=lambda _: None)
    print(json.dumps(strict, indent=2, allow_nan=False))


def print_scores(scores: Mapping[str, Metrics], title: str) -> None:
    """Print the metrics of several models, the best of every column in bold."""
    columns = {
        "accuracy": "acc.",
        "fpr": "FPR",
        "loss": "loss",
        "auc": "AUC",
        "ap_negative": "AP-",
        "fpr_at_80": "FPR@80",
        "fpr_at_90": "FPR@90",
        "fpr_at_95": "FPR@95",
    }
    legend = (
        "acc., FPR, loss: at the threshold of the weighted loss. AUC: area under the ROC curve. "
        "AP-: average precision of finding dislikes. FPR@90: share of the dislikes that would be "
        "recommended when 90% of the likes are."
    )
    table = Table(title=title, title_justify="left", caption=legend, caption_justify="left")
    table.box, table.padding, table.pad_edge = SIMPLE_HEAD, (0, 0, 0, 1), False
    table.add_column("model", no_wrap=True)
    best = {}
    for key, name in columns.items():
        table.add_column(name, justify="right", no_wrap=True)
        values = [row[key] for row in scores.values()]
        best[key] = max(values) if key in ("accuracy", "auc", "ap_negative") else min(values)
    for name, row in scores.items():
        cells = []
        for key in columns:
            value = row[key]
            cells.append(Text(f"{value:.3f}", "bold" if value == best[key] else ""))
        table.add_row(name, *cells)
    stdout.print(table)


def print_table(table: ResultTable) -> None:
    """Print a table of an experiment, with its notes below."""
    view = Table(title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column, title in enumerate(table.header):
        justify: Any = "left" if column in table.words() else "right"
        view.add_column(title, justify=justify, overflow="fold")
    for row_number, row in enumerate(table.rows):
        cells = []
        for column, text in enumerate(row):
            cells.append(Text(text, "bold" if (row_number, column) in table.bold else ""))
        view.add_row(*cells)
    stdout.print(view)
    for note in table.notes:
        stdout.print(Text(f"{note}."))
    stdout.print()
