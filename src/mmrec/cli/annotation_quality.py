"""What `mmrec profile --check` shows: figures with their errors, and the worst examples to read."""

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

__all__ = ["print_check"]


def print_check(check: AnnotationQuality) -> None:
    """Print a check in tables that 80 columns hold; texts are shown with nothing of theirs obeyed."""
    name = f"{check.model.get('model')}, strategy {check.strategy}, prompts {check.prompts}"
    stdout.print(Text(f"Check of what was written by {_safe(name)}", "bold"))
    stdout.print(_table(check.sample_counts))
    for title, measure in check.measures.items():
        stdout.print(Text(title.capitalize(), "bold"))
        stdout.print(Text(measure.legend, "dim"))
        stdout.print(_table(measure.rows))
        for example in measure.examples:
            stdout.print(Text(f"Worst: {_safe(example.entity)}: {example.reason}"))
            review = f" (review {_safe(example.review_id)})" if example.review_id else ""
            beside = f"\nbeside “{_safe(example.compared_text)}”" if example.compared_text else ""
            stdout.print(Padding(Text(f"“{_safe(example.text)}”{beside}{review}"), (0, 0, 0, 2)))
        stdout.print()
    for remark in check.remarks:
        stdout.print(Text(f"Note: {remark}."))
    stdout.print()


def _table(rows: dict[str, Any]) -> Table:
    table = Table("", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for of, row in rows.items():
        table.add_row(of, *(_cell(row.get(name)) for name in names))
    return table


def _cell(figure: Any) -> str:
    if figure is None or isinstance(figure, int):
        return "-" if figure is None else f"{figure:,}"
    return f"{figure.value:.2f}" + ("" if figure.error is None else f"±{figure.error:.2f}")


def _safe(text: str) -> str:
    """A text of strangers on one line, unprintable characters spelt out."""
    return escape_text(" ".join(text.split()), 400)
