"""What `mmrec annotate --check` prints: quality measures with their errors, and the worst examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mmrec.cli.options import stdout
from mmrec.text import escape_text

if TYPE_CHECKING:
    from mmrec.experiments.annotation_quality import AnnotationQuality

__all__ = ["print_quality"]


def print_quality(quality: AnnotationQuality) -> None:
    """Print quality measures in tables that fit 80 columns; texts are escaped, not interpreted."""
    model, strategy = _one_line(str(quality.model.get("model"))), quality.strategy
    title = f"Quality of the annotations by {model}, strategy {strategy}, prompts {quality.prompts}"
    stdout.print(Text(title, "bold"))
    stdout.print(_table(quality.sample_counts))
    for name, measure in quality.measures.items():
        stdout.print(Text(name.capitalize(), "bold"))
        stdout.print(Text(measure.legend, "dim"))
        stdout.print(_table(measure.rows))
        for example in measure.examples:
            stdout.print(Text(f"Worst: {_one_line(example.entity)}: {example.reason}"))
            text = f"“{_one_line(example.text)}”"
            if example.compared_text:
                text += f"\ncompared with “{_one_line(example.compared_text)}”"
            if example.review_id:
                text += f" (review {_one_line(example.review_id)})"
            stdout.print(Padding(Text(text), (0, 0, 0, 2)))
        stdout.print()
    for remark in quality.remarks:
        stdout.print(Text(f"Note: {remark}."))
    stdout.print()


def _table(rows: dict[str, Any]) -> Table:
    table = Table("", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    columns: dict[str, None] = {}
    for row in rows.values():
        columns.update(dict.fromkeys(row))
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right", overflow="fold")
    for name, row in rows.items():
        table.add_row(name, *(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value.value:.2f}" + ("" if value.error is None else f"±{value.error:.2f}")


def _one_line(text: str) -> str:
    """Untrusted text on one line, with unprintable characters escaped."""
    return escape_text(" ".join(text.split()), 400)
