"""Post-training pruning, no labels and no training: what real networks still answer at half their MACs, and at 70 %.

Every method gets the same calibration inputs and the same budget, counted the same way, and one thread. A row is one
network, budget, method and draw of the calibration inputs; it is kept in benchmarks/runs/post_training and not done
again. Needs transformers beside Secateur's development tools. Some hours; `--quick` (some minutes) is MiniLM alone, one
draw at half the MACs with fewer trials, and writes no result.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from compensation import RIVALS, Task
from compensation.networks import NETWORKS, Given
from compensation.others import torch_pruning, uniform_plain
from torch import nn

import secateur as sc
from secateur.graph import as_inputs
from secateur.search import SearchSpace

BUDGETS = {"half": 0.5, "seventy": 0.7}
DRAWS = 3
TRIALS, QUICK_TRIALS = 40, 5
OURS = ("uniform_refitted", "greedy", "secateur")
METHODS = {
    "minilm": ("uniform", "vbp", "corp", "kwon", *OURS),
    "lm": ("uniform", "wanda", "vbp", "corp", "kwon", *OURS),
    "efficientnet_lite0": ("uniform", "torch_pruning", *OURS),
}
"""What each network is pruned by."""


@dataclass(frozen=True)
class Case:
    """One row."""

    network: str
    budget: str
    method: str
    draw: int
    trials: int = 0

    def place(self) -> Path:
        """Where it is kept."""
        name = f"{self.network}_{self.budget}_{self.method}_{self.draw}_{self.trials}.json"
        return record.HERE / "runs" / "post_training" / name


def main() -> None:
    """Run what is missing, each in a process of its own, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="MiniLM, one draw at half the MACs; writes no result")
    parser.add_argument("--networks", nargs="+", default=[*METHODS], choices=[*METHODS], help="which networks to run")
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of the calibration inputs")
    options = parser.parse_args()
    networks = ["minilm"] if options.quick else options.networks
    draws, budgets = (1, ["half"]) if options.quick else (options.draws, [*BUDGETS])
    trials = QUICK_TRIALS if options.quick else TRIALS
    cases = [
        Case(network, budget, method, draw, trials if method == "secateur" else 0)
        for network in networks for draw in range(draws) for budget in budgets for method in METHODS[network]
    ]  # fmt: skip
    for case in cases:
        if not case.place().exists():
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # so that each has its own peak of memory
                print(pool.apply(run, (case,)), flush=True)
    if options.quick:
        rows = [json.loads(case.place().read_text()) for case in cases]
    else:  # all that is known
        rows = [json.loads(place.read_text()) for place in sorted(Case("", "", "", 0).place().parent.glob("*.json"))]
        rows = [row for row in rows if row["trials"] == (TRIALS if row["method"] == "secateur" else 0)]
    record.show("post-training, one thread; means over draws of the calibration inputs", summary(rows))
    if not options.quick:
        place = record.write("post_training", figures_of(rows), rows)
        print(f"written to {place.relative_to(record.HERE.parent)}")


def run(case: Case) -> str:
    """One row."""
    torch.set_num_threads(1)
    network = NETWORKS[case.network]()
    dense = network.dense()
    calibration, reward = network.draw(case.draw)
    started = time.process_time()
    space = SearchSpace(sc.inspect(dense, one_of(calibration)), sc.Budget(macs=BUDGETS[case.budget]))
    mask = calibration.get("attention_mask") if isinstance(calibration, dict) else None
    task = Task(dense, space, network.blocks, as_inputs(calibration), mask)
    pruned = _pruned(task, reward, case)
    seconds = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    macs = sc.inspect(pruned, one_of(calibration)).dense.macs / space.dense.macs
    row = {
        **asdict(case), **network.error(pruned, dense), "macs": macs, "seconds": round(seconds, 1),
        "peak_gb": round(memory, 2), "ran_at": record.commit(),
    }  # fmt: skip
    case.place().parent.mkdir(parents=True, exist_ok=True)
    case.place().write_text(json.dumps(row))
    return f"{case.place().stem}: error {row['error']:.4f}, {macs:.1%} of the MACs, {seconds:.0f} s"


def _pruned(task: Task, reward: Given, case: Case) -> nn.Module:
    if case.method == "torch_pruning":
        return torch_pruning(task)
    if case.method == "uniform" and not task.blocks:
        return uniform_plain(task)
    if case.method in RIVALS:
        return RIVALS[case.method](task)
    if case.method == "uniform_refitted":
        return sc.prune(task.model, one_of(reward), task.uniform_plan(), calibration=[task.inputs])
    greedy = case.method == "greedy"  # the loss curves' own answer, without a trial
    study = sc.search(
        task.model, one_of(reward), budget=task.space.budget, calibration=[task.inputs],
        trials=1 if greedy else case.trials, evaluate=sc.agreement(task.model, reward, batch=25),
        searcher=sc.Knapsack(case.draw, learn=False) if greedy else sc.Bayesian(case.draw),
    )  # fmt: skip
    return study.prune(study.best.plan)


def one_of(given: Given) -> Given:
    """An example."""
    return {name: x[:1] for name, x in given.items()} if isinstance(given, Mapping) else given[:1]


def _groups(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["network"], row["budget"], row["method"]), []).append(row)
    return found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over draws."""
    return [
        {
            "network": network, "MACs": budget, "method": method, "draws": len(mine),
            "error": f"{np.mean([row['error'] for row in mine]):.4f} +- {np.std([row['error'] for row in mine]):.4f}",
            "s": float(np.mean([row["seconds"] for row in mine])), "peak GB": max(row["peak_gb"] for row in mine),
        }
        for (network, budget, method), mine in _groups(rows).items()
    ]  # fmt: skip


TOLD = ("error", "spearman", "perplexity", "top1", "dense", "seconds", "peak_gb")


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Errors by network, budget and method, and what else is told of them; means over draws."""
    figures: dict[str, float] = {}
    for (network, budget, method), mine in _groups(rows).items():
        for name in TOLD:
            if name in mine[0]:
                key = f"{network}_{budget}_{method}" if name == "error" else f"{network}_{budget}_{method}_{name}"
                figures[key] = float(np.mean([row[name] for row in mine]))
        figures[f"{network}_{budget}_{method}_draws"] = len(mine)
        figures[f"{network}_{budget}_{method}_spread"] = float(np.std([row["error"] for row in mine]))
    return figures


if __name__ == "__main__":
    main()
