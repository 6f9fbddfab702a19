"""Every reward, and a budget in every metric, on ResNet-20 and CIFAR-10: what the default searcher finds by each.

100 trials each, scored by agreement on 1,000 augmented training images; latency is that of a table made first, on this
machine by ONNX Runtime, energy the estimate's. The plan found is pruned for good, without fine-tuning, and looked at on
the test images once; what is done lies in benchmarks/runs/rewards. Takes half an hour; `--quick` (a minute) only shows
that it still works.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import record
import shared_assets
import torch

import secateur as sc
from secateur.commands.profiling import How, make_table
from secateur.graph import count_costs
from secateur.search import SearchSpace

WHOLE = (0.25, 1.0)
"""What rewards that weigh cost themselves may choose from, of MACs or parameters."""
MOST = (0.6, 1.0)
"""Of time and energy, of which the streams keep more."""
BLOCKS = sc.SpaceSettings(step=4, sparsity={"layer*": "8x8"})


def score_and_size(score: float, costs: sc.Costs, dense: sc.Outcome) -> float:
    """A reward of a user's own: a tenth of the parameters is worth two hundredths of the score."""
    return score - 0.2 * costs.params / dense.costs.params


@dataclass(frozen=True)
class Case:
    """What is asked for."""

    budget: sc.Budget
    reward: Any = sc.SearchSettings().reward
    space: sc.SpaceSettings = field(default_factory=lambda: sc.SpaceSettings(step=4))


CASES = {
    "half the MACs": Case(sc.Budget(macs=0.5)),
    "half the parameters": Case(sc.Budget(params=0.5)),
    "half the bytes": Case(sc.Budget(bytes=0.5)),
    "70 % of the time": Case(sc.Budget(latency_ms=0.7)),
    "70 % of the energy": Case(sc.Budget(energy_mj=0.7)),
    "accuracy-guaranteed, log(MACs)": Case(sc.Budget(macs=WHOLE), sc.AccuracyGuaranteed("macs", 0.02)),
    "accuracy-guaranteed, log(#Param)": Case(sc.Budget(params=WHOLE), sc.AccuracyGuaranteed("params", 0.02)),
    "accuracy-guaranteed, log(time)": Case(sc.Budget(latency_ms=MOST), sc.AccuracyGuaranteed("latency_ms", 0.02)),
    "accuracy-guaranteed, log(energy)": Case(sc.Budget(energy_mj=MOST), sc.AccuracyGuaranteed("energy_mj", 0.02)),
    "composite, time 1, accuracy -2": Case(sc.Budget(macs=WHOLE), sc.Composite(alpha=1, beta=-2)),
    "composite, time 1, accuracy -10": Case(sc.Budget(macs=WHOLE), sc.Composite(alpha=1, beta=-10)),
    "composite, quadratic accuracy": Case(sc.Budget(macs=WHOLE), sc.Composite(alpha=1, beta=-50, g="quadratic")),
    "composite, logarithmic time": Case(sc.Budget(macs=WHOLE), sc.Composite(alpha=1, beta=-2, f="logarithmic")),
    "composite, power 1, accuracy -2": Case(sc.Budget(macs=WHOLE), sc.Composite(alpha=0, beta=-2, gamma=1)),
    "composite, blocks 1, accuracy -2": Case(sc.Budget(macs=WHOLE), sc.Composite(0, -2, delta=1), BLOCKS),
    "a function of one's own": Case(sc.Budget(params=WHOLE), score_and_size),
}
QUICK = ("70 % of the time", "accuracy-guaranteed, log(MACs)", "composite, blocks 1, accuracy -2")


SIZES = (1000, 1500, None)
"""Images that score plans, that the refits look at, and that report (all)."""
FIGURES = {
    "top1": "test top-1",
    "macs": "macs",
    "params": "params",
    "latency": "latency_ms",
    "energy": "energy_mj",
    "bsf": "BSF, %",
}


def main() -> None:
    """Search what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    runs = record.HERE / "runs" / ("rewards_quick" if quick else "rewards")
    runs.mkdir(parents=True, exist_ok=True)
    rows = [found(name, runs, quick) for name in CASES if not quick or name in QUICK]
    record.show("ResNet-20, CIFAR-10, no fine-tuning; costs in % of the dense network", rows)
    if not quick:
        network, images, _, test = shared_assets.materials("resnet20", *SIZES)
        dense = SearchSpace(sc.inspect(network, images[:1]), sc.Budget(macs=1.0), prices=settings(runs).prices).dense
        figures = {"dense_top1": 100 * test(network)} | {f"dense_{metric}": dense[metric] for metric in dense.known}
        figures |= {f"{key(row[''])}_{what}": row[column] for row in rows for what, column in FIGURES.items()}
        print(f"written to {record.write('rewards', figures, rows).relative_to(record.HERE.parent)}")


def found(name: str, runs: Path, quick: bool) -> dict[str, Any]:
    """The row of one reward, from its file if it is there."""
    place = runs / f"{key(name)}.json"
    if not place.exists():
        place.write_text(json.dumps({"": name, **search(CASES[name], runs, quick)}))
        print(place.read_text(), flush=True)
    return dict(json.loads(place.read_text()))


def key(name: str) -> str:
    """A case's name in the figures."""
    return "_".join(re.findall(r"[a-z0-9-]+", name.lower())).replace("-", "_")


def settings(runs: Path, case: Case | None = None) -> sc.SearchSettings:
    """Of a case; the table of latency is made where it is missing."""
    table, case = runs / "table.json", case or CASES["half the MACs"]
    if not table.exists():
        network, images, *_ = shared_assets.materials("resnet20", 1, 1, 1)
        space = SearchSpace(sc.inspect(network, images), sc.Budget(macs=1.0), case.space)
        table.write_text(json.dumps(make_table(network, images, space, How("onnxruntime"))))
    return sc.SearchSettings(case.space, race=True, reward=case.reward, latency=str(table), energy="estimate")


def search(case: Case, runs: Path, quick: bool) -> dict[str, Any]:
    """Search, prune, look at the test images."""
    sizes = (100, 100, 200) if quick else SIZES
    network, images, calibration, test = shared_assets.materials("resnet20", *sizes)
    study = sc.search(
        network,
        images[:1],
        evaluate=sc.agreement(network, images),
        calibration=[calibration],
        budget=case.budget,
        trials=6 if quick else 100,
        settings=settings(runs, case),
    )
    guaranteed = isinstance(case.reward, sc.AccuracyGuaranteed)
    best = study.smallest(case.reward.tolerance, case.reward.metric) if guaranteed else study.best
    small = sc.prune(network, images[:1], best.plan, calibration=[calibration])
    costs, dense = best.outcome.costs, study.dense.costs
    shares = {metric: 100 * costs[metric] / dense[metric] for metric in dense.known}
    blocks = 100 * count_costs(small, images[:1]).block_sparsity
    return {"test top-1": 100 * test(small), "agreement": best.outcome.score, **shares, "BSF, %": blocks}


if __name__ == "__main__":
    main()
