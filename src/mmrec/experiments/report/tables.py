"""What `reproduce` found, as tables of plain text: for the terminal, for the report, for Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrec.evaluation import paired_t_test
from mmrec.experiments.reproduce import GRID, MODELS, PROTOCOLS

__all__ = ["Table", "complete_protocols", "markdown", "metric_by_setting", "reproduction_tables"]

_FIGURES = {"accuracy": "acc. %", "fpr": "FPR %", "loss": "loss"}
_LEAK = {"auc": "ROC-AUC", "fpr": "FPR", "accuracy": "accuracy"}
_LEGEND = (
    "mean ±standard deviation over repeats, best means in bold; the loss sets threshold and weights"
)
_PUBLISHED = {
    ("proposed", "basic", "0.5"): "83.48 / 18.16",
    ("baseline", "sqrt", "0.5"): "93.47 / 37.58",
}
_ELSEWHERE = (
    "published: the paper's figures that we know; its data (Google restaurant reviews, Kaggle) are others: "
    "do not compare one to one; its baseline's lowest FPR is 31.74% at 91.89% accuracy, setting unknown"
)
_SIZES = (
    "paper minus honest on the same test rows; 95% intervals over repeats (paired t-test) know the chance of "
    "training, not of the data; as picked: by lowest mean FPR on test (paper), log loss on valid (honest); "
    "paper also learns from the tenth of train that is honest's valid"
)


@dataclass(frozen=True)
class Table:
    """Cells as text, the `bold` ones by (row, column), and notes to go below.

    On a page, the second line of a cell is set small, rows can be `tinted`, and `mark` says what bold means.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    bold: frozenset[tuple[int, int]]
    notes: list[str]
    tinted: frozenset[int] = frozenset()
    mark: str = ""

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, to be set to the right."""
        return all(row[column][:1] in "+-−0123456789" for row in self.rows)


def reproduction_tables(stacks: dict[str, dict[str, Any]]) -> list[Table]:
    """The paper's Tables 1 (train) and 2 (test) of each protocol that has all stacks, and the leak's size."""
    there = complete_protocols(stacks)
    leak = [_leak(**there)] if len(there) == len(PROTOCOLS) else []
    return [_figures(there, "train", 1), _figures(there, "test", 2), *leak]


def complete_protocols(stacks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The protocols that have all stacks, in their usual order."""
    return {name: own for name in PROTOCOLS if len(own := stacks.get(name, {})) == len(MODELS)}


def markdown(table: Table) -> str:
    """A table for a Markdown document, its title above and its notes below."""
    rule = ["---:" if table.numeric(column) else "---" for column in range(len(table.header))]
    rows = [
        [f"**{cell}**" if (at, column) in table.bold else cell for column, cell in enumerate(row)]
        for at, row in enumerate(table.rows)
    ]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in (table.header, rule, *rows))
    return "\n\n".join([f"**{table.title}**", lines, *table.notes]) + "\n"


def metric_by_setting(stack: dict[str, Any], part: str, figure: str) -> np.ndarray:
    """(settings, repeats) values of a figure."""
    return np.array([run[part][figure] for run in stack["runs"]]).reshape(len(GRID), -1)


def _figures(stacks: dict[str, dict[str, Any]], part: str, number: int) -> Table:
    header, bold, notes = ["model", "loss", "dropout"], set(), [_LEGEND]
    rows = [[model, loss, f"{dropout:g}"] for model in MODELS for loss, dropout in GRID]
    for protocol, own in stacks.items():
        for figure, title in _FIGURES.items():
            values = np.concatenate(
                [metric_by_setting(own[model], part, figure) for model in MODELS]
            )
            mean = values.mean(1) * (-1 if figure == "accuracy" else 1)
            bold |= {(int(at), len(header)) for at in np.flatnonzero(mean == mean.min())}
            header.append(f"{protocol} {title}")
            for row, one in zip(rows, values, strict=True):
                spread = (one.mean(), one.std(ddof=min(1, len(one) - 1)))
                row.append(
                    " ±".join(f"{100 * x:.1f}" if "%" in title else f"{x:.3f}" for x in spread)
                )
        notes += dict.fromkeys(
            f"{protocol}: {said}" for stack in own.values() for said in stack["remarks"]
        )
    if part == "test":
        header.append("published acc. / FPR %")
        rows = [[*row, _PUBLISHED.get((row[0], row[1], row[2]), "")] for row in rows]
        notes.append(_ELSEWHERE)
    return Table(f"Table {number}: {part} reviews", header, rows, frozenset(bold), notes)


def _leak(paper: dict[str, Any], honest: dict[str, Any]) -> Table:
    rows = []
    for model in MODELS:
        at = int(metric_by_setting(paper[model], "test", "fpr").mean(1).argmin())
        to = int(metric_by_setting(honest[model], "valid", "log_loss").mean(1).argmin())
        pairs = [
            [metric_by_setting(own[model], "test", name) for own in (paper, honest)]
            for name in _LEAK
        ]
        named = "as picked: paper {} {:g}, honest {} {:g}".format(*GRID[at], *GRID[to])
        rows.append([model, named, *(_difference(a[at], b[to]) for a, b in pairs)])
        rows.append([model, "mean of all", *(_difference(a.mean(0), b.mean(0)) for a, b in pairs)])
    return Table(
        "Size of the leak", ["model", "settings", *_LEAK.values()], rows, frozenset(), [_SIZES]
    )


def _difference(a: np.ndarray, b: np.ndarray) -> str:
    if len(a) < 2:
        return f"{(a - b).mean():+.3f}"
    found = paired_t_test(a.tolist(), b.tolist())
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
