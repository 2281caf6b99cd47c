"""Pages of one HTML file that need nothing but themselves: no scripts, no outside references."""

import os
import platform
import re
import shlex
import sys
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class ResultTable:
    """Results as text, for the terminal and for pages."""

    title: str
    header: list[str]
    rows: list[list[str]]
    bold: set[tuple[int, int]] = field(default_factory=set)  # (row, column) of cells
    notes: list[str] = field(default_factory=list)  # sentences without their full stops

    def words(self) -> list[int]:
        """The columns that hold words rather than numbers, to be set to the left."""
        is_number = re.compile("[-+−0-9]|$").match
        columns = enumerate(zip(*self.rows, strict=True))
        return [column for column, cells in columns if not all(map(is_number, cells))]


def format_metric(value: float, form: str = ".3f") -> str:
    """A metric as text; a dash where it is nan."""
    return "-" if np.isnan(value) else f"{value:{form}}"


def format_difference(value: float, digits: int = 3) -> str:
    """A difference as text, with its sign; a dash where it is nan."""
    text = format_metric(value, f"+.{digits}f")
    # -0.000 and +0.000 are both 0, without a sign.
    return text if text == "-" else text.replace("-", "−") if float(text) else "0"


def write_page(path: Path, title: str, command: str, template: str, **content: Any) -> Path:
    """Write a page by a `template` of this folder, in which all texts of the content are escaped."""
    environment = Environment(
        loader=PackageLoader("mmrec", "experiments/report"),
        autoescape=True,  # jinja's default goes by the name's end, which is not .html
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": Markup, "number": format_metric, "difference": format_difference}
    versions = [f"python {platform.python_version()}"]
    for package in ("mmrec", "torch", "polars", "sentence-transformers"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    facts = {"Written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"}
    facts["Versions"] = ", ".join(versions)
    facts["Machine"] = f"{os.cpu_count()} processors, {platform.platform()}"
    content |= {"title": title, "command": command, "run_facts": facts}
    page = environment.get_template(f"{template}.html.jinja").render(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def command_line() -> str:
    """How this run was started."""
    return shlex.join(["mmrec", *sys.argv[1:]])
