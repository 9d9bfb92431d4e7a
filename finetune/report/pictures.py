"""Drawings of a page: inline SVG that light, dark, paper and readers who see no colours can read."""

import io
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finetune.wording import missing

# Pictures are drawn in these colours and shown in the page's own, which differ in light and dark. The palette is Okabe
# & Ito, "Color Universal Design", 2008; and each line has a dash pattern and a marker of its own.
INK, MUTED, GRID, FILL = "#111111", "#666666", "#dddddd", "#99bbdd"
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
PAGE_COLOURS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", FILL: "var(--fill)"}
PAGE_COLOURS |= {BLUE: "var(--blue)", ORANGE: "var(--orange)", GREEN: "var(--green)", PURPLE: "var(--purple)"}
PAGE_COLOURS |= {SKY: "var(--sky)", AMBER: "var(--amber)"}
SOLID: dict[str, Any] = {"color": BLUE, "linestyle": "-", "linewidth": 2.5}
DOTTED: dict[str, Any] = {"color": PURPLE, "linestyle": (0, (1, 1.4)), "linewidth": 2.0}
DASH_DOT: dict[str, Any] = {"color": GREEN, "linestyle": (0, (6, 2, 1, 2)), "linewidth": 1.7}
DASHED: dict[str, Any] = {"color": ORANGE, "linestyle": (0, (5, 2)), "linewidth": 1.7}
LONG_DASHED: dict[str, Any] = {"color": AMBER, "linestyle": (0, (10, 3)), "linewidth": 1.7}
DASH_DOT_DOT: dict[str, Any] = {"color": SKY, "linestyle": (0, (6, 2, 1, 2, 1, 2)), "linewidth": 1.7}
LINE_STYLES = (SOLID, DOTTED, DASH_DOT, DASHED, LONG_DASHED, DASH_DOT_DOT)  # the model's first
MARKERS = ("o", "s", "^", "D", "v", "P")
THIN: dict[str, Any] = {"color": MUTED, "linestyle": (0, (2, 3)), "linewidth": 1.0}
PICTURE_STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "eventscribe",
    "text.parse_math": False,  # a group may be called "$"
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 2.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
}


@dataclass
class Picture:
    """A picture and what it says."""

    title: str
    reading: str
    svg: Markup


def percents() -> PercentFormatter:
    """Of an axis of shares; as many decimals as tell its ticks apart."""
    return PercentFormatter(1, symbol="\u00a0%")


def square_figure() -> Figure:
    """An empty figure of the size that a page shows."""
    return Figure(figsize=(4.8, 4.8), layout="constrained")


def panels_figure(panels: int) -> Figure:
    """An empty figure for panels below each other, as high as a square one for up to three."""
    return Figure(figsize=(4.8, 1.6 * max(panels, 3)), layout="constrained")


def small_figure() -> Figure:
    """An empty figure for a row of three, for two panels below each other."""
    return Figure(figsize=(3.7, 5.4), layout="constrained")


def wide_figure() -> Figure:
    """An empty figure that is half as high as wide."""
    return Figure(figsize=(4.8, 3.2), layout="constrained")


def flat_figure(rows: int) -> Figure:
    """An empty figure as wide, for a list of `rows` entries below each other."""
    return Figure(figsize=(4.8, 1.4 + 0.3 * max(rows, 2)), layout="constrained")


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as inline SVG: no metadata, ids that no other picture of the page has, and the page's colours."""
    file = io.StringIO()
    with warnings.catch_warnings():  # the page's font may have the letters that matplotlib's lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    drawn = re.search(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>(.*)', file.getvalue(), re.DOTALL)
    assert drawn is not None
    view, drawing = drawn.groups()
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    for colour, shown in PAGE_COLOURS.items():
        drawing = drawing.replace(colour, shown)
    return Markup(f'<svg role="img" aria-label="{escape(alt)}" {view}>{drawing}')


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, dash pattern and marker of each scorer, the same in every picture of a page."""
    return {
        name: style | {"marker": marker, "markevery": 0.1, "markersize": 5}
        for name, style, marker in zip(names, cycle(LINE_STYLES), cycle(MARKERS), strict=False)
    }


def finish(figure: Figure, axes: Axes, limit: float = 1.0, low: float = 0.0) -> None:
    """Both axes from `low` to `limit` in per cent, and the legend below."""
    axes.set(xlim=(low, limit), ylim=(low, limit))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(percents())
    legend(figure, axes)


def legend(figure: Figure, axes: Axes) -> None:
    """Below the picture, where it hides no line."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, borderpad=0.4)


def dots(
    axes: Axes, values: list[float | None], spans: list[list[float] | None], sure: list[bool], upright: bool = False
) -> None:
    """A dot with its interval for each entry, below each other or, upright, side by side.

    Args:
        axes: Where to.
        values: One an entry; a missing one leaves its place empty.
        spans: The interval of each, where it has one.
        sure: A hollow dot stands where an entry has too few positives.
        upright: Entries go from left to right.
    """
    for at, (value, span, enough) in enumerate(zip(values, spans, sure, strict=True)):
        if value is None or missing(value):
            continue
        if span is not None and not any(map(missing, span)):
            low, high = span
            (axes.vlines if upright else axes.hlines)(at, low, high, color=BLUE, linewidth=2)
        place = (at, value) if upright else (value, at)
        inside = BLUE if enough else "none"
        axes.plot(*place, "o", markersize=8, markeredgewidth=1.8, color=inside, markeredgecolor=BLUE)
    if upright:
        axes.set_xlim(-0.5, len(values) - 0.5)
    else:
        axes.set_ylim(len(values) - 0.5, -0.5)  # the first on top
