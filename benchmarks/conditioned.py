"""One search for all budgets from 30 to 70 % of the MACs, against a search for each of 30, 50 and 70 %.

ResNet-56 on CIFAR-10. The one search gets as many trials as it may cost (1.3 times one of the others). At each budget
its own answer is cut and looked at on the test images beside the dedicated search's best plan; no fine-tuning.
`--quick` (a minute, ResNet-20) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import shared_assets
import torch

import secateur as sc

POINTS = (0.3, 0.5, 0.7)
RANGE = (0.3, 0.7)


def main() -> None:
    """Run what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    name, trials, seeds = ("resnet20", 6, 1) if quick else ("resnet56", 100, 3)
    runs = record.HERE / "runs" / ("conditioned_quick" if quick else "conditioned")
    rows = []
    for seed in range(seeds):
        one = kept(runs / f"range_{seed}.json", name, sc.Budget(macs=RANGE), round(1.3 * trials), seed)
        for point in POINTS:
            own = kept(runs / f"{point}_{seed}.json", name, sc.Budget(macs=point), trials, seed)
            rows.append(
                {
                    "seed": seed,
                    "macs": point,
                    "one search for all": one["test_top1"][str(point)],
                    "a search of its own": own["test_top1"][str(point)],
                    "seconds, all": one["seconds"],
                    "seconds, own": own["seconds"],
                }
            )
    record.show(f"{name}, no fine-tuning, test top-1", rows)
    if not quick:
        print(f"written to {record.write('conditioned', figures(rows), rows).relative_to(record.HERE.parent)}")


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The worst gap of a budget's mean over the seeds, and what the one search cost over one of the others."""
    gaps = {
        point: np.mean([row["a search of its own"] - row["one search for all"] for row in rows if row["macs"] == point])
        for point in POINTS
    }
    cost = np.mean([row["seconds, all"] for row in rows]) / np.mean([row["seconds, own"] for row in rows])
    found = {f"gap_at_{100 * point:.0f}": float(gap) for point, gap in gaps.items()}
    return {**found, "worst_gap_points": float(max(gaps.values())), "cost_ratio": float(cost)}


def kept(place: Path, name: str, budget: sc.Budget, trials: int, seed: int) -> dict[str, Any]:
    """Search, cut at every budget it serves, look at the test images; or what is left of having done so."""
    if not place.exists():
        network, reward, calibration, test = shared_assets.materials(name, 1000, 1500, None)
        moments: list[float] = [time.perf_counter()]
        study = sc.search(
            network,
            reward[:1],
            evaluate=sc.agreement(network, reward),
            calibration=[calibration],
            budget=budget,
            searcher=sc.Bayesian(seed=seed),
            trials=trials,
            settings=sc.SearchSettings(workers=2, race=True),
            on_trial=lambda study, trial: moments.append(time.perf_counter()),
        )
        points = POINTS if budget.is_range else (float(budget.limits(sc.Costs(1, 1, 1))[0]),)
        top1 = {}
        for point in points:
            plan = study.plan(sc.Budget(macs=point)) if budget.is_range else study.best.plan
            top1[str(point)] = 100 * test(sc.prune(network, reward[:1], plan, calibration=[calibration]))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"test_top1": top1, "seconds": moments[-1] - moments[0], "trials": trials}))
        print(place.stem, top1, flush=True)
    return dict(json.loads(place.read_text()))


if __name__ == "__main__":
    main()
