"""MobileNet-V1 with its ImageNet weights, no fine-tuning: the paper's budgets, beside the paper's own channel counts.

Half and 70 % of the MACs, and half the time of a Pixel 1 by its profile. 250 of 1,000 sample images score plans, 250
others tell of the activations (the refit for good takes all 500), and the other 500 report. The channels that the
authors published for half the MACs (24, 48, 96, ...) and for half the time (16, 48, 88, ...) are chosen and refitted
as ours are, and so is the same fraction of every layer, the multiplier that MobileNets are sold with; for 70 % of the
MACs they published none. Each search lies in benchmarks/runs/paper_mobilenet, and resumes; ten minutes a seed on two
cores. Rows of the committed result are not done again. `--quick` (minutes) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import record
import shared_assets
import torch

import secateur as sc
from secateur.graph import as_inputs
from secateur.prune import Calibration, Pruner
from secateur.run import score_of
from secateur.search import RULES, SearchSpace, apply_rule

BUDGETS = {
    "half_macs": sc.Budget(macs=0.5),
    "seventy_macs": sc.Budget(macs=0.7),
    "half_time": sc.Budget(latency_ms=0.5),
}
PAPER = {
    "half_macs": (24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752),
    "half_time": (16, 48, 88, 80, 192, 168, 336, 360, 360, 352, 352, 368, 768, 680),
}
"""Output channels of the authors' own models (github.com/mit-han-lab/amc-models)."""
TRIALS, SEEDS = 200, 3


def main() -> None:
    """Search what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of some minutes; writes no result")
    parser.add_argument("--budget", choices=BUDGETS, action="append", help="only this one (may be repeated)")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.quick)
    budgets = ["half_macs"] if options.quick else options.budget or [*BUDGETS]
    for row in () if options.quick else record.known("paper_mobilenet"):
        bench.keep(row)
    bench.given(budgets)
    for seed in range(1 if options.quick else options.seeds):
        for name in budgets:
            bench.searched(name, seed)
    rows = [json.loads(place.read_text()) for place in sorted(bench.runs.glob("*.json"))]
    shown = ("budget", "widths", "seed", "top-1", "MACs, %", "params, %", "Pixel 1, %", "trials", "seconds")
    record.show("MobileNet-V1, ImageNet, no fine-tuning", [{key: row[key] for key in shown} for row in rows])
    if not options.quick:
        draw(rows, [group.key for group in bench.graph.prunable], [group.width for group in bench.graph.prunable])
        figures = figures_of(rows) | {"mobilenet_v1_dense_top1": 100 * bench.test(bench.network)}
        print(f"written to {record.write('paper_mobilenet', figures, rows).relative_to(record.HERE.parent)}")


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean over seeds by budget and kind of widths, and the spread of ours."""
    figures = {}
    for budget, widths in dict.fromkeys((row["budget"], row["widths"]) for row in rows):
        found = [row["top-1"] for row in rows if (row["budget"], row["widths"]) == (budget, widths)]
        figures[f"mobilenet_v1_{budget}_{widths}_top1"] = float(np.mean(found))
        if widths == "amc":
            figures[f"mobilenet_v1_{budget}_seeds"] = float(len(found))
            figures[f"mobilenet_v1_{budget}_seed_std"] = float(np.std(found))
            figures[f"mobilenet_v1_{budget}_seconds"] = float(
                np.mean([row["seconds"] for row in rows if row["budget"] == budget and row["widths"] == "amc"])
            )
    return figures


def draw(rows: list[dict[str, Any]], keys: list[str], widths: list[int]) -> None:
    """A picture of the paper's plan, and of the first that was searched for each budget."""
    found = {(row["budget"], row["widths"]): row["channels"] for row in rows if not row["seed"]}
    shown = {"half_macs, the paper's": found["half_macs", "paper_widths"]}
    shown |= {name: found[name, "amc"] for name in ("seventy_macs", "half_time", "half_macs") if (name, "amc") in found}
    plans = {
        name: {key: count / width for key, count, width in zip(keys, counts, widths, strict=True)}
        for name, counts in shown.items()
    }
    record.draw("paper_mobilenet", "MobileNet-V1", plans)


