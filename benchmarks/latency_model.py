"""Latency by a table of layers against latency measured: random plans of two networks, on three runtimes.

For each network and runtime a table is made as `secateur profile` does; then 20 random plans that it has not seen are
exported, timed on one thread, all taking turns in small batches with the dense network, and compared with what the
table says. As machines drift, both are compared as fractions of the dense network's time. Tables and times are kept in
benchmarks/runs/latency_model. What the Pixel 1 profile's own benchmark (pixel1.py) found stands beside them. Takes
three quarters of an hour on a machine that does nothing else; `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record
import shared_assets
import torch

import secateur as sc
from secateur.commands.profiling import STEP, How, make_table
from secateur.cost import NetworkCost, latency_model
from secateur.graph import Example, as_inputs, positional
from secateur.prune import Cutter, fold_norms
from secateur.runtimes import runtime_called
from secateur.runtimes.sessions import Array, median_ms, open_session
from secateur.search import SearchSpace, SpaceSettings

NETWORKS = ("resnet56", "mobilenet_v1")
RUNTIMES = ("onnxruntime", "executorch", "ncnn")
PLANS = 20
LOOKS = 7
"""Times that plans and dense network are opened and timed in turns, of which the least counts, as in a table."""


def main() -> None:
    """Measure what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    parser.add_argument("--done", action="store_true", help="measure nothing: write what is done so far")
    options = parser.parse_args()
    quick = options.quick
    torch.set_num_threads(1)
    runs = record.HERE / "runs" / ("latency_model_quick" if quick else "latency_model")
    cases = [("resnet20", "ncnn")] if quick else [(name, runtime) for name in NETWORKS for runtime in RUNTIMES]
    if options.done:
        cases = [(name, runtime) for name, runtime in cases if (runs / f"{name}_{runtime}_times.json").exists()]
    rows = [compare(name, runtime, runs, 4 if quick else PLANS) for name, runtime in cases]
    record.show("predicted against measured, as fractions of the dense network's time", [shown(row) for row in rows])
    if not quick:
        pixel1 = json.loads((record.HERE / "results" / "pixel1.json").read_text())
        figures = {"pixel1_worst_error": pixel1["figures"]["worst_error"]}
        for row in rows:
            figures[f"{row['network']}_{row['runtime']}_median_error"] = row["median error"]
            figures[f"{row['network']}_{row['runtime']}_rank_correlation"] = row["rank correlation"]
        print(f"written to {record.write('latency_model', figures, rows).relative_to(record.HERE.parent)}")


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table on the terminal."""
    return {key: f"{value:.3f}" if isinstance(value, float) else value for key, value in row.items() if key != "plans"}


def compare(name: str, runtime: str, runs: Path, plans: int) -> dict[str, Any]:
    """Both for every plan of one network on one runtime."""
    pixels = 224 if name == "mobilenet_v1" else 32
    model = shared_assets.mobilenet_v1() if name == "mobilenet_v1" else shared_assets.resnet(56)
    return compared(name, (model, torch.zeros(1, 3, pixels, pixels)), runtime, runs, plans)


def compared(
    name: str, network: tuple[torch.nn.Module, Example], runtime: str, runs: Path, plans: int
) -> dict[str, Any]:
    """The same of a network and an example of its inputs."""
    runs.mkdir(parents=True, exist_ok=True)
    model, example = network
    space = SearchSpace(sc.inspect(model, example), sc.Budget(macs=1.0), SpaceSettings(step=STEP))
    place = runs / f"{name}_{runtime}.json"
    if not place.exists():
        place.write_text(json.dumps(make_table(model, example, space, How(runtime))))
    cost = NetworkCost(space.graph, latency_model(str(place)))
    drawn = np.random.default_rng(1)
    most = drawn.uniform(0.2, 1.0, plans)
    counts = [{site.key: site.count(drawn.uniform(0.1, top)) for site in space.sites} for top in most]
    times = runs / f"{name}_{runtime}_times.json"
    if not times.exists():
        times.write_text(json.dumps(measured(model, example, space, runtime, counts)))
    true = np.array(json.loads(times.read_text()))
    said = np.array([cost(each) / cost.dense for each in counts])
    errors = np.abs(said / true - 1)
    ranks = (np.argsort(np.argsort(each)) for each in (said, true))
    return {
        "network": name,
        "runtime": runtime,
        "median error": float(np.median(errors)),
        "worst error": float(errors.max()),
        "rank correlation": float(np.corrcoef(*ranks)[0, 1]),
        "fastest plan, of dense": float(true.min()),
        "plans": [{"predicted": float(a), "measured": float(b)} for a, b in zip(said, true, strict=True)],
    }


def measured(
    model: torch.nn.Module, example: Example, space: SearchSpace, runtime: str, plans: list[dict[str, int]]
) -> list[float]:
    """Latency of every plan over that of the dense network, which takes turns with them."""
    chosen, cutter = runtime_called(runtime), Cutter(model, space.graph)
    dense = {site.key: site.width for site in space.sites}
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / f"plan{number}{chosen.suffix}" for number in range(1 + len(plans))]
        for place, counts in zip(places, [dense, *plans], strict=True):
            kept = {key: np.arange(count) for key, count in counts.items()}
            cut, tensors = positional(fold_norms(cutter.cut(kept), space.graph), as_inputs(example))
            chosen.convert(cut, tensors, place)
        looks = [look(runtime, places, [x.numpy() for x in tensors]) for _ in range(LOOKS)]
    least = np.min(looks, axis=0)
    return [float(taken / least[0]) for taken in least[1:]]


def look(runtime: str, places: list[Path], inputs: list[Array]) -> list[float]:
    """Milliseconds of all files, newly opened."""
    sessions = {place.name: open_session(runtime, place) for place in places}
    taken = [*median_ms(sessions, inputs, rounds=10, least_ms=50).values()]
    print(f"{runtime}: dense {taken[0]:.2f} ms, plans {min(taken[1:]):.2f} to {max(taken[1:]):.2f} ms", flush=True)
    return taken


if __name__ == "__main__":
    main()
