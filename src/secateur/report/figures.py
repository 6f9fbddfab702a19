"""The figures of a report, as SVG. Each is drawn from the report alone, and twice the same to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from secateur.report.canvas import DASHES, DENSE, FRAME, OTHERS, STRONG, legend, name_layers, render
from secateur.report.report import Report
from secateur.report.wording import amount

MOST_PLANS = 12
"""Of a front, that are drawn."""


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
        Drawing("terms", TERMS_CAPTION, terms_by_trial(report)) if any(report.terms) else None,
        Drawing("front", FRONT_CAPTION, score_by_budget(report)) if report.front else None,
        Drawing("plans", PLANS_CAPTION, kept_along_front(report)) if report.front_plans and report.sites else None,
        Drawing("macs", MACS_CAPTION, macs_per_layer(report)) if report.layers else None,
        Drawing("blocks", BLOCKS_CAPTION, blocks_per_layer(report)) if report.blocks else None,
        Drawing("tuning", TUNING_CAPTION, accuracy_by_epoch(report)) if _scored(report) else None,
    )
    return tuple(drawing for drawing in made if drawing)


REWARDS_CAPTION = (
    "Dots are trials in the order tried, lines the best so far. Dots on the lowest row belong there or "
    "further down; crosses failed."
)
TERMS_CAPTION = "What the reward is made of, trial by trial: its terms, and their sum."
MACS_CAPTION = "Where the work is: multiply-adds of each layer in forward order, before and after pruning."
BLOCKS_CAPTION = "Where blocks are gone: the share of each layer's weights that lies in whole blocks of zeros (BSF)."
FRONT_CAPTION = (
    "What each budget buys: the score of every plan that no cheaper one beats, before fine-tuning. "
    "`secateur finetune RUN --at BUDGET` makes the network for any point of it."
)
PLANS_CAPTION = (
    "The plan for each budget: how much of each layer stays, the darker the more, by what the whole network costs. "
    "`front_plans` in report.json has the numbers."
)
TUNING_CAPTION = "How accuracy came back: top-1 on the images that score plans, after each epoch of fine-tuning."


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
        name_layers(axes, report.sites)
        legend(axes, handles[::-1])

    return render("keeps", draw)


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
        legend(axes, handles)

    return render("rewards", draw)


def terms_by_trial(report: Report) -> str:
    """Each term of a composite reward, and the sum, for every trial that did not fail."""

    def draw(axes: Axes) -> None:
        trials = [number for number, terms in enumerate(report.terms, start=1) if terms]
        told = [terms for terms in report.terms if terms]
        names = [name for name in told[0] if any(terms[name] for terms in told)]
        lines = [(name, OTHERS[n % len(OTHERS)], 1.0) for n, name in enumerate(names)]
        for name, colour, width in lines:
            axes.plot(trials, [terms[name] for terms in told], color=colour, linewidth=width)
        axes.plot(trials, [sum(terms.values()) for terms in told], color=STRONG, linewidth=1.8)
        axes.axhline(0, color=FRAME, linewidth=0.7)
        axes.set_ylabel("share of the reward")
        axes.set_xlabel("trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes, [Line2D([], [], color=c, linewidth=w, label=n) for n, c, w in (*lines, ("reward", STRONG, 1.8))])

    return render("terms", draw)


def score_by_budget(report: Report) -> str:
    """The front of a range of budgets: score over the fraction of the dense network's cost."""

    def draw(axes: Axes) -> None:
        fractions, scores = zip(*report.front, strict=True)
        axes.step(fractions, scores, where="post", color=STRONG, linewidth=1.4)
        axes.plot(fractions, scores, ".", color=STRONG, markersize=5)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_xlabel("of the dense network's cost")
        axes.set_ylabel("score")

    return render("front", draw)


def kept_along_front(report: Report) -> str:
    """Fraction kept at each site by plans of the front, a row for each, the cheapest at the bottom."""
    number = len(report.front_plans)
    chosen = np.unique(np.linspace(0, number - 1, min(number, MOST_PLANS)).round().astype(int))
    kept = np.array([[report.front_plans[row].get(key, 1.0) for key in report.sites] for row in chosen])

    def draw(axes: Axes) -> None:
        edges = (np.arange(size + 1) - 0.5 for size in kept.T.shape)
        shades = LinearSegmentedColormap.from_list("kept", ["#f6f8fa", STRONG])
        mesh = axes.pcolormesh(*edges, kept, cmap=shades, vmin=0, vmax=1)
        axes.figure.colorbar(mesh, ax=axes, format=PercentFormatter(1.0, decimals=0, symbol=" %"), label="kept")
        axes.set_yticks(range(len(chosen)), [f"{report.front[row][0]:.0%}" for row in chosen])
        axes.set_ylabel("cost")
        axes.grid(visible=False)
        name_layers(axes, report.sites)

    return render("plans", draw)


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
        name_layers(axes, names)
        legend(axes, [Patch(color=colour[name], label=name) for name, _, _ in bars])

    return render("macs", draw)


def blocks_per_layer(report: Report) -> str:
    """The share of each layer's weights that lies in whole blocks of zeros, in the delivered network."""
    names = [name for name, _, _ in report.layers]

    def draw(axes: Axes) -> None:
        axes.bar(np.arange(len(names)), [report.blocks.get(name, 0.0) for name in names], color=STRONG)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_ylabel("in blocks of zeros")
        name_layers(axes, names)

    return render("blocks", draw)


def accuracy_by_epoch(report: Report) -> str:
    """Top-1 after each epoch of fine-tuning, for every row that has one."""
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
        axes.set_ylabel("top-1")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes, handles)

    return render("tuning", draw)


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