class Bench:
    """The network, the images, and what every row shares."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        sizes = (50, 100, 100) if quick else (250, 250, 500)
        self.network, self.reward, self.calibration, self.test = shared_assets.materials("mobilenet_v1", *sizes)
        self.runs = record.HERE / "runs" / ("paper_mobilenet_quick" if quick else "paper_mobilenet")
        self.runs.mkdir(parents=True, exist_ok=True)
        self.settings = sc.SearchSettings(
            prune=sc.PruneSettings(trial_examples=64),
            workers=2,
            race=True,
            engine="openvino",
            latency="pixel1",
        )
        self.graph = sc.inspect(self.network, self.reward[:1])
        everything = Calibration(as_inputs(torch.cat([self.calibration, self.reward])))
        self.pruner = Pruner(self.network, self.graph, everything, self.settings.prune)

    def given(self, budgets: list[str]) -> None:
        """The paper's widths, where they were published, and uniform ones at every budget."""
        for name, widths in PAPER.items():
            keys = (group.key for group in self.graph.prunable)
            self.row(name, "paper_widths", dict(zip(keys, widths, strict=True)))
        for name in budgets:
            space = self.space(BUDGETS[name])
            self.row(name, "uniform", space.counts(apply_rule(space, RULES["uniform"])))

    def searched(self, name: str, seed: int) -> None:
        """The default searcher's best plan."""
        if self.place(name, "amc", seed).exists():
            return
        folder = self.runs / f"{name}_{seed}"
        study = sc.search(
            self.network,
            self.reward[:1],
            evaluate=sc.agreement(self.network, self.reward, batch=25),
            calibration=[self.calibration],
            budget=BUDGETS[name],
            searcher=sc.Bayesian(seed),
            trials=6 if self.quick else TRIALS,
            folder=folder,
            settings=self.settings,
            on_trial=lambda study, trial: print(f"\r{name}, seed {seed}: {len(study.trials)}", end="", flush=True),
        )
        spent = sum(trial.outcome.seconds for trial in study.succeeded) / self.settings.workers
        counts = self.space(BUDGETS[name]).counts(study.best.plan)
        self.row(name, "amc", counts, seed, trials=len(study.trials), seconds=spent)

    def space(self, budget: sc.Budget) -> SearchSpace:
        """What may be chosen under a budget."""
        return SearchSpace(self.graph, budget, prices=self.settings.prices)

    def row(self, budget: str, widths: str, counts: dict[str, int], seed: int = 0, **spent: float) -> None:
        """One network pruned for good and looked at, unless its file is there."""
        if not self.place(budget, widths, seed).exists():
            space = self.space(sc.Budget(macs=1.0))
            costs, dense = space.costs(counts), space.dense
            self.keep(
                {
                    "budget": budget,
                    "widths": widths,
                    "seed": seed,
                    "top-1": 100 * score_of(self.test, self.pruner.final(counts)),
                    "MACs, %": 100 * costs.macs / dense.macs,
                    "params, %": 100 * costs.params / dense.params,
                    "Pixel 1, %": 100 * costs["latency_ms"] / dense["latency_ms"],
                    "trials": spent.get("trials", 0),
                    "seconds": spent.get("seconds", 0.0),
                    "channels": [counts.get(group.key, group.width) for group in self.graph.prunable],
                }
            )

    def place(self, budget: str, widths: str, seed: int) -> Path:
        """The file of a row."""
        return self.runs / f"{budget}_{widths}_{seed}.json"

    def keep(self, row: dict[str, Any]) -> None:
        """Write a row, unless its file is there."""
        place = self.place(row["budget"], row["widths"], row["seed"])
        if not place.exists():
            place.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
