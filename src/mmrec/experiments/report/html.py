"""Pages of one HTML file that need nothing but themselves: no scripts, no outside references."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmrec.experiments.report.tables import Table

__all__ = [
    "CodeBlock",
    "PageElement",
    "Paragraph",
    "PercentBars",
    "Plot",
    "Section",
    "command_line",
    "write_page",
]

_PACKAGES = ("mmrec", "torch", "polars", "sentence-transformers")
_MARKS = {"✓": "held", "✗": "broken"}


@dataclass(frozen=True)
class Plot:
    """One or several SVGs side by side, and below (or `beside` them) what there is to see."""

    title: str
    panels: list[str]
    caption: str
    beside: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A paragraph with a look of its own: `lead`, `small` or `notice`."""

    style: str
    text: str


@dataclass(frozen=True)
class CodeBlock:
    """Text as it was typed, below a `summary` that folds it."""

    summary: str
    text: str
    open: bool = False


@dataclass(frozen=True)
class PercentBars:
    """Parts of 100, which `label` names: name, role, value, and the page's CSS variable of the colour."""

    label: str
    rows: list[tuple[str, str, float, str]]


PageElement = str | Paragraph | CodeBlock | PercentBars | Table | Plot | dict[str, str]
"""A `str` is a paragraph, a `dict` terms and what is said of them."""


@dataclass(frozen=True)
class Section:
    """A heading, which may be empty, and what is under it, in this order."""

    title: str
    elements: Sequence[PageElement]


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    command: str,
    facts: Mapping[str, str] | None = None,
    config: str = "",
) -> Path:
    """Write a page that ends with how it was made.

    Args:
        path: the file to write; its folder is made when absent.
        title: of the page; like all texts it may hold anything.
        sections: from top to bottom.
        command: how the run was started.
        facts: more than all pages tell of how they were made.
        config: the whole configuration.

    Returns:
        The path.
    """
    # The template's name does not end in .html, so autoescape must not be left to the name.
    own = PackageLoader("mmrec", "experiments/report")
    environment = Environment(
        loader=own, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"svg": Markup, "kind": lambda part: type(part).__name__}
    making: list[PageElement] = [
        CodeBlock("Command", command, open=True),
        _made() | dict(facts or {}),
    ]
    making += [CodeBlock("Whole configuration", config)] if config else []
    page = environment.get_template("page.html.jinja").render(
        title=title, sections=[*sections, Section("How it was made", making)], marks=_MARKS
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def command_line() -> str:
    """How this run was started."""
    return shlex.join(["mmrec", *sys.argv[1:]])


def _made() -> dict[str, str]:
    """When, by which versions and where a page was made."""
    versions = [
        f"python {platform.python_version()}",
        *(f"{name} {_version(name)}" for name in _PACKAGES),
    ]
    return {
        "Written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "Versions": ", ".join(versions),
        "Machine": f"{os.cpu_count()} processors, {platform.platform()}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
