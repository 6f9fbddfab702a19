"""Post-training pruning, no labels and no training: what a network still answers at half its MACs, and at 70 %.

Every method gets the same calibration inputs and the same budget, counted the same way, and one thread. A row is one
network, budget, method and draw of the calibration inputs; it is kept in benchmarks/runs/post_training and not done
again. Needs transformers beside Secateur, in an environment without torchvision (its wheel may be built for another
torch). About an hour; `--quick` (some minutes) is one draw at half the MACs with fewer trials, and writes no result.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
import text_assets
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from transformer_rivals import RIVALS, Block, Task

import secateur as sc
from secateur.graph import Inputs, as_inputs
from secateur.search import SearchSpace

BUDGETS = {"half": 0.5, "seventy": 0.7}
DRAWS = 3
TRIALS, QUICK_TRIALS = 40, 5
CALIBRATION, REWARD, TESTS = 512, 200, 1000
"""Sentences: to choose and refit by, to score trials by (of the same source), and to report on."""
LAYER = "bert.encoder.layer"
BLOCKS = tuple(
    Block(
        *(f"{LAYER}.{number}.attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense")),
        *(f"{LAYER}.{number}.{part}.dense" for part in ("intermediate", "output")), heads=12,
    )
    for number in range(6)
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row."""

    network: str
    budget: str
    method: str
    draw: int
    trials: int = TRIALS

    def place(self) -> Path:
        """Where it is kept."""
        name = f"{self.network}_{self.budget}_{self.method}_{self.draw}_{self.trials}.json"
        return record.HERE / "runs" / "post_training" / name


def main() -> None:
    """Run what is missing, each in a process of its own, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one draw at half the MACs; writes no result")
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of the calibration inputs")
    options = parser.parse_args()
    draws, budgets = (1, ["half"]) if options.quick else (options.draws, [*BUDGETS])
    trials = QUICK_TRIALS if options.quick else TRIALS
    cases = [
        Case("minilm", budget, method, draw, trials if method == "secateur" else 0)
        for draw in range(draws) for budget in budgets for method in (*RIVALS, "uniform_refitted", "greedy", "secateur")
    ]  # fmt: skip
    for case in cases:
        if not case.place().exists():
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # so that each has its own peak of memory
                print(pool.apply(run, (case,)), flush=True)
    rows = [json.loads(case.place().read_text()) for case in cases]
    record.show("post-training, one thread; means over draws of the calibration inputs", summary(rows))
    if not options.quick:
        place = record.write("post_training", figures_of(rows), rows)
        print(f"written to {place.relative_to(record.HERE.parent)}")


def run(case: Case) -> str:
    """One row."""
    torch.set_num_threads(1)
    model = text_assets.minilm()
    drawn = text_assets.news(CALIBRATION + REWARD, case.draw)
    calibration, reward = (
        {name: value[part] for name, value in drawn.items()} for part in (slice(CALIBRATION), slice(CALIBRATION, None))
    )
    started = time.process_time()
    space = SearchSpace(sc.inspect(model, one_of(drawn)), budget_of(case))
    task = Task(model, space, BLOCKS, as_inputs(calibration), calibration["attention_mask"])
    pruned = RIVALS[case.method](task) if case.method in RIVALS else OURS[case.method](task, reward, case)
    seconds = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    tests = text_assets.reviews_and_editorials(TESTS)
    cosine, spearman = alike(answers(model, tests), answers(pruned, tests))
    macs = sc.inspect(pruned, one_of(drawn)).dense.macs
    row = {
        **asdict(case), "cosine": cosine, "spearman": spearman, "macs": macs / space.dense.macs,
        "seconds": round(seconds, 1), "peak_gb": round(memory, 2), "ran_at": record.commit(),
    }  # fmt: skip
    case.place().parent.mkdir(parents=True, exist_ok=True)
    case.place().write_text(json.dumps(row))
    return f"{case.place().stem}: cosine {cosine:.4f}, {macs / space.dense.macs:.1%} of the MACs, {seconds:.0f} s"


def budget_of(case: Case) -> sc.Budget:
    """Of all the network's MACs."""
    return sc.Budget(macs=BUDGETS[case.budget])


