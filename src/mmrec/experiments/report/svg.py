"""What all plots share: SVG that takes its colours from the page around it, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "CARD",
    "GRID",
    "INK",
    "LARGE",
    "SMALL",
    "Bar",
    "Style",
    "bar_plot",
    "bar_plots",
    "format_metric",
]
__all__ += ["format_difference", "square", "style_for", "svg"]

# Colours that nobody would choose stand for the page's CSS variables until the SVG is written.
INK, GRID, CARD, _OTHER, _BIAS, _BASELINE, _PROPOSED, _MMREC = (
    f"#0{n}0{n}0{n}" for n in range(1, 9)
)
_VARIABLES = {INK: "ink", GRID: "grid", CARD: "card", _OTHER: "other", _BIAS: "bias"}
_VARIABLES |= {_BASELINE: "baseline", _PROPOSED: "proposed", _MMREC: "mmrec"}
LARGE, SMALL = (4.3, 4.1), (2.9, 2.9)
"""Inches of a plot; text stays legible on a phone."""
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, to be searched and read out
    "svg.hashsalt": "mmrec",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "legend.handlelength": 3.2,
    **dict.fromkeys(_INKED, INK),
}


class Style(NamedTuple):
    """How a model is drawn; never told apart by colour alone."""

    colour: str
    dash: str | tuple[float, tuple[float, ...]]
    width: float
    marker: str = "o"

    @property
    def variable(self) -> str:
        """The page's CSS variable of the colour."""
        return _VARIABLES[self.colour]


_STYLES = {
    "mmrec": Style(_MMREC, "-", 2.4, "D"),
    "proposed": Style(_PROPOSED, (0, (7, 1.5)), 1.9, "s"),
    "baseline": Style(_BASELINE, "--", 1.7, "^"),
    "bias model": Style(_BIAS, "-.", 1.6),
    "user mean": Style(_OTHER, ":", 1.3),
    "item mean": Style(_OTHER, (0, (5, 3)), 1.1),
    "logistic regression": Style(_OTHER, (0, (9, 2, 1, 2)), 1.2),
    "LightGBM": Style(_OTHER, (0, (3, 1, 1, 1, 1, 1)), 1.4),
    "matrix factorisation": Style(_OTHER, (0, (1, 3)), 1.5),
    "DeepFM": Style(_OTHER, (0, (2, 1)), 1.8),
}


def style_for(name: str) -> Style:
    """The style of a model, everywhere the same."""
    return _STYLES.get(name, Style(_OTHER, "-", 1.0))


def svg(label: str, size: tuple[float, float], draw: Callable[[Figure], None], prefix: str) -> str:
    """Draw onto a figure of `size` inches; the SVG carries `label` for those who cannot see it.

    Args:
        prefix: of the ids, since those of matplotlib are the same in every figure.

    Returns:
        An element without scripts or outside references.
    """
    with mpl.rc_context(_RC):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    # matplotlib's style rule would hold for the whole page.
    body = re.sub(
        r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    body = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\g<1>{prefix}-", body).replace(
        "xlink:href", "href"
    )
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="[^"]*"', body)
    assert view is not None
    name = escape(label, quote=True)
    head = f'<svg {view[0]} role="img" aria-label="{name}"><title>{name}</title>'
    return head + body[body.index(">") + 1 :].strip()


def square(figure: Figure, x: str, y: str) -> Axes:
    """Axes of two shares."""
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    return axes


class Bar(NamedTuple):
    """A value and, where they are known, the ends of its interval."""

    name: str
    interval: Sequence[float]
    colour: str


def bar_plot(bars: Sequence[Bar], title: str, prefix: str, scale: int = 1, digits: int = 3) -> str:
    """Bars from zero to the left or right, the first on top, with whiskers and the values beside them."""
    values = [[scale * value for value in bar.interval] for bar in bars]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        side = axes.get_yaxis_transform()
        for at, (value, *ends) in enumerate(values):
            axes.barh(at, value, height=0.55, color=bars[at].colour, alpha=0.75)
            axes.plot(ends, [at] * len(ends), "|-", color=INK, lw=1.2, ms=7)
            axes.text(
                1.02,
                at,
                format_difference(value, digits),
                transform=side,
                va="center",
                weight="bold",
            )
        axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: format_difference(value, digits))
        axes.set_xlabel(title)

    texts = [", ".join([format_difference(value, digits) for value in own]) for own in values]
    told = "; ".join(f"{bar.name} {text}" for bar, text in zip(bars, texts, strict=True))
    return svg(
        f"{title}; values and 95% intervals: {told}.",
        (LARGE[0], 0.8 + 0.36 * len(bars)),
        draw,
        prefix,
    )


def bar_plots(
    looks: Mapping[str, tuple[str, int, int]], prefix: str, bars: Callable[[str], Sequence[Bar]]
) -> list[str]:
    """The `bar_plot` of each key of `looks`, which hold title, scale and digits."""
    return [
        bar_plot(bars(key), title, f"{prefix}-{key}", *look)
        for key, (title, *look) in looks.items()
    ]


def format_metric(value: float, form: str = ".3f") -> str:
    """A figure as text; a dash where there is none."""
    return "-" if np.isnan(value) else f"{value:{form}}"


def format_difference(value: float, digits: int = 3) -> str:
    """A difference as text."""
    if np.isnan(value):
        return "-"
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else "0"
