"""What a search on ResNet-20 saves a search on ResNet-56: trials to reach what a cold start reaches in 100.

Both start from the same seed and are scored alike; the warm one begins with the weights of the loss curves that
the search on ResNet-20 left in its run folder. `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import record
import shared_assets
import torch

import secateur as sc

BUDGET = sc.Budget(macs=0.5)


def main() -> None:
    """Run what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    trials, seeds, target = (6, 1, "resnet20") if quick else (100, 5, "resnet56")
    runs = record.HERE / "runs" / ("transfer_quick" if quick else "transfer")
    rows = []
    for seed in range(seeds):
        taught = runs / f"teacher_{seed}" / "searcher.safetensors"
        curve(runs / f"teacher_{seed}", "resnet20", sc.Bayesian(seed=seed), trials)
        cold = curve(runs / f"cold_{seed}", target, sc.Bayesian(seed=seed), trials)
        warm = curve(runs / f"warm_{seed}", target, sc.Bayesian(seed=seed, prior=str(taught)), trials)
        reached = [number for number, best in enumerate(warm, start=1) if best >= cold[-1]]
        rows.append(
            {
                "seed": seed,
                "cold, after 1": cold[0],
                "cold, at the end": cold[-1],
                "warm, after 1": warm[0],
                "warm, at the end": warm[-1],
                "warm trials to the cold end": reached[0] if reached else None,
                "cold trials to it": 1 + cold.index(cold[-1]),
            }
        )
    record.show(f"ResNet-20 -> {target}: best agreement so far", rows)
    if not quick:
        print(f"written to {record.write('transfer', figures(rows, trials), rows).relative_to(record.HERE.parent)}")


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
    }


def curve(folder: Path, name: str, searcher: sc.Bayesian, trials: int) -> list[float]:
    """The best score after each trial, from the folder if the search is done."""
    place = folder / "curve.json"
    if not place.exists():
        shutil.rmtree(folder, ignore_errors=True)  # a search cut short would resume, but its curve is gone
        network, reward, calibration, _ = shared_assets.materials(name, 1000, 1500, None)
        best: list[float] = []
        sc.search(
            network,
            reward[:1],
            evaluate=sc.agreement(network, reward),
            calibration=[calibration],
            budget=BUDGET,
            searcher=searcher,
            trials=trials,
            folder=folder,
            settings=sc.SearchSettings(workers=2, race=True),
            on_trial=lambda study, trial: best.append(study.best.outcome.score),
        )
        place.write_text(json.dumps(best))
        print(folder.name, f"{best[0]:.4f} -> {best[-1]:.4f}", flush=True)
    return list(json.loads(place.read_text()))


if __name__ == "__main__":
    main()
