"""Does it take my network? Hundreds of architectures with random weights, from each library's own constructors.

Each contestant follows each network, cuts about half of every group of channels that it offers, all at once, and is
judged by the network that comes of it: whether it runs, answers as the dense network does that ignores those channels,
runs at another batch size, comes back from a file, and can lose half its MACs. One process with one thread for each; a
line for each is kept in benchmarks/runs/coverage and not done again: delete CONTESTANT.jsonl there to begin anew. Needs
what coverage-requirements.txt lists. Takes hours; `--quick` (a minute or two) looks at the smallest few.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
from contestants.looking import look_apart, prepare

LIBRARIES = {
    "torchvision": "torchvision_",
    "timm": "timm_",
    "transformers": "transformers_",
    "ultralytics": "ultralytics_",
    "segmentation": "segmentation",
    "handwritten": "handwritten",
}
"""Name and module of `architectures`."""
CONTESTANTS = {"secateur": "secateur_", "torch_pruning": "torch_pruning_", "kirigami": "kirigami_"}
"""Name and module of `contestants`."""
QUICK = {
    "torchvision": ("resnet18", "mobilenet_v2"),
    "timm": ("resnetv2_18",),
    "transformers": ("bert", "vit"),
    "ultralytics": ("yolov8n_cls",),
    "segmentation": ("unet_resnet18",),
}
LIMIT = 120
"""Seconds for one network, its building included."""
RUNS = record.HERE / "runs" / "coverage"
VERDICTS = ("followed", "exact", "reaches_half")


@dataclass(frozen=True)
class Look:
    """One contestant at one network."""

    contestant: str
    library: str
    network: str

    def made(self, limit: float) -> dict[str, Any]:
        """What it found, or how it went down."""
        return vars(self) | look_apart(CONTESTANTS[self.contestant], LIBRARIES[self.library], self.network, limit)


def main() -> None:
    """Look at what was not looked at yet, print the tables, write the result."""
    options = parsed()
    quick = options.quick
    contestants = options.contestant or list(CONTESTANTS)
    wanted = list(looks(contestants, options.library or list(LIBRARIES), options.network, quick))
    print_counts(wanted, contestants[0])
    prepare(
        [CONTESTANTS[name] for name in contestants],
        dict.fromkeys(LIBRARIES[look.library] for look in wanted),
    )
    for contestant in contestants:
        own = [look for look in wanted if look.contestant == contestant]
        complete(place(contestant, quick), own, options.limit)
    rows = [row for name in CONTESTANTS for row in lines(place(name, quick)) if not quick or name in contestants]
    record.show("of all networks, %", [line for name in CONTESTANTS for line in summary(name, rows)])
    if options.write or not (quick or options.network or options.library or options.contestant):
        written = record.write("coverage", figures(rows), rows)
        print(f"written to {written.relative_to(record.HERE.parent)}")


def parsed() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small networks; writes no result")
    parser.add_argument("--library", choices=LIBRARIES, action="append", help="only this one (may be repeated)")
    parser.add_argument("--network", action="append", help="only this one (may be repeated)")
    parser.add_argument("--contestant", choices=CONTESTANTS, action="append", help="only this one (may be repeated)")
    parser.add_argument("--write", action="store_true", help="write the result of what was looked at so far")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one network (default: %(default)s)")
    return parser.parse_args()


def looks(contestants: list[str], libraries: list[str], networks: list[str] | None, quick: bool) -> Iterator[Look]:
    """All that is to be looked at."""
    for library in libraries:
        module = f"architectures.{LIBRARIES[library]}"
        if importlib.util.find_spec(module) is None:
            continue
        names = QUICK.get(library, ()) if quick else list(importlib.import_module(module).CASES)
        for name in names:
            if not networks or name in networks:
                yield from (Look(contestant, library, name) for contestant in contestants)


def print_counts(wanted: list[Look], contestant: str) -> None:
    """How many networks there are."""
    own = [look.library for look in wanted if look.contestant == contestant]
    counts = {library: own.count(library) for library in dict.fromkeys(own)}
    print(f"{len(own)} networks: " + ", ".join(f"{library} {count}" for library, count in counts.items()))


def place(contestant: str, quick: bool) -> Path:
    """Where a contestant's lines are kept."""
    return RUNS.with_name("coverage_quick" if quick else RUNS.name) / f"{contestant}.jsonl"


def lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; one cut off by an interruption is no line."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def complete(file: Path, wanted: list[Look], limit: float) -> None:
    """Do what is missing in a file, line by line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = lines(file)
    file.write_text("".join(json.dumps(line) + "\n" for line in done))
    known = {(line["library"], line["network"]) for line in done}
    missing = [look for look in wanted if (look.library, look.network) not in known]
    for number, look in enumerate(missing):
        row = look.made(limit)
        with file.open("a") as kept:
            kept.write(json.dumps(row) + "\n")
        verdict = row["crash"] or row["refusal"] or ", ".join(f"{name}: {row[name]}" for name in VERDICTS)
        about = f"{number + 1}/{len(missing)} {look.contestant} {look.library} {look.network}"
        print(f"{about}: {verdict[:110]}", flush=True)


def percent(rows: list[dict[str, Any]], name: str) -> float:
    """Of how many networks something is true; what is not known is not."""
    return 100 * sum(row.get(name) is True for row in rows) / len(rows)


def summary(contestant: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A line of the table for each library."""
    own = [row for row in rows if row["contestant"] == contestant]
    for library in dict.fromkeys(row["library"] for row in own):
        some = [row for row in own if row["library"] == library]
        verdicts = {name: percent(some, name) for name in (*VERDICTS, "round_trip", "other_batch")}
        yield {"contestant": contestant, "library": library, "networks": len(some), **verdicts, **totals(some)}


def totals(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What is counted over all libraries."""
    seconds = [row["seconds"] for row in rows if row.get("followed")]
    return {
        "wrong_results": sum(row.get("exact") is False for row in rows),
        "crashes": sum(bool(row["crash"]) for row in rows),
        "median_seconds": statistics.median(seconds) if seconds else 0.0,
        "longest_seconds": max(seconds, default=0.0),
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Percentages by library, and totals; a rival's begin with its name."""
    found: dict[str, float] = {}
    for contestant in CONTESTANTS:
        prefix = "" if contestant == "secateur" else f"{contestant}_"
        own = [row for row in rows if row["contestant"] == contestant]
        if own:
            for line in summary(contestant, rows):
                found |= {f"{prefix}{line['library']}_{name}": line[name] for name in VERDICTS}
            found |= {f"{prefix}{name}": value for name, value in totals(own).items()}
    return found


if __name__ == "__main__":
    main()
