"""Half the MACs and half the time, for real: MobileNet-V1 and ResNet-56 on every runtime, one thread.

For each network two searches, of 100 trials, or 200 for ResNet-56, which has twice the sites: one for half the MACs,
one for half the milliseconds on ONNX Runtime, by a table made as `secateur profile` does, aimed at and held by
measurement (`measured`, `sc.meet`). Both plans are pruned for good, without fine-tuning, and timed on every installed
runtime, taking turns with the dense network. Beside the plan for half the time stands what the search for MACs has to
offer in the same time. MobileNet-V1 is also searched for half the time of the Pixel 1, by its profile. What is done
lies in benchmarks/runs/speed. Takes an hour; `--quick` (minutes, ResNet-20) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import record
import shared_assets
import torch
from searching import QUICK, SETTINGS
from torch import nn

import secateur as sc
from secateur import zoo
from secateur.commands.profiling import STEP, How, make_table
from secateur.search import SearchSpace

NETWORKS = ("resnet56", "mobilenet_v1")
RUNTIME = "onnxruntime"
"""The runtime that is searched for."""
SPACES = {"resnet56": sc.SpaceSettings(streams=True), "resnet20": sc.SpaceSettings(streams=True)}
"""With whole residual streams, what lies between the insides of blocks takes half the time at any budget. So that they
can be cut, the networks' padded shortcuts are written as convolutions that copy."""
TRIALS = {"resnet20": 6, "resnet56": 200, "mobilenet_v1": 100}
HALVINGS = 12


def main() -> None:
    """Do what is missing, print the tables, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of some minutes; writes no result")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="run only this one (may be repeated)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick = options.quick
    names = ["resnet20"] if quick else options.network or NETWORKS
    for name in names:
        kept(Speed(name, quick))
    found = [kept(part) for name in ({*names} if quick else NETWORKS) if (part := Speed(name, quick)).place.exists()]
    record.show("no fine-tuning, test top-1", [line for each in found for line in lines(each)])
    record.show(
        "dense / pruned, one thread", [{"network": x["network"], **row} for x in found for row in x["runtimes"]]
    )
    if not quick:
        figures = {key: value for each in found for key, value in figures_of(each).items()}
        print(f"written to {record.write('speed', figures, found).relative_to(record.HERE.parent)}")


def kept(speed: Speed) -> dict[str, Any]:
    """What a network's part found, from its file if it is there."""
    if not speed.place.exists():
        speed.runs.mkdir(parents=True, exist_ok=True)
        speed.place.write_text(json.dumps(speed.found(), indent=1))
    return dict(json.loads(speed.place.read_text()))


