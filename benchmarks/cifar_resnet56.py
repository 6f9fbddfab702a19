"""ResNet-56 on CIFAR-10 at half its MACs: the agent against random search and the paper's hand-made rules.

Plans are scored on 5,000 training images (a candidate significantly worse than the best, image by image, is scored no
further, and cannot be the result); channels and refits use 1,500 others; the test images are looked at
once, when a row's plan is fixed. Every row gets the same channel choice and the same refit, and no fine-tuning.
Interrupted, it resumes. `--quick` (a minute, ResNet-20, few trials) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
import shared_assets
import torch

import secateur as sc
from secateur.data import split
from secateur.graph import count_costs
from secateur.report import Report, Row
from secateur.report.figures import kept_per_site

BUDGET = sc.Budget(macs=0.5)


@dataclass(frozen=True)
class Setting:
    """What is compared, and how much of it."""

    depth: int = 56
    trials: int = 400
    reward: int = 5000
    calibration: int = 1500
    workers: int = 2
    seed: int = 0
    runs: Path = record.HERE / "runs" / "cifar_resnet56"

    @property
    def searchers(self) -> dict[str, tuple[Any, int]]:
        """Every row's searcher and its trials; a rule has one plan."""
        return {
            "uniform": (sc.Uniform(), 1),
            "shallow": (sc.Shallow(), 1),
            "deep": (sc.Deep(), 1),
            "amc": (sc.DDPG.paper(self.seed, warmup=self.trials // 4), self.trials),
            "random": (sc.Random(seed=self.seed), self.trials),
        }


def main() -> None:
    """Run all rows, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    quick = parser.parse_args().quick
    setting = Setting(runs=record.HERE / "runs" / "cifar_resnet56")
    if quick:
        setting = Setting(20, 8, 200, 200, runs=record.HERE / "runs" / "cifar_resnet56_quick")
    torch.set_num_threads(1)  # trials run side by side instead
    dataset = shared_assets.cifar10()
    network = shared_assets.resnet(setting.depth)
    test = sc.accuracy(*shared_assets.test_images(dataset))
    rows = [row(name, network, setting, test) for name in setting.searchers]
    dense = 100 * test(network)
    shown = [{key: value for key, value in entry.items() if key not in ("plan", "searched_at")} for entry in rows]
    record.show(f"ResNet-{setting.depth}, {BUDGET}, no fine-tuning; dense {dense:.2f}", shown)
    if not quick:
        place = record.write("cifar_resnet56", figures(rows, dense), rows)
        place.with_suffix(".svg").write_text(kept_per_site(as_report(rows, dense)))
        print(f"written to {place.relative_to(record.HERE.parent)}, with the fraction kept per layer as .svg")


def figures(rows: list[dict[str, Any]], dense: float) -> dict[str, float]:
    """The figures that the README quotes."""
    found = {f"{entry['searcher']}_test_top1": entry["test_top1"] for entry in rows}
    agent = next(entry for entry in rows if entry["searcher"] == "amc")
    return {
        **found,
        "dense_test_top1": dense,
        "macs_fraction": max(entry["macs_fraction"] for entry in rows),
        "seconds_per_trial": agent["search_minutes"] * 60 / agent["trials"],
        "search_minutes": agent["search_minutes"],
    }


def as_report(rows: list[dict[str, Any]], dense: float) -> Report:
    """The rows in the form that the report's figures are drawn from; the agent's is the one delivered."""
    ordered = sorted(rows, key=lambda entry: entry["searcher"] == "amc")
    none = sc.Costs(0, 0, 0)
    shown = [Row("dense", {}, None, dense / 100, None, none, None, None)]
    for entry in ordered:
        shown.append(Row(entry["searcher"], entry["plan"], None, entry["test_top1"] / 100, None, none, None, None))
    sites = tuple(ordered[-1]["plan"])
    return Report("ResNet-56 on CIFAR-10", str(BUDGET), "", "", "", tuple(shown), {}, sites, (), (), {})


def row(name: str, network: torch.nn.Module, setting: Setting, test: Any) -> dict[str, Any]:
    """Search with one searcher, prune by its best plan, and look at the test images once."""
    done = setting.runs / name / "row.json"
    if done.exists():
        return json.loads(done.read_text())
    dataset = shared_assets.cifar10()
    parts = split(dataset, setting.reward, setting.calibration, seed=0)
    images, labels = shared_assets.training_images(dataset, parts.reward)
    calibration = [shared_assets.training_images(dataset, parts.calibration)[0]]
    searcher, trials = setting.searchers[name]
    clock = Clock(setting.runs / name / "seconds.json", name, trials)
    study = sc.search(
        network,
        images[:1],
        evaluate=sc.accuracy(images, labels),
        calibration=calibration,
        budget=BUDGET,
        searcher=searcher,
        trials=trials,
        folder=setting.runs / name,
        settings=sc.SearchSettings(workers=setting.workers, race=True),
        on_trial=clock,
    )
    small = sc.prune(network, images[:1], study.best.plan, calibration=calibration)
    entry = {
        "searcher": name,
        "seed": searcher.seed,
        "trials": trials,
        "reward_top1": 100 * study.best.outcome.score,
        "test_top1": 100 * test(small),
        "macs_fraction": 100 * count_costs(small, images[:1]).macs / count_costs(network, images[:1]).macs,
        "search_minutes": clock.seconds / 60,
        "searched_at": record.commit(),
        "plan": study.best.plan.to_json(),
    }
    done.write_text(json.dumps(entry))
    return entry


class Clock:
    """Adds up a search's wall time over interruptions, and prints a line now and then."""

    def __init__(self, place: Path, name: str, trials: int) -> None:
        self.place, self.name, self.trials = place, name, trials
        self.seconds = json.loads(place.read_text()) if place.exists() else 0.0
        self.last = time.perf_counter()

    def __call__(self, study: sc.Study, trial: sc.Trial) -> None:
        """After each trial."""
        now = time.perf_counter()
        self.seconds, self.last = self.seconds + now - self.last, now
        self.place.write_text(json.dumps(self.seconds))
        if (trial.number + 1) % 20 == 0 or trial.number + 1 == self.trials:
            best = study.best.outcome
            print(
                f"{self.name} {trial.number + 1}/{self.trials}: best {100 * best.score:.2f} "
                f"({self.seconds / 60:.1f} min)",
                flush=True,
            )


if __name__ == "__main__":
    main()
