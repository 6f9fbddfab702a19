"""The comparison as a table: the columns, and the terminal's rendering of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secateur.report.report import Report, Row
from secateur.report.wording import UNKNOWN, amount, file_size, speed_up, three_digits, told
from secateur.runtimes import Measured

WIDEST = 1000
"""Columns where the output is a file or another program: lines are as long as they are."""


def wide_console() -> Console:
    """Where tables whose lines may not be cut are printed."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDEST
    return console


@dataclass(frozen=True)
class Column:
    """One column: a heading, what stands under it, what it says at length, and (row, dense row) -> cell.

    Units stand in the heading, so that a row fits a terminal of 80 characters. A cell is None where unknown.
    """

    heading: str
    under: str
    meaning: str
    cell: Callable[[Row, Row], str | None]
    told: str = ""
    """The metric whose source is part of the meaning."""


def _known(value: float | None, wording: Callable[[float], str]) -> str | None:
    return None if value is None else wording(value)


def _hundredths(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _tenths(part: int, whole: int) -> str | None:
    return f"{100 * part / whole:.1f}" if whole else None


COLUMNS = (
    Column("before", "%", "test accuracy before fine-tuning", lambda row, dense: _hundredths(row.before)),
    Column("after", "%", "test accuracy after fine-tuning", lambda row, dense: _known(row.after, _hundredths)),
    Column("MACs", "", "multiply-adds for one example", lambda row, dense: amount(row.costs.macs)),
    Column("% of", "dense", "", lambda row, dense: _tenths(row.costs.macs, dense.costs.macs)),
    Column("params", "", "parameters", lambda row, dense: amount(row.costs.params)),
    Column("% of", "dense", "", lambda row, dense: _tenths(row.costs.params, dense.costs.params)),
    Column(
        "BSF",
        "%",
        "weights that lie in whole blocks of zeros",
        lambda row, dense: _hundredths(row.costs.block_sparsity) if row.costs.block_sparsity else None,
    ),
    Column(
        "budgeted",
        "ms",
        "latency of one example by {}",
        lambda row, dense: _known(row.costs.latency_ms, three_digits),
        "latency_ms",
    ),
    Column(
        "energy",
        "mJ",
        "energy of one example by {}",
        lambda row, dense: _known(row.costs.energy_mj, three_digits),
        "energy_mj",
    ),
    Column("file", "", "size of the saved network", lambda row, dense: _known(row.file_bytes, file_size)),
    Column(
        "latency",
        "ms",
        "time of one forward pass in torch on this machine",
        lambda row, dense: _known(row.latency_ms, three_digits),
    ),
    Column(
        "speed",
        "×",
        "how many times as fast as the dense network",
        lambda row, dense: _known(speed_up(row, dense), "{:.2f}".format),
    ),
)


def columns(report: Report) -> tuple[Column, ...]:
    """The columns that have something to say: one that no row fills is left out."""
    filled = (c for c in COLUMNS if any(c.cell(row, report.dense) is not None for row in report.rows))
    return tuple(replace(c, meaning=c.meaning.format(report.sources.get(c.told, "nobody knows what"))) for c in filled)


def table(report: Report) -> Table:
    """The rows of a report for the terminal; the most accurate pruned network is bold."""
    shown = columns(report)
    result = Table(
        show_edge=False,
        title=Text(report.title),
        caption=Text("\n".join((f"at most {report.budget}", *told(report)))),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    result.add_column("network\n")
    for column in shown:
        result.add_column(f"{column.heading}\n{column.under}", justify="right")
    for row in report.rows:
        cells = [column.cell(row, report.dense) or UNKNOWN for column in shown]
        style = "bold" if row is report.best else "dim" if row is report.dense else ""
        # Text, so that brackets in a name are not taken for markup.
        result.add_row(Text(row.name), *cells, style=style)
    return result


def runtimes_table(found: Sequence[Measured], threads: int) -> Table:
    """Networks side by side on every runtime: the first is what the others are compared with."""
    meters = ", ".join(dict.fromkeys(f"energy by {each.meter}" for each in found if each.meter))
    title = f"one example at a time, {threads} thread{'s' if threads > 1 else ''}"
    result = Table(title=f"{title}; {meters}" if meters else title, box=box.SIMPLE_HEAD)
    networks = list(dict.fromkeys(each.network for each in found))
    result.add_column("runtime")
    for name in networks:
        result.add_column(Text(f"{name}\nms"), justify="right")
    result.add_column("speed\n×", justify="right")
    for name in networks if meters else ():
        result.add_column(Text(f"{name}\nmJ"), justify="right")
    for name in networks:
        result.add_column(Text(f"{name}\nfile"), justify="right")
    for runtime in dict.fromkeys(each.runtime for each in found):
        rows = {each.network: each for each in found if each.runtime == runtime}
        first, last = rows[networks[0]], rows[networks[-1]]
        result.add_row(
            runtime,
            *(three_digits(rows[name].latency_ms) for name in networks),
            f"{first.latency_ms / last.latency_ms:.2f}",
            *(_energy(rows[name].energy_mj) for name in networks if meters),
            *(file_size(rows[name].file_bytes) for name in networks),
        )
    return result


def _energy(millijoules: float | None) -> str:
    return UNKNOWN if millijoules is None else three_digits(millijoules)
