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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import Array, Session, median_ms, open_session, random_inputs, version_of
from .grid import Floats, Grid, Thinned
from .meters import METERS, Meter, millijoules, open_meter

ROUNDS, LEAST_MS = 15, 15.0
"""Passes of every layer at least, and milliseconds."""
LOOKS = 5
"""Times that whole networks are opened and measured: before, amid and after the layers. The least counts, as others on
a machine only slow it down, and for seconds on end, and as where a file lies in memory makes some openings slower."""
PULL, LEAST = 0.1, 0.1
"""How firmly the scales are held to a common one, and the least that one is of it."""
Progress = Callable[[int, int], None]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--meter", choices=METERS, help="an energy table by this meter, instead of a latency table")
    options = parser.parse_args()
    try:
        table = profile_folder(
            options.bundle,
            options.threads,
            lambda done, all_: print(f"\r{done} of {all_}", end="", flush=True),
            options.meter,
        )
        options.output.write_text(json.dumps(table, indent=1) + "\n")
    except (OSError, ImportError) as error:  # no bundle, no meter, no place for the table; no runtime
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    print(f"\nwritten to {options.output}")


def profile_folder(
    bundle: Path, threads: int = 1, progress: Progress = lambda done, all_: None, meter: str | None = None
) -> dict[str, Any]:
    """The latency table of this device, as plain JSON; with a meter, its energy table. Raises OSError without one."""
    wanted = json.loads((bundle / "bundle.json").read_text())

    def opened(file: str) -> Session:
        return open_session(wanted["runtime"], bundle / file, threads)

    found = None if meter is None else open_meter(meter)
    return profile(wanted, Bench(opened, found, count_files(wanted), progress), threads, meter)


def profile(wanted: Mapping[str, Any], bench: Bench, threads: int, meter: str | None) -> dict[str, Any]:
    """The table of all that a bundle wants measured."""
    layers, networks, step = wanted["layers"], wanted["networks"], wanted["step"]

    def look() -> list[float]:
        return bench.measure([each["file"] for each in networks], [each["inputs"] for each in networks])

    grids: list[Grid] = []
    looks = [look()]
    for places in np.array_split(np.arange(len(layers)), LOOKS - 1):
        grids += [_grid(layers[place], bench) for place in places]
        looks.append(look())
    taken = np.min(looks, axis=0)
    alone = np.zeros((len(networks), len(grids)))
    for row, network in zip(alone, networks, strict=True):
        for number, keep_in, keep_out, pattern, density in network["layers"]:
            grid = grids[number]
            row[number] += grid.at(keep_in, keep_out, step) * grid.factor(pattern, density)
    scales, fixed = fitted(alone, taken)
    return {
        "device": f"{platform.node()}, {processor()}",
        "runtime": wanted["runtime"],
        "version": version_of(wanted["runtime"]),
        "metric": "latency_ms" if meter is None else "energy_mj",
        "meter": meter or "clock",
        "threads": threads,
        "made": datetime.date.today().isoformat(),
        "step": step,
        "fixed": fixed,
        "layers": [{**asdict(grid), "scale": scale} for grid, scale in zip(grids, scales, strict=True)],
    }


def processor() -> str:
    """Of this machine: its make, as Linux calls it or else as Python does."""
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware"))]
    return f"{platform.machine()} {(named or [platform.processor() or platform.system()])[0]}"


def count_files(wanted: Mapping[str, Any]) -> int:
    """How many there are to measure."""
    layers = sum(len(row) for layer in wanted["layers"] for row in layer["files"])
    thinned = sum(len(each["files"]) + 1 for layer in wanted["layers"] for each in layer["thinned"])
    return layers + thinned + LOOKS * len(wanted["networks"])


@dataclass
class Bench:
    """Measures files of a bundle, and says how far it is."""

    open: Callable[[str], Session]
    meter: Meter | None
    whole: int
    progress: Progress
    done: int = 0

    def measure(self, files: Sequence[str], inputs: Sequence[Sequence[Any]]) -> list[float]:
        """The cost of one pass of each file, with inputs as `random_inputs` takes them.

        They take turns, so that a busy moment of the machine falls on all alike.
        """
        sessions = {
            str(number): _alone(self.open(file), random_inputs(each))
            for number, (file, each) in enumerate(zip(files, inputs, strict=True))
        }
        if self.meter is None:
            found = median_ms(sessions, [], ROUNDS, LEAST_MS)
        else:
            found = {name: millijoules(run, [], self.meter) for name, run in sessions.items()}
        self.done += len(files)
        self.progress(self.done, self.whole)
        return [*found.values()]


def _alone(session: Session, own: Sequence[Array]) -> Session:
    """A session that brings its own inputs."""
    return lambda inputs: session(own)


def _grid(layer: Mapping[str, Any], bench: Bench) -> Grid:
    rows, columns = len(layer["files"]), len(layer["files"][0])
    files = [file for row in layer["files"] for file in row]
    shapes = [[shape] for row in layer["inputs"] for shape in row]
    cost = np.reshape(bench.measure(files, shapes), (rows, columns)).tolist()
    facts = {name: value for name, value in layer.items() if name not in ("files", "inputs", "thinned")}
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    thinned = tuple(_thinned(each, files[-1], shapes[-1], bench) for each in layer["thinned"])
    return Grid(**facts, cost=tuple(map(tuple, cost)), thinned=thinned)


def _thinned(each: Mapping[str, Any], dense: str, shape: Sequence[Sequence[int]], bench: Bench) -> Thinned:
    """Beside the dense layer, in the same turns."""
    files = [*each["files"], dense]
    taken = np.array(bench.measure(files, [shape] * len(files)))
    return Thinned(each["pattern"], (*each["densities"], 1.0), tuple(np.minimum(taken / taken[-1], 1.0).tolist()))


def fitted(alone: Floats, whole: Floats) -> tuple[list[float], float]:
    """(scales [shapes], fixed) of least relative error in whole = alone @ scales + fixed.

    `alone` [networks, shapes] is what the layers of each shape take one by one, `whole` [networks] what networks do.
    `fixed` is negative where layers alone pay for what they do not within a network, such as rearranging their input.
    Networks are few, so that all scales, which are positive, are held near a common one. The first network counts as
    much as all others: it is the dense one, and of every other what matters is the fraction that it takes of that.
    """
    sums, shapes, weight = alone.sum(1), alone.shape[1], np.ones(len(whole))
    weight[0] = np.sqrt(len(whole))
    relative = (weight / whole)[:, None]
    line = np.stack([sums, np.ones_like(sums)], 1)
    common, fixed = np.linalg.lstsq(relative * line, weight, rcond=None)[0]
    if common <= 0:
        common, fixed = float((sums / whole).sum() / np.square(sums / whole).sum()), 0.0
    rows = relative * common * alone
    above = np.concatenate([rows, relative], 1)
    below = np.concatenate([PULL * np.eye(shapes), np.zeros((shapes, 1))], 1)
    left = np.concatenate([weight - rows.sum(1), np.zeros(shapes)])
    *changes, fixed = np.linalg.lstsq(np.concatenate([above, below]), left, rcond=None)[0]
    return [float(common * max(1 + change, LEAST)) for change in changes], float(fixed)


if __name__ == "__main__":
    main()
