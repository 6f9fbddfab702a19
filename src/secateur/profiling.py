"""Measure a table of latency or energy: the layers of a network at many widths, on a runtime, here or elsewhere."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress as Bars
from torch import Tensor, nn

import secateur.runtimes.sessions as sessions
from secateur.api import inspect
from secateur.cost.table import shape_of
from secateur.graph import Example, Layer, ModelGraph, as_inputs
from secateur.job import Job, materials
from secateur.plan import Budget
from secateur.prune import Cutter, fold_norms
from secateur.run import write_atomically
from secateur.runtimes import meter_called, runtime_called
from secateur.runtimes.sessions.profile import profile
from secateur.search import SearchSpace

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Of a side that can be cut: where the grid has its points, rounded to the step."""
NETWORKS = 24
"""Whole networks that correct the sum of layers; the first is the dense one."""
STEP = 8
"""What counts of channels are multiples of, unless the job says otherwise: what the kernels of CPUs and phones work on
at once. Another count is often slower than the next multiple."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class How:
    """By which runtime layers are measured, on how many threads, and what counts energy, if it is a table of that."""

    runtime: str
    threads: int = 1
    meter: str | None = None


def profile_job(job: Job, how: How, table: Path | None, bundle: Path | None) -> str:
    """What `secateur profile` does: write the table of this machine, or a bundle for another. Returns what to say.

    Raises ExportError where the runtime is not installed, BudgetError where the meter is not here.
    """
    runtime_called(how.runtime).require()
    if how.meter and bundle is None:
        meter_called(how.meter)
    found = materials(job)
    settings = replace(job.space, step=job.space.step or STEP)
    space = SearchSpace(inspect(found.model, found.example), Budget(macs=1.0), settings)
    with Bars() as bars:
        if bundle is not None:
            make_bundle(found.model, found.example, space, how.runtime, bundle, partial(_show, bars, "written"))
            return (
                f"copy {bundle} to the device and run there, with numpy and {how.runtime} installed:\n"
                f"  cd {bundle.name} && python -m sessions.profile . -o table.json --threads {how.threads}"
                + (f" --meter {how.meter}" if how.meter else "")
            )
        assert table is not None
        made = make_table(found.model, found.example, space, how, partial(_show, bars))
    write_atomically(table, json.dumps(made, indent=1).encode() + b"\n")
    return f'written to {table}; name it in a job: {"energy" if how.meter else "latency"} = "{table}"'


def _show(bars: Bars, what: str, done: int, whole: int) -> None:
    """Move the bar called `what`, which is made when it is first spoken of."""
    task = next((task.id for task in bars.tasks if task.description == what), None)
    bars.update(bars.add_task(what) if task is None else task, completed=done, total=whole)


def make_table(
    model: nn.Module,
    example: Example,
    space: SearchSpace,
    how: How,
    progress: Callable[[str, int, int], None] = lambda what, done, whole: None,
) -> dict[str, Any]:
    """The table of this machine, as JSON that `cost.latency_model` or `cost.energy_model` reads."""
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(model, example, space, how.runtime, Path(folder), partial(progress, "files written"))
        return profile(Path(folder), how.threads, partial(progress, "files measured"), how.meter)


def make_bundle(
    model: nn.Module, example: Example, space: SearchSpace, runtime: str, folder: Path, progress: Progress
) -> None:
    """Write all that a device needs to make its own table: files to time, what they are, and what times them."""
    chosen, graph = runtime_called(runtime), space.graph
    chosen.require()
    folder.mkdir(parents=True, exist_ok=True)
    inputs = tuple(x[:1] for x in as_inputs(example))
    shapes = list(dict.fromkeys(shape_of(layer) for layer in graph.layers))
    layers = [_grid_of(shape, graph, space) for shape in shapes]
    plans = list(_plans(space))
    whole, done = sum(len(x["in_channels"]) * len(x["out_channels"]) for x in layers) + len(plans), 0

    def write(network: nn.Module, example: tuple[Tensor, ...], name: str) -> str:
        nonlocal done
        chosen.convert(network, example, folder / f"{name}{chosen.suffix}")
        done += 1
        progress(done, whole)
        return f"{name}{chosen.suffix}"

    for number, facts in enumerate(layers):
        facts["files"], facts["inputs"] = [], []
        for i in facts["in_channels"]:
            made = [_layer(facts, i, o) for o in facts["out_channels"]]
            names = [f"layer{number}_{i}_{o}" for o in facts["out_channels"]]
            facts["files"].append([write(module, (x,), name) for (module, x), name in zip(made, names, strict=True)])
            facts["inputs"].append([list(x.shape) for _, x in made])
    cutter = Cutter(model, graph)
    networks = []
    for number, counts in enumerate(plans):
        kept = {key: torch.arange(count).numpy() for key, count in counts.items()}
        file = write(fold_norms(cutter.cut(kept), graph), inputs, f"network{number}")
        sizes = [[shapes.index(shape_of(x)), x.inputs.size(counts), x.outputs.size(counts)] for x in graph.layers]
        networks.append({"file": file, "inputs": [list(x.shape) for x in inputs], "layers": sizes})
    bundle = {"runtime": runtime, "step": _step(space), "layers": layers, "networks": networks}
    (folder / "bundle.json").write_text(json.dumps(bundle, indent=1) + "\n")
    source = Path(sessions.__file__).parent
    shutil.copytree(source, folder / "sessions", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def _step(space: SearchSpace) -> int:
    """The step that counts are rounded to: the finest that the search itself takes."""
    return min(site.step for site in space.sites)


def _grid_of(shape: Any, graph: ModelGraph, space: SearchSpace) -> dict[str, Any]:
    """A shape of layer, with the counts of channels to time: those that plans may leave of the layers that have it."""
    kind, kernel, stride, groups, in_hw = shape
    alike = [layer for layer in graph.layers if shape_of(layer) == shape]
    ins = sorted({count for layer in alike for count in _sizes(layer, "inputs", space)})
    outs = sorted({count for layer in alike for count in _sizes(layer, "outputs", space)})
    facts = {"kind": kind, "kernel": kernel, "stride": stride, "groups": groups, "in_hw": in_hw}
    return {**facts, "in_channels": ins[:1] if kind == "depthwise" else ins, "out_channels": outs}


def _sizes(layer: Layer, side: str, space: SearchSpace) -> Iterator[int]:
    extent = getattr(layer, side)
    whole = {site.key: site for site in space.sites}
    for fraction in FRACTIONS:
        counts = {key: whole[key].count(fraction) for key in extent.groups if key in whole}
        yield extent.size(counts)


def _plans(space: SearchSpace) -> Iterator[Mapping[str, int]]:
    """The dense network, then random ones, large and small."""
    yield {site.key: site.width for site in space.sites}
    draw = random.Random(0)
    for _ in range(NETWORKS - 1):
        most = draw.uniform(0.2, 1.0)
        yield {site.key: site.count(draw.uniform(0.1, most)) for site in space.sites}


def _layer(facts: Mapping[str, Any], keep_in: int, keep_out: int) -> tuple[nn.Module, Tensor]:
    """One layer with the activation that follows it, and its input."""
    if facts["kind"] == "linear":
        return nn.Linear(keep_in, keep_out).eval(), torch.zeros(1, keep_in)
    depthwise = facts["kind"] == "depthwise"
    channels = keep_out if depthwise else keep_in
    kernel = facts["kernel"]
    kind, hw = (nn.Conv1d, facts["in_hw"][1:]) if len(kernel) == 1 else (nn.Conv2d, facts["in_hw"])
    groups = keep_out if depthwise else facts["groups"]
    convolution = kind(channels, keep_out, kernel, facts["stride"], tuple(size // 2 for size in kernel), groups=groups)
    return nn.Sequential(convolution, nn.ReLU()).eval(), torch.zeros(1, channels, *hw)
