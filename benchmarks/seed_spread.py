"""How far test top-1 would spread over seeds if every seed had found an equally good network: by the images' chance.

The default searcher's plans, one a seed, from searchers.py, are pruned for good once more and looked at image by image.
On an image some seeds' networks are right and others wrong; were that chance alone, the mean over n images would have
a deviation of sqrt(sum of the variances over seeds) / n. Beside it stands the deviation that there is. Takes
minutes a network, on one core (`--network mobilenet_v1`); `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt
import record
import torch
from searchers import SEEDS
from searching import DEFAULT, Search, prepare, recall, run_all
from torch import nn

import secateur as sc

NETWORKS = ("resnet20", "resnet56", "mobilenet_v1")


def main() -> None:
    """Look at the networks of every seed, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only this one (may be repeated)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recall()
    if options.quick:
        tried = [Search("resnet20", DEFAULT, seed, trials=4, quick=True) for seed in range(2)]
        run_all(tried)
        rows = [row_of(tried)]
    else:
        before = {row["network"]: row for row in record.known("seed_spread")}
        for name in options.network or NETWORKS:
            before[name] = row_of([Search(name, DEFAULT, seed) for seed in range(SEEDS[name])])
        rows = list(before.values())
    shown = ("network", "images", "top-1 of each seed", "deviation", "by chance")
    title = "the default searcher, half the MACs, no fine-tuning"
    record.show(title, [{key: row[key] for key in shown} for row in rows])
    if not options.quick:
        figures = {
            f"{row['network']}_{name}": row[key]
            for row in rows
            for name, key in (("deviation", "deviation"), ("deviation_by_chance", "by chance"))
        }
        print(f"written to {record.write('seed_spread', figures, rows).relative_to(record.HERE.parent)}")


def row_of(searches: list[Search]) -> dict[str, Any]:
    """The seeds of a network that have been searched: how far they are apart, and how far they would be by chance."""
    space, pruner, _, test, _ = prepare(searches[0])
    done = [search for search in searches if search.place().exists()]
    plans = [sc.Plan.from_json(plan) for search in done for plan in search.found()["plans"].values()]
    right = np.stack([look(test, pruner.final(space.counts(plan))) for plan in plans])
    tops = 100 * right.mean(1)
    return {
        "network": searches[0].network,
        "images": right.shape[1],
        "seeds": len(right),
        "top-1 of each seed": ", ".join(f"{top:.2f}" for top in tops),
        "deviation": float(tops.std()),
        "by chance": by_chance(right),
        "seeds disagree on, %": 100 * float(np.mean(right.min(0) != right.max(0))),
    }


def look(test: Any, network: nn.Module) -> npt.NDArray[np.float64]:
    """Which test images a network gets right, [images] of 0 and 1."""
    *_, right = test.stages(network.eval())
    return np.asarray(right, np.float64)


def by_chance(right: npt.NDArray[np.float64]) -> float:
    """The deviation of top-1, in points, of equally good networks that are right as often as these [seeds, images]."""
    return float(100 * np.sqrt(right.var(0).sum()) / right.shape[1])


if __name__ == "__main__":
    main()
