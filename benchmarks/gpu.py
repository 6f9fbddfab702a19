"""What pruning saves on a GPU: time by the clock and energy by NVML's counter, dense against half the MACs.

The plans are those of the committed results (paper_cifar, paper_mobilenet), and for each network the same fraction of
every layer with channels in steps of 8, which are what tensor cores multiply. One image at a time, and 256. A pass is
a recorded CUDA graph; networks take turns for time, and run for seconds each for energy, which counts the whole card.
Needs an NVIDIA GPU and nvidia-ml-py; takes two minutes. `--quick` only shows that it still works, on the CPU, untold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import record
import shared_assets
import torch
from torch import nn

import secateur as sc
from secateur.prune import Cutter, shaped
from secateur.runtimes import GPU, meter_called, torch_session
from secateur.runtimes.sessions import Session, median_ms
from secateur.runtimes.sessions.meters import millijoules
from secateur.search import RULES, SearchSpace, SpaceSettings, apply_rule

RESULTS = {"resnet56": ("paper_cifar", "row"), "mobilenet_v1": ("paper_mobilenet", "widths")}
"""Where the plans for half the MACs are, and by what key our own row is told."""
PIXELS = {"resnet56": 32, "mobilenet_v1": 224}
BATCHES = (1, 256)
SECONDS = 3.0
"""That energy is counted for."""


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few passes of ResNet-56 on the CPU; writes no result")
    quick = parser.parse_args().quick
    runtime = "torch" if quick else GPU
    rows = []
    for name in ["resnet56"] if quick else RESULTS:
        networks = pruned(name)
        for batch in (1,) if quick else BATCHES:
            rows += measured(name, networks, batch, runtime)
    record.show(f"dense / pruned, {runtime if quick else torch.cuda.get_device_name()}", rows)
    if not quick:
        figures = {
            f"{row['network']}_{row['plan']}_n{row['batch']}_{what}": row[what]
            for row in rows
            for what in ("speedup", "energy_ratio", "ms", "mj_an_image", "watts")
        }
        print(f"written to {record.write('gpu', figures, rows).relative_to(record.HERE.parent)}")


def pruned(name: str) -> dict[str, nn.Module]:
    """The dense network and those cut by its plans; what the weights are changes neither time nor energy much."""
    model = shared_assets.mobilenet_v1() if name == "mobilenet_v1" else shared_assets.resnet(56)
    result, key = RESULTS[name]
    rows = json.loads((record.HERE / "results" / f"{result}.json").read_text())["rows"]
    ours = next(
        row
        for row in rows
        if row[key] == "amc" and row.get("budget", "half_macs") == "half_macs" and row.get("network", name) == name
    )
    graph = sc.inspect(model, torch.zeros(1, 3, PIXELS[name], PIXELS[name]))
    fine, coarse = (SearchSpace(graph, sc.Budget(macs=0.5), SpaceSettings(step=step)) for step in (1, 8))
    plans = {"ours": counts_of(ours, fine), "uniform_8": coarse.counts(apply_rule(coarse, RULES["uniform"]))}
    cutter = Cutter(model, graph)
    return {"dense": model, **{plan: shaped(cutter, plans[plan]) for plan in plans}}


def counts_of(row: dict[str, Any], space: SearchSpace) -> Mapping[str, int]:
    """The channels that a committed row keeps."""
    if "plan" in row:
        return space.counts(sc.Plan.from_json(row["plan"]))
    return {group.key: count for group, count in zip(space.graph.prunable, row["channels"], strict=True)}


def measured(name: str, networks: dict[str, nn.Module], batch: int, runtime: str) -> list[dict[str, Any]]:
    """A row for each network."""
    images = torch.randn(batch, 3, PIXELS[name], PIXELS[name])
    sessions = {plan: torch_session(runtime, network, (images,)) for plan, network in networks.items()}
    times = median_ms(sessions, [], rounds=100, least_ms=100)
    rows: list[dict[str, Any]] = [
        {"network": name, "plan": plan, "batch": batch, "ms": times[plan], "speedup": times["dense"] / times[plan]}
        for plan in networks
    ]
    return rows if runtime != GPU else [row | used(sessions, row, batch) for row in rows]


def used(sessions: Mapping[str, Session], row: dict[str, Any], batch: int) -> dict[str, float]:
    """What a row's network uses, by NVML; the dense one is run again beside each."""
    meter = meter_called("nvml")
    dense, mine = (millijoules(sessions[plan], [], meter, SECONDS) for plan in ("dense", row["plan"]))
    return {"mj_an_image": mine / batch, "energy_ratio": dense / mine, "watts": mine / row["ms"]}


if __name__ == "__main__":
    main()
