"""The figures of a report, as SVG. Each is drawn from the report alone, and twice the same to the byte."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from secateur.report.report import Report
from secateur.report.wording import amount

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


@dataclass(frozen=True)
class Drawing:
    """One figure: a short name, a line that tells how to read it, and the SVG document."""

    name: str
    caption: str
    svg: str


def drawings(report: Report) -> tuple[Drawing, ...]:
    """Every figure that the report has data for."""
    made = (
        Drawing("keeps", _keeps_caption(report), kept_per_site(report)) if report.sites else None,
        Drawing("rewards", REWARDS_CAPTION, reward_by_trial(report)) if any(report.rewards.values()) else None,
        Drawing("front", FRONT_CAPTION, score_by_budget(report)) if report.front else None,
        Drawing("macs", MACS_CAPTION, macs_per_layer(report)) if report.layers else None,
        Drawing("tuning", TUNING_CAPTION, accuracy_by_epoch(report)) if _scored(report) else None,
    )
    return tuple(drawing for drawing in made if drawing)


REWARDS_CAPTION = (
    "Dots are trials in the order tried, lines the best so far. Dots on the lowest row belong there or "
    "further down; crosses failed."
)
MACS_CAPTION = "Where the work is: multiply-adds of each layer in forward order, before and after pruning."
FRONT_CAPTION = (
    "What each budget buys: the score of every plan that no cheaper one beats, before fine-tuning. "
    "`secateur prune RUN --at BUDGET` cuts any point between its ends."
)
TUNING_CAPTION = "How accuracy came back: the score after each epoch of fine-tuning."


def _keeps_caption(report: Report) -> str:
    name = report.delivered.name
    return f"How much of each layer stays, in forward order. Where {name} runs low, it found channels to spare."


def kept_per_site(report: Report) -> str:
    """Fraction kept at each site by every row: the last row strong and filled, the others as faint steps."""
    colour = colours(report)
    edges = np.arange(len(report.sites) + 1) - 0.5

    def draw(axes: Axes) -> None:
        handles: list[Any] = []
        for row, dash in zip(report.rows, _dashes(), strict=False):
            heights = [row.plan.get(key, 1.0) for key in report.sites]
            look: dict[str, Any] = {
                "color": colour[row.name],
                "linestyle": dash,
                "linewidth": 1.1,
                "alpha": 0.8,
            }
            if row is report.delivered:
                look = {"color": colour[row.name], "linewidth": 2.2}
                axes.bar(range(len(heights)), heights, width=1.0, color=colour[row.name], alpha=0.22, zorder=1)
            axes.stairs(heights, edges, baseline=None, **look)
            handles.append(Line2D([], [], label=row.name, **look))
        axes.set_ylim(0, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_ylabel("kept")
        _name_layers(axes, report.sites)
        _legend(axes, handles[::-1])

    return _render("keeps", draw)


def reward_by_trial(report: Report) -> str:
    """Reward of every trial of every searcher, with the best so far as a line."""
    colour = colours(report)
    floor, bottom = _floor([value for rewards in report.rewards.values() for value in rewards if value is not None])

    def draw(axes: Axes) -> None:
        handles: list[Any] = []
        # The searcher that the report is about comes last, so that it lies on top.
        for name in sorted(report.rewards, key=lambda name: name == report.delivered.name):
            rewards = np.array([np.nan if r is None else r for r in report.rewards[name]], dtype=float)
            trials = np.arange(1, len(rewards) + 1)
            best = np.fmax.accumulate(rewards)
            failed = trials[np.isnan(rewards)]
            axes.plot(trials, np.maximum(rewards, floor), ".", color=colour[name], alpha=0.5, markersize=4, mew=0)
            axes.plot(failed, np.full(len(failed), bottom), "x", color=colour[name], markersize=5, clip_on=False)
            axes.step(trials, np.maximum(best, floor), where="post", color=colour[name], linewidth=1.6)
            handles.insert(0, Line2D([], [], color=colour[name], linewidth=1.6, label=name))
        axes.set_ylim(bottom=bottom)
        axes.set_ylabel("reward")
        axes.set_xlabel("trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, handles)

    return _render("rewards", draw)


def score_by_budget(report: Report) -> str:
    """The front of a range of budgets: score over the fraction of the dense network's cost."""

    def draw(axes: Axes) -> None:
        fractions, scores = zip(*report.front, strict=True)
        axes.step(fractions, scores, where="post", color=STRONG, linewidth=1.4)
        axes.plot(fractions, scores, ".", color=STRONG, markersize=5)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_xlabel("of the dense network's cost")
        axes.set_ylabel("score")

    return _render("front", draw)


