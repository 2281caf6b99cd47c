"""Settings as flags, and the reading and printing that several commands share."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmrec.config import Config, PaperConfig, ServeConfig
from mmrec.console import console, escape_text
from mmrec.errors import ConfigError

if TYPE_CHECKING:
    from mmrec.data import Reviews
    from mmrec.experiments.report.html import ResultTable

# Results go to standard output; progress and remarks to standard error, by `mmrec.console`.
stdout = Console(highlight=False, emoji=False)

Data = Annotated[Path, Parameter(help="JSON, JSON lines, CSV (all also .gz) or Parquet.")]
Model = Annotated[Path, Parameter(help="Folder that `mmrec fit` wrote.")]
Trust = Annotated[
    bool,
    Parameter(
        "--trust", negative=(), help="Use the store, servers, models and photos that MODEL names."
    ),
]
StorePath = Annotated[Path | None, Parameter(help="Database, unless the default one.")]
AsJson = Annotated[bool, Parameter("--json", negative=(), help="Print JSON instead.")]


def _make_flags() -> None:
    """Make every setting a flag of its own name; the text under a field is its help."""
    defaults = [Config(), *vars(Config()).values(), ServeConfig()]
    sections = [type(value) for value in defaults if isinstance(value, BaseModel)]
    for order, section in enumerate(sections):
        group = Group(str(section.model_config["title"]), sort_key=order)
        Parameter(name="*", group=group)(section)
    paper = PaperConfig()
    for changed in (paper.evidence, paper.ranker, paper.training):
        for name, field in type(changed).model_fields.items():
            # Fixed settings are hidden but parsed, so that setting one is an error with a reason.
            if name in paper.fixed_fields:
                field.metadata.append(Parameter(show=False))


_make_flags()


def load_reviews(data: Path, config: Config, folder: Path | None = None) -> Reviews:
    """Read reviews, and say which rows were rejected; `rejects.jsonl` in a folder lists all."""
    from mmrec.data import read_reviews

    reviews = read_reviews(data, config.read)
    if folder is not None:  # before hours of work, not after them
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {folder}: {error.strerror}; name another folder") from error
    if count := reviews.rejects.height:
        first = reviews.rejects.row(0, named=True)
        where = f"line {first['line']}: {first['reason']}, and so on; `mmrec fit` lists all"
        if folder is not None:
            reviews.rejects.write_ndjson(folder / "rejects.jsonl")
            where = f"see {folder / 'rejects.jsonl'}"
        # Without markup: reasons quote cells of the file.
        message = "1 row or photo was" if count == 1 else f"{count:,} rows or photos were"
        console.print(f"{message} rejected: {where}", markup=False)
    return reviews


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON object; NaN and infinity, which JSON lacks, become null."""
    strict = json.loads(json.dumps(result, default=str), parse_constant=lambda _: None)
    print(json.dumps(strict, indent=2, allow_nan=False))


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    title: str = "",
    words: Container[int] = (0,),
    caption: str = "",
) -> None:
    """Print a table; the columns in `words` are set to the left, numbers to the right."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.show_header, table.caption = any(header), caption or None
    table.title = Text(title) if title else None  # a plain string would be read as markup
    table.title_justify = table.caption_justify = "left"
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column in words else "right", overflow="fold")
    for row in rows:
        cells: list[Text] = []
        for value in row:
            if isinstance(value, int | float):
                value = format(value, "," if isinstance(value, int) else ",.4f")
            text = "-" if value is None else str(value)
            # It may come from reviews or imported files, so terminal codes in it are escaped.
            cells.append(value if isinstance(value, Text) else Text(escape_text(text, 1000)))
        table.add_row(*cells)
    stdout.print(table)


def print_tables(tables: Iterable[ResultTable]) -> None:
    """Print tables of results, each with its notes below."""
    for table in tables:
        rows: list[list[Any]] = [[*row] for row in table.rows]
        for row, column in table.bold:
            rows[row][column] = Text(table.rows[row][column], "bold")
        print_table(table.header, rows, table.title, table.words())
        for note in table.notes:
            stdout.print(Text(f"{note}."))
        stdout.print()
