"""Pages of one HTML file that need nothing but themselves: no scripts, no outside references."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmrec.experiment.drawing import signed
from mmrec.experiment.tables import Table

__all__ = ["Plot", "Section", "command_line", "made", "render", "write_page"]

_PACKAGES = ("mmrec", "torch", "polars", "sentence-transformers")


@dataclass(frozen=True)
class Plot:
    """One or several SVGs side by side, and below them what there is to see."""

    title: str
    panels: list[str]
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading and what is under it, in this order."""

    title: str
    parts: Sequence[str | Table | Plot]


def write_page(path: Path, title: str, sections: Sequence[Section], command: str) -> Path:
    """Write a page that looks like the report of `mmrec fit`.

    Args:
        path: the file to write; its folder is made when absent.
        title: of the page; like all texts it may hold anything.
        sections: from top to bottom.
        command: how the run was started.

    Returns:
        The path.
    """
    return render("page.html.jinja", path, title=title, sections=sections, command=command, made=made())


def render(template: str, path: Path, **values: Any) -> Path:
    """Write what a template of this package makes of values."""
    loader = PackageLoader("mmrec", "experiment")
    # The template's name does not end in .html, so autoescape must not be left to the name.
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"svg": Markup, "signed": signed}
    page = environment.get_template(template).render(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def command_line() -> str:
    """How this run was started."""
    return shlex.join(["mmrec", *sys.argv[1:]])


def made() -> dict[str, str]:
    """When, by which versions and where a page was made."""
    versions = [f"python {platform.python_version()}", *(f"{name} {_version(name)}" for name in _PACKAGES)]
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
