"""What every benchmark leaves behind: a dated JSON file, a table on the terminal, and pictures of plans."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import secateur as sc
from secateur.report import Report, Row, wide_console
from secateur.report.figures import kept_per_site

HERE = Path(__file__).resolve().parent


def commit() -> str:
    """The commit that is checked out."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    return git.stdout.strip()


def write(name: str, figures: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write results/NAME.json: command, date, commit, machine, flat figures, and the raw rows."""
    place = HERE / "results" / f"{name}.json"
    place.parent.mkdir(exist_ok=True)
    result = {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "figures": dict(figures),
        "rows": list(rows),
    }
    place.write_text(json.dumps(result, indent=1) + "\n")
    return place


def known(name: str) -> list[dict[str, Any]]:
    """The rows of the committed result, which a new machine need not do again, each with when and where it was made."""
    place = HERE / "results" / f"{name}.json"
    if not place.exists():
        return []
    result = json.loads(place.read_text())
    made = {key: result[key] for key in ("date", "commit", "machine")}
    return [{"made": made, **row} for row in result["rows"]]


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same keys as a table."""
    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    wide_console().print(table)


def draw(name: str, title: str, plans: Mapping[str, Mapping[str, float]]) -> None:
    """Write results/NAME.svg: the fraction that each plan keeps at every site; the last is strong, the others faint."""
    nothing = sc.Costs(0, 0, 0)
    rows = [
        Row(label, dict(plan), None, 0.0, None, nothing, None, None) for label, plan in {"dense": {}, **plans}.items()
    ]
    sites = tuple(dict.fromkeys(key for plan in plans.values() for key in plan))
    report = Report(title, "", "", "", "", tuple(rows), {}, sites, (), (), {})
    (HERE / "results" / f"{name}.svg").write_text(kept_per_site(report))
