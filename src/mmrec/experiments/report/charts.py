"""SVG charts that take their colours from the page around them, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmrec.experiments.report.html import format_difference

__all__ = ["COLOURS", "Bar", "ModelStyle", "bar_chart", "set_share_axes", "style_for", "svg"]

COLOURS = {
    "ink": "#010101", "grid": "#020202", "card": "#030303", "other": "#040404",
    "bias": "#050505", "baseline": "#060606", "proposed": "#070707", "mmrec": "#080808",
}  # fmt: skip
"""CSS variable of the page -> the unlikely colour that stands for it until the SVG is written."""


class ModelStyle(NamedTuple):
    """How a model is drawn: by more than colour, for readers who do not see colours."""

    colour: str  # a key of COLOURS
    dash: str | tuple[float, tuple[float, ...]]
    width: float
    marker: str = "o"


_STYLES = {
    "mmrec": ModelStyle("mmrec", "-", 2.4, "D"),
    "proposed": ModelStyle("proposed", (0, (7, 1.5)), 1.9, "s"),
    "baseline": ModelStyle("baseline", "--", 1.7, "^"),
    "bias model": ModelStyle("bias", "-.", 1.6),
    "user mean": ModelStyle("other", ":", 1.3),
    "item mean": ModelStyle("other", (0, (5, 3)), 1.1),
    "logistic regression": ModelStyle("other", (0, (9, 2, 1, 2)), 1.2),
    "LightGBM": ModelStyle("other", (0, (3, 1, 1, 1, 1, 1)), 1.4),
    "matrix factorisation": ModelStyle("other", (0, (1, 3)), 1.5),
    "DeepFM": ModelStyle("other", (0, (2, 1)), 1.8),
}


def style_for(model: str) -> ModelStyle:
    """The style of a model, the same in every chart."""
    return _STYLES.get(model, ModelStyle("other", "-", 1.0))


def svg(label: str, size: tuple[float, float], draw: Callable[[Figure], None], prefix: str) -> str:
    """Draw a figure as an SVG element without scripts or outside references.

    Args:
        label: what the chart shows, for readers who cannot see it.
        size: width and height in inches.
        draw: draws onto the figure.
        prefix: of the ids, since matplotlib's are the same in every figure.
    """
    style = Path(__file__).with_name("chart.mplstyle")
    settings = mpl.rc_params_from_file(style, use_default_template=False)
    lines = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    colours: Any = dict.fromkeys(lines, COLOURS["ink"]) | {"grid.color": COLOURS["grid"]}
    with mpl.rc_context({**settings, **colours}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    # matplotlib's <style> would hold for the whole page.
    unwanted = re.compile(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", re.DOTALL)
    body = unwanted.sub("", text[text.index("<svg") :])
    body = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\g<1>{prefix}-", body)
    body = body.replace("xlink:href", "href")
    for variable, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    view_box = re.search(r'viewBox="[^"]*"', body)
    assert view_box is not None
    name = escape(label, quote=True)
    head = f'<svg {view_box[0]} role="img" aria-label="{name}"><title>{name}</title>'
    return head + body[body.index(">") + 1 :].strip()


def set_share_axes(axes: Axes, x: str, y: str) -> None:
    """Label axes of two shares, in percent."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


class Bar(NamedTuple):
    """A value, followed by the ends of its interval where they are known."""

    name: str
    interval: Sequence[float]
    colour: str  # a key of COLOURS


def bar_chart(bars: Sequence[Bar], title: str, prefix: str, scale: int = 1, digits: int = 3) -> str:
    """Horizontal bars from zero, the first on top, with whiskers and the values beside them.

    Values are times `scale`, 100 for percentage points; `prefix` is of the SVG's ids.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, bar in enumerate(bars):
            value, *ends = [scale * number for number in bar.interval]
            # Pale, so that the whiskers are seen on it.
            axes.barh(row, value, height=0.55, color=COLOURS[bar.colour], alpha=0.75)
            axes.plot(ends, [row] * len(ends), "|-", color=COLOURS["ink"], lw=1.2, ms=7)
            text, beside = format_difference(value, digits), axes.get_yaxis_transform()
            axes.text(1.02, row, text, transform=beside, va="center", weight="bold")
        axes.axvline(0, color=COLOURS["ink"], lw=1)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.invert_yaxis()  # the first bar on top
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: format_difference(value, digits))
        axes.set_xlabel(title)

    texts = []
    for bar in bars:
        numbers = [format_difference(scale * number, digits) for number in bar.interval]
        texts.append(f"{bar.name} {', '.join(numbers)}")
    label = f"{title}; values and 95% intervals: {'; '.join(texts)}."
    return svg(label, (4.3, 0.8 + 0.36 * len(bars)), draw, prefix)
