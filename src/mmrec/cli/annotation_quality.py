"""What `mmrec profile --check` shows: figures with their errors, and the worst examples to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mmrec.cli.options import out
from mmrec.data.columns import escaped

if TYPE_CHECKING:
    from mmrec.experiments.annotation_check import Check

__all__ = ["print_check"]


def print_check(check: Check) -> None:
    """Print a check in tables that 80 columns hold; texts are shown with nothing of theirs obeyed."""
    name = f"{check.model.get('model')}, strategy {check.strategy}, prompts {check.prompts}"
    out.print(Text(f"Check of what was written by {_safe(name)}", "bold"))
    out.print(_table(check.looked))
    for title, measure in check.measures.items():
        out.print(Text(title.capitalize(), "bold"))
        out.print(Text(measure.legend, "dim"))
        out.print(_table(measure.rows))
        for example in measure.examples:
            out.print(Text(f"Worst: {_safe(example.who)}: {example.why}"))
            review = f" (review {_safe(example.review)})" if example.review else ""
            beside = f"\nbeside “{_safe(example.beside)}”" if example.beside else ""
            out.print(Padding(Text(f"“{_safe(example.text)}”{beside}{review}"), (0, 0, 0, 2)))
        out.print()
    for remark in check.remarks:
        out.print(Text(f"Note: {remark}."))
    out.print()


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
    return escaped(" ".join(text.split()), 400)