def macs_per_layer(report: Report) -> str:
    """MACs of each layer, dense and delivered side by side."""
    colour = colours(report)
    names = [name for name, _, _ in report.layers]
    places = np.arange(len(names))

    def draw(axes: Axes) -> None:
        before, after = [m for _, m, _ in report.layers], [m for _, _, m in report.layers]
        bars = (report.dense.name, -0.21, before), (report.delivered.name, 0.21, after)
        for name, shift, heights in bars:
            axes.bar(places + shift, heights, width=0.42, color=colour[name])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
        axes.set_ylabel("MACs")
        _name_layers(axes, names)
        _legend(axes, [Patch(color=colour[name], label=name) for name, _, _ in bars])

    return _render("macs", draw)


def accuracy_by_epoch(report: Report) -> str:
    """Score after each epoch of fine-tuning, for every row that has one."""
    colour = colours(report)

    def draw(axes: Axes) -> None:
        handles: list[Any] = []
        for name, scores in sorted(_scored(report).items(), key=lambda item: item[0] == report.delivered.name):
            strong = name == report.delivered.name
            look: dict[str, Any] = {
                "color": colour[name],
                "linewidth": 1.8 if strong else 1.2,
                "marker": "o",
                "markersize": 3,
            }
            values = [np.nan if score is None else score for score in scores]
            axes.plot(range(1, len(scores) + 1), values, **look)
            handles.insert(0, Line2D([], [], label=name, **look))
        axes.set_ylabel("score")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, handles)

    return _render("tuning", draw)


def colours(report: Report) -> dict[str, str]:
    """One colour for each name, the same in every figure."""
    names = dict.fromkeys([*(row.name for row in report.rows), *report.rewards, *report.history])
    fixed = {report.dense.name: DENSE, report.delivered.name: STRONG}
    others = [name for name in names if name not in fixed]
    return fixed | {name: OTHERS[number % len(OTHERS)] for number, name in enumerate(others)}


def _dashes() -> Any:
    yield "solid"
    while True:
        yield from DASHES


def _scored(report: Report) -> dict[str, list[float | None]]:
    scores = {name: [score for _, score in epochs] for name, epochs in report.history.items()}
    return {name: values for name, values in scores.items() if any(value is not None for value in values)}


def _floor(earned: Sequence[float]) -> tuple[float, float]:
    """The least reward that is drawn where it is, and where the axis begins, a little below.

    One early disaster must not flatten everything that matters.
    """
    if not earned:
        return 0.0, -0.05
    best, middle, worst = max(earned), float(np.median(earned)), min(earned)
    floor = max(worst, best - 3 * (best - middle)) if best > middle else worst
    return floor, floor - 0.05 * ((best - floor) or abs(best) or 1.0)


def _name_layers(axes: Axes, names: Sequence[str]) -> None:
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


def _legend(axes: Axes, handles: Sequence[Any]) -> None:
    # matplotlib keeps labels that begin with an underscore to itself.
    names = [f" {h.get_label()}" if h.get_label().startswith("_") else h.get_label() for h in handles]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.01), "borderaxespad": 0}
    axes.legend(list(handles), names, ncols=min(len(names), 7), **place)


def _render(name: str, draw: Callable[[Axes], None]) -> str:
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
