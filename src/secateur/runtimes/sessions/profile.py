"""Measure a bundle of layers and networks on this device, and write its latency or energy table.

    python -m sessions.profile BUNDLE -o table.json [--threads 1] [--meter rapl]

It needs numpy and the runtime, no torch and nothing of Secateur: `secateur profile --bundle` puts this folder into the
bundle. Layers are measured one by one; then whole networks, to which the sum of their layers is fitted: within a
network, a layer takes over its input as the one before left it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import median_ms, open_session, random_inputs
from .grid import Floats, Grid
from .meters import METERS, millijoules, open_meter

ROUNDS, LEAST_MS = 15, 15.0
"""Passes of every layer at least, and milliseconds."""
PULL, LEAST = 0.1, 0.1
"""How firmly the scales are held to a common one, and the least that one is of it."""
Progress = Callable[[int, int], None]
Measure = Callable[[Sequence[str], Sequence[Sequence[Sequence[int]]]], list[float]]
"""Files, and the shapes of each one's inputs -> the cost of one pass of each."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--meter", choices=METERS, help="an energy table by this meter, instead of a latency table")
    options = parser.parse_args()
    table = profile(
        options.bundle,
        options.threads,
        lambda done, all_: print(f"\r{done} of {all_}", end="", flush=True),
        options.meter,
    )
    options.output.write_text(json.dumps(table, indent=1) + "\n")
    print(f"\nwritten to {options.output}")


def profile(
    bundle: Path, threads: int = 1, progress: Progress = lambda done, all_: None, meter: str | None = None
) -> dict[str, Any]:
    """The latency table of this device, as plain JSON; with a meter, its energy table. Raises OSError without one."""
    counter = None if meter is None else open_meter(meter)
    wanted = json.loads((bundle / "bundle.json").read_text())
    runtime, step = wanted["runtime"], wanted["step"]
    whole = sum(len(row) for layer in wanted["layers"] for row in layer["files"]) + len(wanted["networks"])
    done = 0

    def measured(files: Sequence[str], shapes: Sequence[Sequence[Sequence[int]]]) -> list[float]:
        """All of them taking turns, so that a busy moment of the machine falls on all alike."""
        nonlocal done
        runs = {
            str(number): partial(open_session(runtime, bundle / file, threads), random_inputs(each))
            for number, (file, each) in enumerate(zip(files, shapes, strict=True))
        }
        sessions = {name: _alone(run) for name, run in runs.items()}
        if counter is None:
            found = median_ms(sessions, [], ROUNDS, LEAST_MS)
        else:
            found = {name: millijoules(run, [], counter) for name, run in sessions.items()}
        done += len(files)
        progress(done, whole)
        return [*found.values()]

    grids = [_grid(layer, measured) for layer in wanted["layers"]]
    alone = np.zeros((len(wanted["networks"]), len(grids)))
    for row, network in zip(alone, wanted["networks"], strict=True):
        for number, *counts in network["layers"]:
            row[number] += grids[number].at(*counts, step)
    networks = wanted["networks"]
    whole_networks = measured([each["file"] for each in networks], [each["inputs"] for each in networks])
    scales, fixed = fitted(alone, np.array(whole_networks))
    return {
        "device": f"{platform.node()}, {platform.machine()} {platform.processor() or platform.system()}".strip(),
        "runtime": runtime,
        "metric": "latency_ms" if meter is None else "energy_mj",
        "meter": meter or "clock",
        "threads": threads,
        "made": datetime.date.today().isoformat(),
        "step": step,
        "fixed": fixed,
        "layers": [{**asdict(grid), "scale": scale} for grid, scale in zip(grids, scales, strict=True)],
    }


def _alone(run: Callable[[], list[Any]]) -> Callable[[Any], list[Any]]:
    """A session that brings its own inputs."""
    return lambda inputs: run()


def _grid(layer: Mapping[str, Any], measured: Measure) -> Grid:
    rows, columns = len(layer["files"]), len(layer["files"][0])
    files = [file for row in layer["files"] for file in row]
    shapes = [[shape] for row in layer["inputs"] for shape in row]
    cost = np.reshape(measured(files, shapes), (rows, columns)).tolist()
    facts = {name: value for name, value in layer.items() if name not in ("files", "inputs")}
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    return Grid(**facts, cost=tuple(map(tuple, cost)))


def fitted(alone: Floats, whole: Floats) -> tuple[list[float], float]:
    """(scales [shapes], fixed) of least relative error in whole = alone @ scales + fixed.

    `alone` [networks, shapes] is what the layers of each shape take one by one, `whole` [networks] what networks do.
    `fixed` is negative where layers alone pay for what they do not within a network, such as rearranging their input.
    Networks are few, so that all scales, which are positive, are held near a common one.
    """
    sums, shapes = alone.sum(1), alone.shape[1]
    common, fixed = np.linalg.lstsq(np.stack([sums / whole, 1 / whole], 1), np.ones_like(whole), rcond=None)[0]
    if common <= 0:
        common, fixed = float((sums / whole).sum() / np.square(sums / whole).sum()), 0.0
    rows = common * alone / whole[:, None]
    above = np.concatenate([rows, 1 / whole[:, None]], 1)
    below = np.concatenate([PULL * np.eye(shapes), np.zeros((shapes, 1))], 1)
    left = np.concatenate([1 - rows.sum(1), np.zeros(shapes)])
    *changes, fixed = np.linalg.lstsq(np.concatenate([above, below]), left, rcond=None)[0]
    return [float(common * max(1 + change, LEAST)) for change in changes], float(fixed)


if __name__ == "__main__":
    main()
