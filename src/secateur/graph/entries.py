"""Entries: a convolution that reads a whole stream may leave out channels that others still need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from secateur.graph.extent import site
from secateur.graph.graph import ChannelGroup, Held, Layer, ModelGraph, Slice
from secateur.graph.sizes import Attribute

SUFFIX = ":in"
"""Of the key of a group that is one layer's own input channels."""
PICKED = "picked"
"""Name of the buffer that holds the channels."""


def entries_of(graph: ModelGraph, whole: Callable[[ChannelGroup], object]) -> tuple[str, ...]:
    """The ordinary convolutions whose input is made of groups that stay `whole`."""
    return tuple(
        layer.name
        for layer in graph.layers
        if _may_pick(layer) and all(whole(graph.group[key]) for key in layer.inputs.groups)
    )


def entries_named(graph: ModelGraph, keys: Iterable[str]) -> tuple[str, ...]:
    """The layers whose entries are among the keys, as far as the graph has them."""
    names = (key.removesuffix(SUFFIX) for key in keys if key.endswith(SUFFIX))
    return tuple(name for name in names if name in graph.layer and _may_pick(graph.layer[name]))


def with_entries(graph: ModelGraph, names: tuple[str, ...]) -> ModelGraph:
    """The same graph, in which each named layer's input channels are a group of their own, `NAME:in`.

    Nothing else changes with such a group: whoever makes the channels still makes them all, and the layer picks
    those that it keeps (He et al., Channel Pruning, ICCV 2017, put a sampler in the same place).
    """
    if not names:
        return graph
    entries = {name: _entry(graph.layer[name]) for name in names}
    rank = {layer.name: number for number, layer in enumerate(graph.layers)}
    groups = [*entries.values(), *(_without(group, entries) for group in graph.groups)]
    groups.sort(key=lambda group: rank[group.layers[0]])  # a layer's inputs come before its outputs
    layers = tuple(
        replace(layer, inputs=site(entries[layer.name].key, layer.in_channels)) if layer.name in entries else layer
        for layer in graph.layers
    )
    said = [each for each in graph.attributes if each.module not in entries or each.name != "in_channels"]
    said += [Attribute(name, "in_channels", (site(group.key, group.width),)) for name, group in entries.items()]
    return replace(
        graph, layers=layers, groups=tuple(groups), tensors=tuple(_tensors(graph, entries)), attributes=tuple(said)
    )


def _tensors(graph: ModelGraph, entries: dict[str, ChannelGroup]) -> Iterator[Held]:
    """The weights of the layers by what they pick; and the numbers of what is picked, 64 bits each."""
    for held in graph.tensors:
        if held.layer not in entries:
            yield held
            continue
        group = entries[held.layer]
        picks = site(group.key, group.width)
        yield replace(held, extents=(held.extents[0], picks, *held.extents[2:]))
        yield Held(f"{held.layer}.{PICKED}", (picks,), 8, trained=False)


def _may_pick(layer: Layer) -> bool:
    return layer.kind == "conv" and layer.groups == 1 and layer.once and bool(layer.inputs.groups)


def _entry(layer: Layer) -> ChannelGroup:
    index = np.arange(layer.in_channels)[:, None]
    return ChannelGroup(
        key=layer.name + SUFFIX,
        width=layer.in_channels,
        slices=(Slice(layer.name, "in", index),),
        producers=(),
        consumers=(layer.name,),
        fixed="" if layer.in_channels > 1 else "a single channel",
        entry=True,
    )


def _without(group: ChannelGroup, entries: dict[str, ChannelGroup]) -> ChannelGroup:
    """A group whose channels some layer picks from can no longer be cut itself."""
    if not any(name in entries for name in group.consumers):
        return group
    slices = tuple(part for part in group.slices if part.side == "out" or part.module not in entries)
    consumers = tuple(name for name in group.consumers if name not in entries)
    return replace(group, slices=slices, consumers=consumers, fixed=group.fixed or "layers pick from its channels")
