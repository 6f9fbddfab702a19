"""Every reward, and a budget in every metric, on ResNet-20 and CIFAR-10: what the default searcher finds by each.

100 trials each, scored by agreement on 1,000 augmented training images; latency is the Pixel 1 profile's, energy the
estimate's. The plan found is pruned for good, without fine-tuning, and looked at on the test images once; what is done
lies in benchmarks/runs/rewards. Takes a quarter of an hour; `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import shared_assets
import torch

import secateur as sc

WHOLE = (0.25, 1.0)
"""What rewards that weigh cost themselves may choose from, of MACs or parameters."""
CASES: dict[str, tuple[sc.Budget, Any]] = {
    "half the MACs": (sc.Budget(macs=0.5), None),
    "half the parameters": (sc.Budget(params=0.5), None),
    "70 % of the time": (sc.Budget(latency_ms=0.7), None),
    "70 % of the energy": (sc.Budget(energy_mj=0.7), None),
    "accuracy-guaranteed, log(MACs)": (sc.Budget(macs=WHOLE), sc.AccuracyGuaranteed("macs", 0.02)),
    "accuracy-guaranteed, log(#Param)": (sc.Budget(params=WHOLE), sc.AccuracyGuaranteed("params", 0.02)),
    "composite, time 1, accuracy -2": (sc.Budget(macs=WHOLE), sc.Composite(alpha=1, beta=-2)),
    "composite, time 1, accuracy -10": (sc.Budget(macs=WHOLE), sc.Composite(alpha=1, beta=-10)),
    "composite, quadratic accuracy": (sc.Budget(macs=WHOLE), sc.Composite(alpha=1, beta=-50, g="quadratic")),
    "composite, power 1, accuracy -2": (sc.Budget(macs=WHOLE), sc.Composite(alpha=0, beta=-2, gamma=1)),
}


SIZES = (1000, 1500, None)
"""Images that score plans, that the refits look at, and that report (all)."""
FIGURES = {"top1": "test top-1", "macs": "macs", "params": "params", "latency": "latency_ms", "energy": "energy_mj"}


def main() -> None:
    """Search what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    runs = record.HERE / "runs" / ("rewards_quick" if quick else "rewards")
    runs.mkdir(parents=True, exist_ok=True)
    cases = dict([*CASES.items()][3:6] if quick else CASES)
    rows = [found(name, number, runs, quick) for number, name in enumerate(CASES) if name in cases]
    record.show("ResNet-20, CIFAR-10, no fine-tuning; costs in % of the dense network", rows)
    if not quick:
        network, *_, test = shared_assets.materials("resnet20", *SIZES)
        figures = {"dense_top1": 100 * test(network)}
        figures |= {f"{key(row[''])}_{what}": row[column] for row in rows for what, column in FIGURES.items()}
        print(f"written to {record.write('rewards', figures, rows).relative_to(record.HERE.parent)}")


def found(name: str, number: int, runs: Path, quick: bool) -> dict[str, Any]:
    """The row of one reward, from its file if it is there."""
    place = runs / f"{number}.json"
    if not place.exists():
        place.write_text(json.dumps({"": name, **search(*CASES[name], quick)}))
        print(place.read_text(), flush=True)
    return dict(json.loads(place.read_text()))


def key(name: str) -> str:
    """A case's name in the figures."""
    return "_".join(re.findall(r"[a-z0-9-]+", name.lower())).replace("-", "_")


def search(budget: sc.Budget, reward: Any, quick: bool) -> dict[str, Any]:
    """Search, prune, look at the test images."""
    sizes = (100, 100, 200) if quick else SIZES
    network, images, calibration, test = shared_assets.materials("resnet20", *sizes)
    settings = sc.SearchSettings(workers=2, race=True, latency="pixel1", energy="estimate")
    if reward is not None:
        settings = replace(settings, reward=reward)
    study = sc.search(
        network,
        images[:1],
        evaluate=sc.agreement(network, images),
        calibration=[calibration],
        budget=budget,
        trials=6 if quick else 100,
        settings=settings,
    )
    guaranteed = isinstance(reward, sc.AccuracyGuaranteed)
    best, dense = study.smallest(reward.tolerance, reward.metric) if guaranteed else study.best, study.dense.costs
    small = sc.prune(network, images[:1], best.plan, calibration=[calibration])
    costs = {metric: 100 * best.outcome.costs[metric] / dense[metric] for metric in dense.known}
    return {"test top-1": 100 * test(small), "agreement": best.outcome.score, **costs}


if __name__ == "__main__":
    main()
