"""What a search on ResNet-20 saves one on ResNet-56, both with entries: trials to reach what a cold start finds in 100.

Both start from the same seed and are scored alike; the warm one begins with the weights of the loss curves that
the search on ResNet-20 left. Interrupted, it resumes. `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import record
from searching import DEFAULT, LEARNT, WARM, Search, run_all, teacher


def main() -> None:
    """Run what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    quick = options.quick
    trials, seeds, target = (6, 1, "resnet20") if quick else (100, options.seeds, "resnet56")
    cold = [Search(target, DEFAULT, seed, trials=trials, quick=quick) for seed in range(seeds)]
    warm = [Search(target, WARM, seed, trials=trials, quick=quick) for seed in range(seeds)]
    run_all((teacher(search) for search in warm), LEARNT)
    run_all([*cold, *warm])
    rows = [row_of(one.found(), other.found()) for one, other in zip(cold, warm, strict=True)]
    record.show(f"ResNet-20 -> {target}: best agreement so far", rows)
    if not quick:
        print(f"written to {record.write('transfer', figures(rows, trials), rows).relative_to(record.HERE.parent)}")


def row_of(cold: dict[str, Any], warm: dict[str, Any]) -> dict[str, Any]:
    """A cold and a warm start of one seed."""
    reached = [number for number, best in enumerate(warm["best"], start=1) if best >= cold["best"][-1]]
    return {
        "seed": cold["seed"],
        "cold, after 1": cold["best"][0],
        "cold, at the end": cold["best"][-1],
        "warm, after 1": warm["best"][0],
        "warm, at the end": warm["best"][-1],
        "warm trials to the cold end": reached[0] if reached else None,
        "cold trials to it": 1 + cold["best"].index(cold["best"][-1]),
        "cold test top-1": max(cold["test_top1"].values()),
        "warm test top-1": max(warm["test_top1"].values()),
    }


def figures(rows: list[dict[str, Any]], trials: int) -> dict[str, float]:
    """Warm trials over the cold start's; a search that never got there counts as all of its trials."""
    needed = [row["warm trials to the cold end"] or trials for row in rows]
    return {
        "trials_ratio": float(np.mean(needed)) / trials,
        "trials_ratio_of_the_cold_best": float(np.mean(needed))
        / float(np.mean([row["cold trials to it"] for row in rows])),
        "never_reached": float(sum(row["warm trials to the cold end"] is None for row in rows)),
        "gain_at_first_trial": float(np.mean([row["warm, after 1"] - row["cold, after 1"] for row in rows])),
        "gain_at_the_end": float(np.mean([row["warm, at the end"] - row["cold, at the end"] for row in rows])),
        "gain_of_test_top1": float(np.mean([row["warm test top-1"] - row["cold test top-1"] for row in rows])),
    }


if __name__ == "__main__":
    main()
