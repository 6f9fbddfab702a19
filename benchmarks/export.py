"""Every network of the zoo, dense and pruned to half its MACs, as a file of every runtime: does it answer as PyTorch?

The largest difference of an output on four inputs, over the outputs' root mean square (`sc.export` refuses more than
TOLERANCE), and the size of the file. Weights are the trained ones where there are any,
and random ones elsewhere; pruned is uniformly, without refit, as nothing here is about accuracy. A runtime that has no
operation for a network says so. What is done lies in benchmarks/runs/export. Takes some minutes; `--quick` (a minute)
only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
import shared_assets
import torch
from torch import Tensor, nn

import secateur as sc
from secateur import zoo
from secateur.runtimes import RUNTIMES, installed
from secateur.runtimes.export import TOLERANCE
from secateur.search import SearchSpace

TRAINED = {
    "resnet20": lambda: shared_assets.resnet(20),
    "resnet56": lambda: shared_assets.resnet(56),
    "mobilenet_v1_folded": shared_assets.mobilenet_v1,
}
LARGE = ("vgg16_imagenet", "mobilenet_v1", "mobilenet_v1_folded", "mobilenet_v2")
"""Networks for images of 224 x 224 pixels; the others' have 32 x 32."""
UNTOUCHED = sc.PruneSettings("magnitude", refit=False, sequential=False, recalibrate=False)


def main() -> None:
    """Export what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two networks only; writes no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows = [row for name in (("plain20", "resnet20") if quick else zoo.NETWORKS) for row in kept(name)]
    record.show(f"largest difference from PyTorch (allowed: {TOLERANCE:g}), and size of the file", shown(rows))
    if not quick:
        print(f"written to {record.write('export', figures(rows), rows).relative_to(record.HERE.parent)}")


def kept(name: str) -> list[dict[str, Any]]:
    """The rows of a network, from their file if it is there."""
    place = record.HERE / "runs" / "export" / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    tried_on = {row["runtime"] for row in json.loads(place.read_text())} if place.exists() else set()
    if not tried_on >= {*installed()}:
        place.write_text(json.dumps([*tried(name)]))
    return list(json.loads(place.read_text()))


def tried(name: str) -> Iterator[dict[str, Any]]:
    """A row for each runtime, and for the network dense and pruned."""
    images = torch.randn(4, 3, *(2 * [224 if name in LARGE else 32]), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    dense = (TRAINED.get(name) or (lambda: zoo.build(name)))().eval()
    space = SearchSpace(sc.inspect(dense, images), sc.Budget(macs=0.5))
    plan = sc.Uniform().start(space).ask()
    networks = {"dense": dense, "pruned": sc.prune(dense, images, plan, calibration=images, settings=UNTOUCHED)}
    for runtime in installed():
        for kind, network in networks.items():
            yield {"network": name, "kind": kind, "runtime": runtime, **exported(network, images, runtime)}
            print(f"{name}, {kind}, {runtime}", flush=True)


def exported(network: nn.Module, images: Tensor, runtime: str) -> dict[str, Any]:
    """Difference and size, or what is in the way."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            error = sc.export(network, images, Path(folder) / f"network{RUNTIMES[runtime].suffix}", runtime=runtime)
        except sc.ExportError as problem:
            return {"refused": str(problem)}
        return {"difference": error, "bytes": sum(file.stat().st_size for file in Path(folder).iterdir())}


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each network, dense and pruned; a column for each runtime."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault((row["network"], row["kind"]), {"network": row["network"], "": row["kind"]})
        size = f"{row['difference']:.0e}, {row['bytes'] / 1e6:.1f} MB" if "bytes" in row else row["refused"][:60]
        line[row["runtime"]] = size
    return [*lines.values()]


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """For each runtime how many files answer alike, and by how much they differ at most."""
    found: dict[str, float] = {"networks": len({row["network"] for row in rows})}
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        mine = [row["difference"] for row in rows if row["runtime"] == runtime and "difference" in row]
        found |= {f"{runtime}_files": len(mine), f"{runtime}_largest_difference": max(mine, default=0.0)}
    return found


if __name__ == "__main__":
    main()