def lines(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the first table."""
    names = ("MACs, %", "predicted speed-up", "top-1")
    rows = found["plans"].items()
    return [{"network": found["network"], "plan": plan, **{name: row[name] for name in names}} for plan, row in rows]


def figures_of(found: dict[str, Any]) -> dict[str, float]:
    """Speed-ups by runtime and plan, and top-1 by plan."""
    name = found["network"]
    figures = {f"{name}_{plan}_top1": row["top-1"] for plan, row in found["plans"].items()}
    for row in found["runtimes"]:
        figures |= {f"{name}_{row['runtime']}_{plan}_speedup": row[plan] for plan in ("half_macs", "half_time")}
    if "pixel1_half_time" in found["plans"]:
        figures[f"{name}_pixel1_half_time_speedup"] = found["plans"]["pixel1_half_time"]["predicted speed-up"]
    return figures


@dataclass(frozen=True)
class Speed:
    """One network's part."""

    name: str
    quick: bool

    @property
    def runs(self) -> Path:
        """Where it keeps what is done."""
        return record.HERE / "runs" / ("speed_quick" if self.quick else "speed")

    @property
    def place(self) -> Path:
        """Where its result is, once it is done."""
        return self.runs / f"{self.name}.json"

    @cached_property
    def materials(self) -> Any:
        """The network, images to score plans on, images to refit on, and its test score."""
        size = QUICK if self.quick else SETTINGS[self.name]
        network, *rest = shared_assets.materials(self.name, size.reward, size.calibration, size.report)
        return zoo.with_copying_shortcuts(network) if self.name in SPACES else network, *rest

    @cached_property
    def table(self) -> Path:
        """The latency table of the network, made if it is not there."""
        place = self.runs / f"{self.name}_table.json"
        if not place.exists():
            network, images, *_ = self.materials
            settings = replace(SPACES.get(self.name, sc.SpaceSettings()), step=STEP)
            space = SearchSpace(sc.inspect(network, images[:1]), sc.Budget(macs=1.0), settings)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(make_table(network, images[:1], space, How(RUNTIME))))
        return place

    def search(self, budget: sc.Budget, latency: str) -> sc.Study:
        """A search in a folder of its own: interrupted, it goes on."""
        network, images, calibration, _ = self.materials
        device = latency if latency == "pixel1" else "table"
        measured = budget.metric == "latency_ms" and device == "table"
        engine, space = "torch" if self.quick else SETTINGS[self.name].engine, SPACES.get(self.name, sc.SpaceSettings())
        return sc.search(
            network,
            images[:1],
            evaluate=sc.agreement(network, images, batch=100 if images.shape[-1] < 64 else 25),
            calibration=[calibration],
            budget=budget,
            trials=TRIALS[self.name],
            folder=self.runs / f"{self.name}_{budget.metric}_{device}",
            settings=sc.SearchSettings(space, race=True, latency=latency, measured=measured, engine=engine),
            on_trial=lambda study, trial: print(f"\r{self.name}, {budget}: {len(study.trials)}", end="", flush=True),
        )

    def found(self) -> dict[str, Any]:
        """Search, prune, time."""
        network, images, *_ = self.materials
        by_macs = self.search(sc.Budget(macs=0.5), str(self.table))
        by_time = self.search(sc.Budget(latency_ms=0.5), str(self.table))
        met = sc.meet(by_time, network, images[:1])
        plans = {"half_macs": by_macs.best.plan, "half_time": met.plan, "macs_in_that_time": as_slow(by_macs, met.plan)}
        pruned = {name: self.pruned(plan) for name, plan in plans.items()}
        rows = {name: self.row(by_time, plan, pruned[name]) for name, plan in plans.items()}
        if self.name == "mobilenet_v1":
            phone = self.search(sc.Budget(latency_ms=0.5), "pixel1")
            rows["pixel1_half_time"] = self.row(phone, phone.best.plan, self.pruned(phone.best.plan))
        timed = sc.measure({"dense": network, **pruned}, images[:1])
        ms = {(each.runtime, each.network): each.latency_ms for each in timed}
        runtimes = [
            {"runtime": runtime, **{name: ms[runtime, "dense"] / ms[runtime, name] for name in plans}}
            for runtime in dict.fromkeys(each.runtime for each in timed)
        ]
        return {"network": self.name, "plans": rows, "runtimes": runtimes, "tries": met.tries}

    def pruned(self, plan: sc.Plan) -> nn.Module:
        """The network pruned for good."""
        network, images, calibration, _ = self.materials
        return sc.prune(network, images[:1], plan, calibration=[calibration])

    def row(self, study: sc.Study, plan: sc.Plan, pruned: nn.Module) -> dict[str, Any]:
        """What one plan is, by the study's prices and on the test images."""
        costs = study.space.costs(study.space.counts(plan))
        return {
            "MACs, %": 100 * costs.macs / study.dense.costs.macs,
            "predicted speed-up": study.dense.costs["latency_ms"] / costs["latency_ms"],
            "top-1": 100 * self.materials[3](pruned),
            "plan_as_json": plan.to_json(),
        }


def as_slow(study: sc.Study, plan: sc.Plan) -> sc.Plan:
    """What a search for MACs believes best of all that take no longer than `plan`, by the table."""
    space = study.space
    time = space.prices["latency_ms"]
    allowed = time(space.counts(plan))
    low, high = space.cost({site.key: site.least for site in space.sites}), space.cost.dense
    found = study.under(low)
    for _ in range(HALVINGS):
        middle = study.under((low + high) / 2)
        if time(space.counts(middle)) <= allowed:
            low, found = (low + high) / 2, middle
        else:
            high = (low + high) / 2
    return found


if __name__ == "__main__":
    main()
