"""Every searcher at equal trials and at equal seconds, over networks and seeds: which one finds the better plan?

Plans are scored by agreement with the dense network on 1,000 augmented training images (250 on MobileNet-V1), and
raced; channels and refits use others. Every search's best plan is then pruned for good, without fine-tuning, and looked
at on the test images once. Two runs go side by side, each on one thread. Interrupted, it resumes; finished runs
are kept in benchmarks/runs/searchers. `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import record
import shared_assets
import torch

import secateur as sc
from secateur.graph import as_inputs
from secateur.prune import Calibration, Pruner
from secateur.run import Evaluator, InProcess, Loop, score_of
from secateur.search import SearchSpace, resource_constrained

STRATEGIES: dict[str, Callable[[int], Any]] = {
    "random": lambda seed: sc.Random(seed),
    "ddpg_paper": lambda seed: sc.DDPG.paper(seed, warmup=25),
    "ddpg": lambda seed: sc.DDPG(seed),
    "evolution": lambda seed: sc.Evolution(seed),
    "tpe": lambda seed: sc.TPE(seed),
    "cmaes": lambda seed: sc.CMAES(seed),
    "greedy": lambda seed: sc.Knapsack(seed, learn=False),
    "knapsack": lambda seed: sc.Knapsack(seed),
    "bayesian": lambda seed: sc.Bayesian(seed),
}
DEFAULT = "bayesian"
FIXED = ("greedy",)
"""Searchers that propose one plan: a single trial of a single seed says all."""


@dataclass(frozen=True)
class Setting:
    """What is compared, and how much of it."""

    network: str
    seeds: int = 5
    trials: int = 100
    reward: int = 1000
    calibration: int = 1500
    report: int | None = None
    runs: Path = field(default=record.HERE / "runs" / "searchers")

    def place(self, searcher: str, seed: int) -> Path:
        return self.runs / self.network / f"{searcher}_{seed}.json"


SETTINGS = {
    "resnet20": Setting("resnet20"),
    "resnet56": Setting("resnet56"),
    "mobilenet_v1": Setting("mobilenet_v1", seeds=3, reward=250, calibration=250, report=500),
}


def main() -> None:
    """Run what is missing, print the table, write the result and its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    parser.add_argument("--network", choices=SETTINGS, action="append", help="only this one (may be repeated)")
    options = parser.parse_args()
    settings = [SETTINGS[name] for name in options.network or SETTINGS]
    if options.quick:
        settings = [Setting("resnet20", 1, 4, 100, 100, 200, runs=record.HERE / "runs" / "searchers_quick")]
    for setting in settings:
        jobs = [
            (setting, name, seed)
            for seed in range(setting.seeds)
            for name in STRATEGIES
            if not setting.place(name, seed).exists() and not (name in FIXED and seed)
        ]
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            for done in pool.imap_unordered(run, jobs):
                print(done, flush=True)
    rows = [row for setting in settings for row in summary(setting)]
    record.show("no fine-tuning, 50 % MACs; mean and standard deviation over seeds", rows)
    if not options.quick:
        figures = {key: value for setting in settings for key, value in figures_of(setting).items()}
        place = record.write("searchers", figures, [read(s, n, k) for s in settings for n, k in finished(s)])
        print(f"written to {place.relative_to(record.HERE.parent)}")


# ---- one search ------------------------------------------------------------------------------------------------------

_materials: dict[str, Any] = {}
"""What a process keeps between its runs: tracing and channel orders are the same for every searcher."""


