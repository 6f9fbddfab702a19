"""A search of a benchmark: run, its plan pruned for good and looked at on the test images, and kept.

Benchmarks share what they need of one another: a search that is asked for twice is run once. Plans are scored by
agreement with the dense network on augmented training images, and raced; channels and refits use others. As in
`sc.search` the best three plans are finished and scored once more: the score kept is the finished network's, and the
seconds, of processor time, do not count it. One search goes on each core. What is finished lies in
benchmarks/runs/searches; on a new machine it is taken from the committed results, whose rows are whole searches.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import record
import shared_assets
import torch
from safetensors.numpy import save_file

import secateur as sc
from secateur.graph import as_inputs
from secateur.prune import Calibration, Pruner, fold_norms
from secateur.run import Evaluator, InProcess, Loop, best_first, nobody, score_of
from secateur.runtimes import engine
from secateur.search import SearchSpace

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
WARM = "bayesian_warm"
"""The default search, beginning with what the one on ResNet-20 has learnt."""
LEARNT = ".safetensors"
POINTS = (0.3, 0.5, 0.7)
"""Where the answers of a search over a range of budgets are looked at."""


@dataclass(frozen=True)
class Setting:
    """A network, how many images its searches use, and what they may choose."""

    network: str
    reward: int = 1000
    calibration: int = 1500
    report: int | None = None
    engine: str = "torch"
    space: sc.SpaceSettings = field(default_factory=sc.SpaceSettings)


SETTINGS = {
    "resnet20": Setting("resnet20", space=sc.SpaceSettings(entries=True)),
    "resnet56": Setting("resnet56", space=sc.SpaceSettings(entries=True)),
    "mobilenet_v1": Setting("mobilenet_v1", 250, 250, 500, "openvino"),
    "resnet20_inner": Setting("resnet20"),
    "resnet56_inner": Setting("resnet56"),
}
"""The residual networks in the wider of two spaces: with entries they have twice the sites."""
INNER = "_inner"
QUICK = Setting("resnet20", 100, 100, 200)


@dataclass(frozen=True)
class Search:
    """Which search; `macs` may be a range."""

    network: str
    searcher: str
    seed: int
    macs: float | tuple[float, float] = 0.5
    trials: int = 100
    quick: bool = False

    def place(self, suffix: str = ".json") -> Path:
        """Where what it found is kept."""
        budget = "-".join(map(str, self.macs)) if isinstance(self.macs, tuple) else str(self.macs)
        folder = record.HERE / "runs" / ("searches_quick" if self.quick else "searches")
        return folder / self.network / f"{self.searcher}_{budget}_{self.trials}_{self.seed}{suffix}"

    def found(self) -> dict[str, Any]:
        """What it found, if it is done."""
        return dict(json.loads(self.place().read_text()))


def recall() -> None:
    """Lay out the searches that a committed result holds, where they are not here."""
    place = record.HERE / "results" / "searchers.json"
    for row in json.loads(place.read_text())["rows"] if place.exists() else ():
        macs = tuple(row["macs"]) if isinstance(row["macs"], list) else row["macs"]
        search = Search(row["network"], row["searcher"], row["seed"], macs, len(row["best"]))
        if not search.place().exists():
            search.place().parent.mkdir(parents=True, exist_ok=True)
            search.place().write_text(json.dumps(row))


def run_all(searches: Iterable[Search], suffix: str = ".json", anew: bool = False) -> None:
    """Run those that are not done yet, of which there is no file of this suffix; or `anew`, all."""
    recall()
    missing = [search for search in searches if anew or not search.place(suffix).exists()]
    if not missing:
        return
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        for done in pool.imap_unordered(run, missing):
            print(done, flush=True)


_materials: dict[Any, Any] = {}
"""What a process keeps between its searches: tracing and channel orders are the same for every searcher."""


def run(search: Search) -> str:
    """Search, prune by the best plan (or by the answer at each of POINTS), look at the test images, keep it all."""
    torch.set_num_threads(1)
    key = (search.network, search.macs)
    if key not in _materials:
        _materials.clear()
        _materials[key] = prepare(search)
    space, pruner, evaluate, test, runner = _materials[key]
    searcher = strategy(search).start(space)
    curve: list[tuple[float, float]] = []
    started = time.process_time()
    dense, check = sc.Outcome(1.0, space.graph.dense, 0.0, 0.0), Evaluator(pruner.final, space, evaluate)
    study = Loop(
        sc.Study(space, dense, check=check),
        searcher,
        InProcess(Evaluator(pruner.fork().candidate, space, evaluate, engine=runner)),
        search.seed,
        race=True,
        finalists=nobody if space.budget.is_range else best_first,
        on_trial=lambda study, trial: curve.append((time.process_time() - started, study.best.outcome.score)),
    ).run(search.trials)
    plans = {str(search.macs): study.best.plan}
    if space.budget.is_range:
        plans = {str(point): study.plan(sc.Budget(macs=point)) for point in POINTS}
    top1 = {at: 100 * score_of(test, pruner.final(space.counts(plan))) for at, plan in plans.items()}
    search.place().parent.mkdir(parents=True, exist_ok=True)
    save_file(searcher.state(), search.place(LEARNT))
    entry = {
        "network": search.network,
        "searcher": search.searcher,
        "seed": search.seed,
        "macs": search.macs,
        "test_top1": top1,
        "score": study.best.outcome.score,
        "complete": sum(trial.outcome.complete for trial in study.trials),
        "seconds": [round(seconds, 2) for seconds, _ in curve],
        "best": [round(score, 6) for _, score in curve],
        "plans": {at: plan.to_json() for at, plan in plans.items()},
        "searched_at": record.commit(),
    }
    search.place().write_text(json.dumps(entry))
    answers = ", ".join(f"{value:.2f}" for value in top1.values())
    return f"{search.place().stem} on {search.network}: test {answers}, {curve[-1][0]:.0f} s"


def strategy(search: Search) -> Any:
    """The searcher's settings."""
    if search.searcher == WARM:
        return sc.Bayesian(search.seed, prior=str(teacher(search).place(LEARNT)))
    return STRATEGIES[search.searcher](search.seed)


def teacher(search: Search) -> Search:
    """The search that a warm start has learnt from."""
    return replace(search, network="resnet20", searcher=DEFAULT)


def prepare(search: Search) -> tuple[Any, ...]:
    """Space, pruner, score, the test score and the engine of a network."""
    setting = QUICK if search.quick else SETTINGS[search.network]
    network, reward, calibration, test = shared_assets.materials(
        setting.network, setting.reward, setting.calibration, setting.report
    )
    space = SearchSpace(sc.inspect(network, reward[:1]), sc.Budget(macs=search.macs), setting.space)
    pruner = Pruner(network, space.graph, Calibration(as_inputs(calibration)))
    space = space.informed(pruner.losses)
    batch = 100 if reward.shape[-1] < 64 else 25
    runner = engine(setting.engine, fold_norms(network, space.graph), as_inputs(reward[:batch]), as_inputs(calibration))
    return space, pruner, sc.agreement(network, reward, batch), test, runner
