"""One search for all budgets from 30 to 70 % of the MACs, against a search for each of 30, 50 and 70 %.

ResNet-56 on CIFAR-10. The one search gets fewer trials, as each takes longer; what it costs stands in the result. At
each budget its own answer is cut (of what it believes best and the best it has tried there, the one that scores higher
once finished) and looked at on the test images beside the dedicated search's best plan; no fine-tuning. Interrupted, it
resumes. `--quick` (a minute, ResNet-20) only shows that it still works.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import record
from searching import DEFAULT, POINTS, Search, run_all

SHARE = 0.75
"""Trials of the one search, over those of each of the others: each takes longer, as over a range fewer are hopeless."""


def main() -> None:
    """Run what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    quick = options.quick
    name, trials, seeds = ("resnet20", 6, 1) if quick else ("resnet56_inner", 100, options.seeds)
    at_once = [
        Search(name, DEFAULT, seed, (POINTS[0], POINTS[-1]), round(SHARE * trials), quick) for seed in range(seeds)
    ]
    own = {point: [Search(name, DEFAULT, seed, point, trials, quick) for seed in range(seeds)] for point in POINTS}
    run_all([*at_once, *(search for searches in own.values() for search in searches)])
    rows = [
        row_of(point, one.found(), other.found())
        for point in POINTS
        for one, other in zip(at_once, own[point], strict=True)
    ]
    record.show(f"{name}, no fine-tuning, test top-1", rows)
    if not quick:
        plans = at_once[0].found()["plans"]
        record.draw(
            "conditioned", "ResNet-56 on CIFAR-10", {f"{100 * at:.0f} %": plans[str(at)] for at in POINTS[::-1]}
        )
        print(f"written to {record.write('conditioned', figures(rows), rows).relative_to(record.HERE.parent)}")


def row_of(point: float, one: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Both answers to a budget."""
    return {
        "macs": point,
        "seed": one["seed"],
        "one search for all": one["test_top1"][str(point)],
        "a search of its own": own["test_top1"][str(point)],
        "seconds, all": one["seconds"][-1],
        "seconds, own": own["seconds"][-1],
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The worst gap of a budget's mean over the seeds, and what the one search cost over one of the others."""
    gaps = {
        point: np.mean([row["a search of its own"] - row["one search for all"] for row in rows if row["macs"] == point])
        for point in POINTS
    }
    cost = np.mean([row["seconds, all"] for row in rows]) / np.mean([row["seconds, own"] for row in rows])
    found = {f"gap_at_{100 * point:.0f}": float(gap) for point, gap in gaps.items()}
    return {**found, "worst_gap_points": float(max(gaps.values())), "cost_ratio": float(cost)}


if __name__ == "__main__":
    main()