def run(job: tuple[Setting, str, int]) -> str:
    """Search once, prune by the best plan, look at the test images, and keep the row."""
    setting, name, seed = job
    torch.set_num_threads(1)
    if setting.network not in _materials:
        _materials[setting.network] = prepare(setting)
    space, pruner, evaluate, dense, test = _materials[setting.network]
    curve: list[tuple[float, float]] = []
    started = time.perf_counter()

    def on_trial(study: sc.Study, trial: sc.Trial) -> None:
        curve.append((time.perf_counter() - started, study.best.outcome.score))

    loop = Loop(
        sc.Study(space, dense),
        STRATEGIES[name](seed).start(space),
        InProcess(Evaluator(pruner.fork(), space, evaluate, resource_constrained)),
        seed,
        race=True,
        on_trial=on_trial,
    )
    study = loop.run(1 if name in FIXED else setting.trials)
    small = pruner.final(space.counts(study.best.plan))
    entry = {
        "network": setting.network,
        "searcher": name,
        "seed": seed,
        "test_top1": 100 * score_of(test, small),
        "score": study.best.outcome.score,
        "complete": sum(trial.outcome.complete for trial in study.trials),
        "seconds": [round(seconds, 2) for seconds, _ in curve],
        "best": [round(score, 6) for _, score in curve],
        "plan": study.best.plan.to_json(),
        "searched_at": record.commit(),
    }
    place = setting.place(name, seed)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(entry))
    return f"{setting.network} {name} {seed}: test {entry['test_top1']:.2f}, {curve[-1][0]:.0f} s"


def prepare(setting: Setting) -> tuple[Any, ...]:
    """Space, pruner, score, dense outcome and the test score of a network."""
    network, reward, calibration, test = shared_assets.materials(
        setting.network, setting.reward, setting.calibration, setting.report
    )
    graph = sc.inspect(network, reward[:1])
    pruner = Pruner(network, graph, Calibration(as_inputs(calibration)))
    space = SearchSpace(graph, sc.Budget(macs=0.5)).informed({key: x.loss for key, x in pruner.orders.items()})
    evaluate = sc.agreement(network, reward, batch=100 if reward.shape[-1] < 64 else 25)
    return space, pruner, evaluate, sc.Outcome(1.0, graph.dense, 0.0, 0.0), test


# ---- the table -------------------------------------------------------------------------------------------------------


def read(setting: Setting, name: str, seed: int) -> dict[str, Any]:
    return json.loads(setting.place(name, seed).read_text())


def finished(setting: Setting) -> list[tuple[str, int]]:
    return [(n, k) for n in STRATEGIES for k in range(setting.seeds) if setting.place(n, k).exists()]


def summary(setting: Setting) -> list[dict[str, Any]]:
    """A row a searcher: test top-1 at equal trials, and the score at 25 trials, at all, and at equal seconds."""
    rows = []
    runs = {name: [read(setting, n, k) for n, k in finished(setting) if n == name] for name in STRATEGIES}
    shortest = min(run["seconds"][-1] for name, found in runs.items() if name not in FIXED for run in found)
    for name, found in runs.items():
        tops, scores = [run["test_top1"] for run in found], [run["best"][-1] for run in found]
        timed = [max([b for s, b in zip(x["seconds"], x["best"], strict=True) if s <= shortest] or [0]) for x in found]
        rows.append(
            {
                "network": setting.network,
                "searcher": name,
                "seeds": len(found),
                "test top-1": f"{np.mean(tops):.2f} +- {np.std(tops):.2f}",
                "agreement": f"{np.mean(scores):.4f}",
                "after 25": f"{np.mean([run['best'][min(24, len(run['best']) - 1)] for run in found]):.4f}",
                f"after {shortest:.0f} s": f"{np.mean(timed):.4f}",
                "s a trial": float(np.mean([run["seconds"][-1] / len(run["seconds"]) for run in found])),
            }
        )
    return rows


def figures_of(setting: Setting) -> dict[str, float]:
    """Gain of the default over random, its spread over seeds, and its margin over the best rival, in points."""
    tops = {name: [read(setting, n, k)["test_top1"] for n, k in finished(setting) if n == name] for name in STRATEGIES}
    mine, rivals = tops.pop(DEFAULT), {name: float(np.mean(found)) for name, found in tops.items() if found}
    return {
        f"{setting.network}_test_top1": float(np.mean(mine)),
        f"{setting.network}_gain_over_random": float(np.mean(mine)) - rivals["random"],
        f"{setting.network}_seed_std": float(np.std(mine)),
        f"{setting.network}_best_rival_margin": float(np.mean(mine)) - max(rivals.values()),
    }


if __name__ == "__main__":
    main()
