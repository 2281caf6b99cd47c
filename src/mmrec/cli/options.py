"""Settings as flags, and the printing that several commands share."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmrec import config as settings
from mmrec.console import console, escape_text

if TYPE_CHECKING:
    from mmrec.data import Reviews
    from mmrec.evaluation.metrics import Metrics
    from mmrec.experiments.report.html import ResultTable

__all__ = [
    "AsJson", "Data", "Model", "PaperSettings", "ReadSettings", "ServeSettings", "Settings",
    "StorePath", "load_reviews", "print_json", "print_scores", "print_table", "result_table",
    "show_rejects", "stdout",
]  # fmt: skip

stdout = Console(highlight=False)
"""For results; progress and remarks go to standard error."""

# Parameters that several commands share.
Data = Annotated[
    Path,
    Parameter(
        help="JSON lines, JSON, CSV (each also .gz) or Parquet; see Reading for other column names."
    ),
]
Model = Annotated[Path, Parameter(help="Folder that `mmrec fit` wrote.")]
StorePath = Annotated[
    Path | None, Parameter(help="Database of stored results; the default one otherwise.")
]
AsJson = Annotated[
    bool, Parameter("--json", negative=(), help="Print one JSON object instead of text and tables.")
]
Settings = settings.Config
PaperSettings = settings.PaperConfig
ReadSettings = settings.ReadConfig
ServeSettings = settings.ServeConfig


def _make_flags() -> None:
    """Make every setting a flag of its own name; the text under a field is its help."""
    # The order is that of `--help`.
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


def result_table(
    header: Sequence[str],
    rows: Iterable[Iterable[str | Text]],
    title: str = "",
    words: Container[int] = (0,),
    caption: str = "",
) -> Table:
    """A table for the terminal.

    Args:
        header: names of the columns; without any name there is no line for them.
        rows: cells; strings are escaped, since they may come from reviews or imported files.
        title: above the table.
        words: columns that are set to the left, as words are and numbers are not.
        caption: below the table.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.show_header, table.caption = any(header), caption or None
    table.title = Text(title) if title else None  # a plain string would be read as markup
    table.title_justify = table.caption_justify = "left"
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column in words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(c if isinstance(c, Text) else Text(escape_text(c, 1000)) for c in row))
    return table


def print_scores(scores: Mapping[str, Metrics], title: str) -> None:
    """Print the metrics of several models, the best of every column in bold."""
    # Column name and direction of every metric that is shown.
    columns = {
        "accuracy": ("acc.", max), "fpr": ("FPR", min), "loss": ("loss", min),
        "auc": ("AUC", max), "ap_negative": ("AP-", max), "fpr_at_80": ("FPR@80", min),
        "fpr_at_90": ("FPR@90", min), "fpr_at_95": ("FPR@95", min),
    }  # fmt: skip
    legend = (
        "acc., FPR, loss: at the threshold of the weighted loss. AUC: area under the ROC curve. "
        "AP-: average precision of finding dislikes. FPR@90: share of the dislikes that would be "
        "recommended when 90% of the likes are."
    )
    rows: dict[str, list[str | Text]] = {name: [name] for name in scores}
    for key, (_, best_of) in columns.items():
        best = best_of(row[key] for row in scores.values())
        for name, row in scores.items():
            rows[name].append(Text(f"{row[key]:.3f}", "bold" if row[key] == best else ""))
    header = ["model", *(name for name, _ in columns.values())]
    stdout.print(result_table(header, rows.values(), title, caption=legend))


def print_table(table: ResultTable) -> None:
    """Print a table of an experiment, with its notes below."""
    rows: list[list[str | Text]] = [[*row] for row in table.rows]
    for row, column in table.bold:
        rows[row][column] = Text(table.rows[row][column], "bold")
    stdout.print(result_table(table.header, rows, table.title, table.words()))
    for note in table.notes:
        stdout.print(Text(f"{note}."))
    stdout.print()
