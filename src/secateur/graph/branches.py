"""Residual branches that may be left out: where a site keeps nothing, the block becomes its shortcut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import nn

from secateur.graph.extent import Kept
from secateur.graph.forward import KNOWN
from secateur.graph.graph import ChannelGroup, Counts, Layer, ModelGraph

BYPASSED = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""What a branch may be made of, that can be left out."""


def structural(kept: Kept) -> Kept:
    """The same with one unit of what keeps nothing: the code around the layers runs on something."""
    return {key: units if len(units) else np.zeros(1, dtype=np.int64) for key, units in kept.items()}


def bypassed(graph: ModelGraph, counts: Counts) -> tuple[Layer, ...]:
    """The layers that have no inputs, or no outputs, with these units left: they need not run."""
    if all(counts.values()):
        return ()
    return tuple(x for x in graph.layers if x.weight and 0 in (x.inputs.size(counts), x.outputs.size(counts)))


def may_be_bypassed(model: nn.Module, graph: ModelGraph) -> list[str]:
    """The sites that are the inside of a residual branch, all of whose layers are torch's own and can be left out.

    Of several in one branch (heads, and the dims of their values), that which leaves out most.
    """
    modules = dict(model.named_modules())
    names = {
        group.key: frozenset(layer.name for layer in _inside(modules, graph, group))
        for group in graph.prunable
        if not group.stream and not group.entry
    }
    found: dict[frozenset[str], str] = {}
    for key, layers in names.items():
        if layers and not any(layers < others for others in names.values()):
            found.setdefault(layers, key)
    return [*found.values()]


def _inside(modules: Mapping[str, nn.Module], graph: ModelGraph, group: ChannelGroup) -> tuple[Layer, ...]:
    """The layers that a site leaves out when it keeps nothing; none where that cannot be done."""
    layers = bypassed(graph, {group.key: 0})
    read = [graph.layer[name] for name in group.consumers]
    branch = all(layer in layers for layer in read) and any(_runs_into_sum(graph, layer) for layer in read)
    return layers if branch and all(_is_plain(modules.get(layer.name), layer) for layer in layers) else ()


def _runs_into_sum(graph: ModelGraph, layer: Layer) -> bool:
    """Whether something else is added to what a layer gives, perhaps behind a scale: its branch does not begin the
    stream."""
    streams = [graph.group[key] for key in layer.outputs.groups if graph.group[key].stream]
    return layer.shortcut is not None or any(layer.name != stream.producers[0] for stream in streams)


def _is_plain(module: nn.Module | None, layer: Layer) -> bool:
    own = isinstance(module, BYPASSED) and getattr(module.forward, "__func__", None) in KNOWN
    return own and layer.weight == f"{layer.name}.weight" and not layer.sparsities


def with_bypasses(graph: ModelGraph, keys: frozenset[str]) -> ModelGraph:
    """The same graph, in which these groups may keep nothing."""
    return replace(graph, groups=tuple(replace(x, bypass=x.key in keys) for x in graph.groups))
