"""Pages of one HTML file that need nothing but themselves: no scripts, no outside references."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmrec.experiments.report.tables import Table, format_difference, format_metric

__all__ = ["Plot", "Section", "command_line", "write_page"]


@dataclass(frozen=True)
class Plot:
    """One or several SVGs side by side, with a caption."""

    title: str
    panels: list[str]
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, and the plots and tables below it."""

    title: str
    plots: list[Plot]
    tables: list[Table]


def write_page(
    path: Path,
    title: str,
    command: str,
    template: str = "experiment.html.jinja",
    *,
    facts: Mapping[str, str] | None = None,
    config: str = "",
    **content: Any,
) -> Path:
    """Write a page that ends with how it was made.

    Args:
        path: the file to write; its folder is made when absent.
        title: of the page; like all texts it may hold anything.
        command: how the run was started.
        template: what lays the content out; `experiment.html.jinja` shows `sections`.
        facts: more about how the results were made.
        config: the whole configuration.
        content: what the template shows.

    Returns:
        The path.
    """
    environment = Environment(
        loader=PackageLoader("mmrec", "experiments/report"),
        autoescape=True,  # jinja's default goes by the name's end, which is not .html
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": Markup, "number": format_metric, "difference": format_difference}
    page = environment.get_template(template).render(
        title=title,
        command=command,
        facts=_run_facts() | dict(facts or {}),
        config=config,
        **content,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def command_line() -> str:
    """How this run was started."""
    return shlex.join(["mmrec", *sys.argv[1:]])


def _run_facts() -> dict[str, str]:
    """When, with which versions and where a page was made."""
    versions = [f"python {platform.python_version()}"]
    for package in ("mmrec", "torch", "polars", "sentence-transformers"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return {
        "Written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "Versions": ", ".join(versions),
        "Machine": f"{os.cpu_count()} processors, {platform.platform()}",
    }
