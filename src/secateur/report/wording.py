"""How numbers are written for people, and the sentence that a report opens with."""

from __future__ import annotations

import re

from secateur.report.report import Report, Row

UNKNOWN = "–"
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(fraction: float, digits: int = 1) -> str:
    """0.5 -> `50.0 %`."""
    return f"{fraction:.{digits}%}".replace("%", " %")


def amount(number: float) -> str:
    """125485706 -> `125 M`, 3435973 -> `3.4 M`; whole below a thousand."""
    for size, unit in UNITS:
        if number >= size * 0.9995:  # from there on the smaller unit would round to "1000 k"
            return f"{number / size:.{1 if number < size * 99.95 else 0}f} {unit}"
    return f"{number:.0f}"


def file_size(size_bytes: float) -> str:
    """3435973 -> `3.4 MB`, in powers of ten."""
    text = amount(size_bytes)
    return f"{text}B" if " " in text else f"{text} B"


def three_digits(number: float) -> str:
    """The digits that count, without an exponent: `123`, `12.3`, `1.23`, `0.123`."""
    digits = 0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:.{digits}f}"


def duration(seconds: float) -> str:
    """3725.2 -> `1:02:05`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def pace(seconds: float) -> str:
    """Seconds for one step of something: `0.25 s`, `12.3 s`."""
    return f"{seconds:.{1 if seconds >= 10 else 2}f} s"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in percent: `50.0 %`; a dash of a whole that is nothing."""
    return percent(part / whole) if whole else UNKNOWN


def speed_up(row: Row, dense: Row) -> float | None:
    """How many times faster than the dense network; None where either was not timed."""
    return dense.latency_ms / row.latency_ms if row.latency_ms and dense.latency_ms else None


def asked(report: Report) -> str:
    """The budget as running text: `50.0% of macs` -> `50.0 % of the MACs`."""
    return re.sub(r"\bmacs\b", "MACs", report.budget.replace("%", " %").replace("% of ", "% of the "))


def told(report: Report) -> list[str]:
    """What tells latency and energy, what a budget held by measurement came to, and which rows are better without
    fine-tuning: a sentence each."""
    names = {"latency_ms": "latency", "energy_mj": "energy"}
    found = [f"{names.get(metric, metric)} by {source}" for metric, source in report.sources.items()]
    if report.measured is not None:
        whole = report.dense.costs.latency_ms
        told = f"{percent(report.measured)} of the dense one's time"
        if "of latency_ms" not in report.budget and whole:  # then it was held in milliseconds
            told = f"{three_digits(report.measured * whole)} ms"
        found.append(f"measured here, the delivered network takes {told}")
    for name, (before, after) in report.undone.items():
        scores = f"score {before:.4f} before, {after:.4f} after"
        found.append(f"{name} stays as it was before fine-tuning, which made it worse: {scores}")
    return found


def _of_budget(report: Report) -> str:
    """What the delivered network takes of what was limited, where that is no count of its own."""
    metric = next((metric for metric in report.sources if metric in report.budget), None)
    dense, row = report.dense.costs, report.delivered.costs
    if metric is None or metric not in dense.known or metric not in row.known:
        return ""
    return f"{share(row[metric], dense[metric])} of the {metric}, "


def headline(report: Report) -> str:
    """One sentence: what was asked for, and what was delivered."""
    dense, row = report.dense, report.delivered
    return (
        f"Asked for at most {asked(report)}; delivered {_of_budget(report)}"
        f"{share(row.costs.macs, dense.costs.macs)} of the MACs and "
        f"{share(row.costs.params, dense.costs.params)} of the parameters, accuracy "
        f"{dense.before * 100:.2f} → {percent(row.accuracy, 2)}"
        f"{' without fine-tuning' if row.after is None else ''}{_faster(row, dense)}."
    )


def _faster(row: Row, dense: Row) -> str:
    factor = speed_up(row, dense)
    if factor is None:
        return ""
    return f", {factor:.1f}× faster here" if factor >= 1 else f", {1 / factor:.1f}× slower here"
