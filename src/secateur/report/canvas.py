"""The sheet that every figure of a report is drawn on: its size, style, legend and labels, and the SVG it becomes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FRAME, GRID, DENSE = "#24292f", "#6e7781", "#d8dee4", "#8c959f"
STRONG = "#0072b2"
"""The network that was delivered, and the searcher that found it."""
OTHERS = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b3a300")
"""With STRONG, the palette of Okabe and Ito, which colour-blind readers can tell apart; yellow darkened."""
DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), "solid")
WIDTH, HEIGHT = 9.0, 3.3
"""Inches, of 72 SVG units each."""
LABEL_CHARACTERS = 26
MOST_LABELS = 48
CHARACTERS_ACROSS = 120
"""How many characters of tick labels fit side by side."""
STYLE = {
    "svg.fonttype": "none",
    "svg.id": None,
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FRAME,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FRAME,
    "ytick.color": FRAME,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def name_layers(axes: Axes, names: Sequence[str]) -> None:
    """Names under the bars: as many as can be read, turned where they would touch."""
    stride = -(-len(names) // MOST_LABELS)
    shown = [_shortened(name) for name in names[::stride]]
    flat = sum(len(name) + 2 for name in shown) <= CHARACTERS_ACROSS
    steep = len(shown) > 20
    axes.set_xticks(range(0, len(names), stride))
    turn: dict[str, Any] = {} if flat else {"rotation": 90 if steep else 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticklabels(shown, va="top" if flat or not steep else "center", **turn)
    if len(shown) > 30:
        axes.tick_params(axis="x", labelsize=6.5)
    axes.set_xlim(-0.7, len(names) - 0.3)


def _shortened(name: str) -> str:
    return name if len(name) <= LABEL_CHARACTERS else "…" + name[1 - LABEL_CHARACTERS :]


def legend(axes: Axes, handles: Sequence[Any]) -> None:
    """One line above the sheet."""
    # matplotlib keeps labels that begin with an underscore to itself.
    names = [f" {h.get_label()}" if h.get_label().startswith("_") else h.get_label() for h in handles]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.01), "borderaxespad": 0}
    axes.legend(list(handles), names, ncols=min(len(names), 7), **place)


def render(name: str, draw: Callable[[Axes], None]) -> str:
    """Draw with our own style, whatever the user's is, and touch no state of pyplot."""
    with matplotlib.style.context(["default", {**STYLE, "svg.hashsalt": name}]), warnings.catch_warnings():
        # A name in a script that the font lacks: the browser has another font for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        draw(axes)
        FigureCanvasSVG(figure)
        out = StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _tidied(out.getvalue())


def _tidied(svg: str) -> str:
    """The SVG element alone, without ids that nothing refers to: several figures share one page."""
    svg = svg[svg.index("<svg") :]
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r'(<[^<>]*?) id="([^"]*)"', lambda found: found[0] if found[2] in used else found[1], svg)
    # Its rule is for all elements of the page, not of the figure alone; as attributes it is inherited.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    return svg.replace("<svg", '<svg stroke-linejoin="round" stroke-linecap="butt"', 1)
