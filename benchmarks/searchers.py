"""Every searcher at equal trials and at equal seconds, over networks and seeds: which one finds the better plan?

Half the MACs, no fine-tuning; how a search is run and kept says searching.py. The table has means and standard
deviations over seeds, the figure every searcher's best agreement so far, trial by trial. Interrupted, it resumes.
`--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
from typing import Any

import matplotlib as mpl
import numpy as np
import record
from matplotlib.figure import Figure
from searching import DEFAULT, INNER, SETTINGS, STRATEGIES, Search, run_all

FIXED = ("greedy",)
"""Searchers that propose one plan: a single trial of a single seed says all."""
SEEDS = {"resnet20": 5, "resnet56": 5, "mobilenet_v1": 3, "resnet20_inner": 5, "resnet56_inner": 5}
NARROW = ("random", DEFAULT)
"""Beside the residual networks with entries, the same without: what the wider space is worth."""
Runs = dict[str, list[dict[str, Any]]]


def main() -> None:
    """Run what is missing, print the table, write the result and its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    parser.add_argument("--network", choices=SETTINGS, action="append", help="run only this one (may be repeated)")
    parser.add_argument("--seeds", type=int, default=5, help="run no more seeds than this")
    parser.add_argument("--anew", choices=STRATEGIES, action="append", default=[], help="run these once more")
    options = parser.parse_args()
    wanted = ["resnet20"] if options.quick else options.network or [*SETTINGS]
    for network in wanted:
        asked = searches(network, 1 if options.quick else min(options.seeds, SEEDS[network]), options.quick)
        run_all(
            (search for search in asked if not options.anew or search.searcher in options.anew),
            anew=bool(options.anew),
        )
    done = {network: runs(network, options.quick) for network in (wanted if options.quick else SETTINGS)}
    found = {network: by_searcher for network, by_searcher in done.items() if {DEFAULT, "random"} <= by_searcher.keys()}
    rows = [row for network, by_searcher in found.items() for row in summary(network, by_searcher)]
    record.show("no fine-tuning, 50 % MACs; mean and standard deviation over seeds", rows)
    if not options.quick:
        figures = {key: value for network, runs in found.items() for key, value in figures_of(network, runs).items()}
        every = [run for by_searcher in done.values() for runs in by_searcher.values() for run in runs]
        place = record.write("searchers", figures, every)
        curves(found, place.with_suffix(".svg"))
        print(f"written to {place.relative_to(record.HERE.parent)}")


def searches(network: str, seeds: int, quick: bool) -> list[Search]:
    """All of a network, seed by seed."""
    trials = 4 if quick else 100
    return [
        Search(network, name, seed, trials=1 if name in FIXED else trials, quick=quick)
        for seed in range(seeds)
        for name in (NARROW if network.endswith(INNER) else STRATEGIES)
        if not (name in FIXED and seed)
    ]


def runs(network: str, quick: bool) -> Runs:
    """What the finished searches of a network found, by searcher."""
    done = [search for search in searches(network, SEEDS[network], quick) if search.place().exists()]
    return {
        name: [search.found() for search in done if search.searcher == name]
        for name in STRATEGIES
        if any(search.searcher == name for search in done)
    }


def top1(run: dict[str, Any]) -> float:
    """Test top-1 of the only plan."""
    return float(*run["test_top1"].values())


def summary(network: str, by_searcher: Runs) -> list[dict[str, Any]]:
    """A row a searcher: test top-1 at equal trials, and the score at 25 trials, at all, and at equal seconds."""
    rows = []
    shortest = min(run["seconds"][-1] for name, found in by_searcher.items() if name not in FIXED for run in found)
    for name, found in by_searcher.items():
        tops, scores = [top1(run) for run in found], [run["best"][-1] for run in found]
        timed = [max([b for s, b in zip(x["seconds"], x["best"], strict=True) if s <= shortest] or [0]) for x in found]
        rows.append(
            {
                "network": network,
                "searcher": name,
                "seeds": len(found),
                "test top-1": f"{np.mean(tops):.2f} +- {np.std(tops):.2f}",
                "agreement": f"{np.mean(scores):.4f}",
                "after 25": f"{np.mean([run['best'][min(24, len(run['best']) - 1)] for run in found]):.4f}",
                f"after {shortest:.0f} s": f"{np.mean(timed):.4f}",
                "s a trial": float(np.mean([run["seconds"][-1] / len(run["seconds"]) for run in found])),
            }
        )
    return rows


def figures_of(network: str, by_searcher: Runs) -> dict[str, float]:
    """Means; gain of the default over random, its spread over seeds, and its margin over the best rival, in points."""
    tops = {name: [top1(run) for run in found] for name, found in by_searcher.items()}
    means = {name: float(np.mean(found)) for name, found in tops.items()}
    best_rival = max(mean for name, mean in means.items() if name != DEFAULT)
    return {
        **{f"{network}_{name}_top1": mean for name, mean in means.items()},
        **{f"{network}_{name}_agreement": float(np.mean([x["score"] for x in f])) for name, f in by_searcher.items()},
        f"{network}_gain_over_random": means[DEFAULT] - means["random"],
        f"{network}_seed_std": float(np.std(tops[DEFAULT])),
        f"{network}_best_rival_margin": means[DEFAULT] - best_rival,
        f"{network}_seeds": float(len(tops[DEFAULT])),
    }


def curves(found: dict[str, Runs], place: Any) -> None:
    """Best agreement so far by trial: the mean over seeds, and their spread for the default and for random."""
    with mpl.rc_context({"svg.hashsalt": "searchers", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5 * len(found), 4), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(found)))
        for panel, (network, by_searcher) in zip(panels, found.items(), strict=True):
            for name, runs in by_searcher.items():
                best = np.array([run["best"] for run in runs])
                trials = np.arange(1, best.shape[1] + 1)
                if name in FIXED:
                    panel.axhline(best.mean(), color="gray", ls=":", label=name)
                    continue
                (line,) = panel.plot(trials, best.mean(0), label=name, lw=2.5 if name == DEFAULT else 1.2)
                if name in (DEFAULT, "random"):
                    panel.fill_between(trials, best.min(0), best.max(0), alpha=0.15, color=line.get_color(), lw=0)
            last = np.concatenate([[run["best"][-1] for run in runs] for runs in by_searcher.values()])
            panel.set(title=network, xlabel="trial", xlim=(1, 100), ylim=(2 * last.min() - last.max(), None))
        panels[0].set_ylabel("best agreement so far")
        panels[-1].legend(fontsize=8)
        figure.savefig(place, metadata={"Date": None})


if __name__ == "__main__":
    main()
