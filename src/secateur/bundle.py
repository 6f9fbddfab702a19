"""What a table of latency or energy is made from: layers at many widths and densities, and whole networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from secateur.cost.table import shape_of, times
from secateur.graph import Example, Layer, ModelGraph, as_inputs, positional
from secateur.plan import Site
from secateur.prune import Cutter, fold_norms, shaped
from secateur.search import SearchSpace
from secateur.sparse import Pattern, impose

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Of a side that can be cut: where the grid has its points, rounded to the step."""
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
NETWORKS = 24
"""Whole networks that correct the sum of layers; the first is the dense one."""
Progress = Callable[[int, int], None]


@dataclass
class Writer:
    """Where the networks of a bundle go: `write(network, example, name)` gives the name to open each by."""

    write: Callable[[nn.Module, tuple[Tensor, ...], str], str]
    progress: Progress = lambda done, whole: None
    kernels: bool = False
    """Whether the runtime is faster for blocks of zeros: then layers are measured thinned out too."""
    whole: int = 0
    done: int = 0

    def __call__(self, network: nn.Module, example: tuple[Tensor, ...], name: str) -> str:
        """Write one."""
        file = self.write(network, example, name)
        self.done += 1
        self.progress(self.done, self.whole)
        return file


def bundle_of(model: nn.Module, example: Example, space: SearchSpace, write: Writer) -> dict[str, Any]:
    """All that a device needs to know to make its own table; the networks go through `write`."""
    graph, one = space.graph, as_inputs(example).part(0, 1)
    layers_timed = [layer for layer in graph.layers if layer.kind != "product"]
    shapes = list(dict.fromkeys(shape_of(layer) for layer in layers_timed))
    layers = [_grid_of(shape, graph, space) for shape in shapes]
    patterns = [_patterns(shape, graph) if write.kernels else [] for shape in shapes]
    write.whole = NETWORKS + len(DENSITIES) * sum(map(len, patterns))
    write.whole += sum(len(facts["in_channels"]) * len(facts["out_channels"]) for facts in layers)
    for number, facts in enumerate(layers):
        facts["files"], facts["inputs"] = [], []
        for i in facts["in_channels"]:
            made = [_layer(facts, i, o) for o in facts["out_channels"]]
            names = [f"layer{number}_{i}_{o}" for o in facts["out_channels"]]
            facts["files"].append([write(module, (x,), name) for (module, x), name in zip(made, names, strict=True)])
            facts["inputs"].append([list(x.shape) for _, x in made])
        facts["thinned"] = [_thinned(facts, kind, f"layer{number}_{kind}", write) for kind in patterns[number]]
    cutter = Cutter(model, graph)
    networks = []
    for number, counts in enumerate(_plans(space)):
        network, tensors = positional(fold_norms(shaped(cutter, counts), graph), one)
        file = write(network, tensors, f"network{number}")
        sizes = [
            _size(layer, shapes.index(shape_of(layer)), counts) for layer in layers_timed for _ in range(times(layer))
        ]
        networks.append({"file": file, "inputs": [_said(x) for x in tensors], "layers": sizes})
    return {"step": _step(space), "layers": layers, "networks": networks}


def _step(space: SearchSpace) -> int:
    """The step that counts are rounded to: that of the search, of which a narrow site may have less."""
    return space.settings.step or 1


def _size(layer: Layer, number: int, counts: Mapping[str, int]) -> list[Any]:
    """The layer's shape, its channels in and out, pattern and density."""
    sizes = layer.inputs.size(counts), layer.outputs.size(counts)
    blocks = layer.blocks
    return [number, *sizes, str(blocks.pattern) if blocks else "", float(blocks.density(counts)) if blocks else 1.0]


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
    cut = [key for key in extent.groups if key in whole and key not in layer.split.groups]
    for fraction in FRACTIONS:
        counts = {key: _some(whole[key], fraction) for key in cut}
        yield extent.size(counts)


def _patterns(shape: Any, graph: ModelGraph) -> list[Pattern]:
    """Those of blocks that layers of the shape may have."""
    kinds = [each.pattern for layer in graph.layers if shape_of(layer) == shape and (each := layer.blocks)]
    return list(dict.fromkeys(kinds))


def _thinned(facts: Mapping[str, Any], kind: Pattern, name: str, write: Writer) -> dict[str, Any]:
    """The layer at its widest, with fewer and fewer blocks."""
    files, generator = [], torch.Generator().manual_seed(0)
    for density in DENSITIES:
        network, x = _layer(facts, facts["in_channels"][-1], facts["out_channels"][-1])
        layer = network if isinstance(network, nn.Linear) else network.get_submodule("0")
        weight = layer.get_parameter("weight")
        mask = kind.best(torch.rand(len(weight), weight[0].numel(), generator=generator), density)
        impose(layer, mask.view_as(weight), kind)
        files.append(write(network, (x,), f"{name}_{density}"))
    return {"pattern": str(kind), "densities": list(DENSITIES), "files": files}


def _plans(space: SearchSpace) -> Iterator[Mapping[str, int]]:
    """The dense network, then random ones, large and small."""
    yield {site.key: site.width for site in space.sites}
    draw = Random(0)
    for _ in range(NETWORKS - 1):
        most = draw.uniform(0.2, 1.0)
        yield {site.key: _some(site, draw.uniform(0.1, most)) for site in space.sites}


def _said(x: Tensor) -> list[int] | dict[str, Any]:
    """An input as `sessions.random_inputs` makes it: any numbers of its shape, or (tokens, masks) its own values."""
    if x.is_floating_point():
        return list(x.shape)
    return {"values": x.tolist(), "dtype": str(x.dtype).removeprefix("torch.")}


def _some(site: Site, keep: float) -> int:
    """Units for a fraction, never none: what is left out takes no time, which needs no measurement."""
    return max(site.count(keep), site.least)


def _layer(facts: Mapping[str, Any], keep_in: int, keep_out: int) -> tuple[nn.Module, Tensor]:
    """One layer with the activation that follows it, and its input."""
    if facts["kind"] == "linear":
        rows = facts["in_hw"][1]
        return nn.Linear(keep_in, keep_out).eval(), torch.randn(1, *([rows] if rows > 1 else []), keep_in)
    depthwise = facts["kind"] == "depthwise"
    channels = keep_out if depthwise else keep_in
    kernel = facts["kernel"]
    kind, hw = (nn.Conv1d, facts["in_hw"][1:]) if len(kernel) == 1 else (nn.Conv2d, facts["in_hw"])
    groups = keep_out if depthwise else facts["groups"]
    convolution = kind(channels, keep_out, kernel, facts["stride"], tuple(size // 2 for size in kernel), groups=groups)
    return nn.Sequential(convolution, nn.ReLU()).eval(), torch.randn(1, channels, *hw)
