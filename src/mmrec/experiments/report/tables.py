"""Tables of plain text, for the terminal and for pages."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Table", "format_difference", "format_metric"]


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        title: above the table.
        header: of the columns.
        rows: cells by row.
        bold: (row, column) of the cells in bold.
        notes: sentences below the table, without their full stops.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    notes: list[str] = field(default_factory=list)

    def words(self) -> list[int]:
        """The columns that hold words rather than numbers, to be set to the left."""
        columns = range(len(self.header))
        return [c for c in columns if any(row[c][:1] not in "+-−0123456789" for row in self.rows)]


def format_metric(value: float, form: str = ".3f") -> str:
    """A metric as text; a dash where it is nan."""
    return "-" if np.isnan(value) else f"{value:{form}}"


def format_difference(value: float, digits: int = 3) -> str:
    """A difference as text, with its sign."""
    if np.isnan(value):
        return "-"
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else "0"