def uniform_refitted(task: Task, reward: dict[str, Tensor], case: Case) -> nn.Module:
    """The same share of every site, ranked and refitted by Secateur: what the search is worth."""
    low, high = 0.0, 1.0
    for _ in range(12):
        share = (low + high) / 2
        counts = {site.key: site.count(share) for site in task.space.sites}
        low, high = (share, high) if task.space.cost(counts) <= task.space.limit else (low, share)
    plan = task.space.plan({site.key: site.count(low) for site in task.space.sites})
    return sc.prune(task.model, one_of(reward), plan, calibration=[task.inputs])


def greedy(task: Task, reward: dict[str, Tensor], case: Case) -> nn.Module:
    """The loss curves' own answer, without a trial."""
    return searched(task, reward, sc.Knapsack(case.draw, learn=False), 1)


def secateur(task: Task, reward: dict[str, Tensor], case: Case) -> nn.Module:
    """A search by the default searcher."""
    return searched(task, reward, sc.Bayesian(case.draw), case.trials)


def searched(task: Task, reward: dict[str, Tensor], searcher: Any, trials: int) -> nn.Module:
    """Plans are scored by the cosine to the dense network's embeddings."""
    dense = answers(task.model, reward)
    study = sc.search(
        task.model, one_of(reward), budget=task.space.budget, calibration=[task.inputs], trials=trials,
        searcher=searcher, evaluate=lambda network: alike(dense, answers(network, reward))[0],
    )  # fmt: skip
    return study.prune(study.best.plan)


def one_of(sentences: dict[str, Tensor]) -> dict[str, Tensor]:
    """An example."""
    return {name: value[:1] for name, value in sentences.items()}


OURS: dict[str, Callable[[Task, dict[str, Tensor], Case], nn.Module]] = {
    "uniform_refitted": uniform_refitted, "greedy": greedy, "secateur": secateur,
}  # fmt: skip


def answers(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Embeddings [N, 384]."""
    given: Inputs = as_inputs(inputs)
    with torch.no_grad():
        return torch.cat([given.part(start, start + 50).run(model) for start in range(0, len(given), 50)])


def alike(dense: Tensor, pruned: Tensor) -> tuple[float, float]:
    """The mean cosine, and the rank correlation of the similarities between sentences."""
    one, other = (torch.nn.functional.normalize(x, dim=-1) for x in (dense, pruned))
    upper = np.triu_indices(len(one), 1)
    ranks = spearmanr((one @ one.T).numpy()[upper], (other @ other.T).numpy()[upper])[0]
    return float((one * other).sum(1).mean()), float(ranks)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over draws."""
    found = []
    for network, budget, method in dict.fromkeys((row["network"], row["budget"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["network"], row["budget"], row["method"]) == (network, budget, method)]
        cosine = [row["cosine"] for row in mine]
        found.append(
            {
                "network": network, "MACs": budget, "method": method, "draws": len(mine),
                "cosine": f"{np.mean(cosine):.4f} +- {np.std(cosine):.4f}",
                "Spearman": f"{np.mean([row['spearman'] for row in mine]):.4f}",
                "s": float(np.mean([row["seconds"] for row in mine])),
                "peak GB": max(row["peak_gb"] for row in mine),
            }
        )  # fmt: skip
    return found


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Errors 1 - cosine, and rank correlations, by network, budget and method; means over draws."""
    figures: dict[str, float] = {}
    for row in rows:
        name = f"{row['network']}_{row['budget']}_{row['method']}"
        mine = [each for each in rows if all(each[key] == row[key] for key in ("network", "budget", "method"))]
        figures[name] = float(np.mean([1 - each["cosine"] for each in mine]))
        figures[f"{name}_spearman"] = float(np.mean([each["spearman"] for each in mine]))
    return figures


if __name__ == "__main__":
    main()
