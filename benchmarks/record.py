"""What every benchmark leaves behind: a dated JSON file, and a table on the terminal."""

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
from rich.console import Console
from rich.table import Table

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


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same keys as a table."""
    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
