"""From coupled channels to channel groups, and layers that know which groups they are made of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from torch import nn

from secateur.graph.coupling import Coupling, Place, is_depthwise, side_length
from secateur.graph.forward import Calls, computes_more
from secateur.graph.graph import ChannelGroup, Extent, Layer, Side, Slice

Owners = dict[tuple[str, Side], list[tuple[ChannelGroup, Slice]]]
"""(module, side) -> the groups that own channels of it, and where those lie."""


def group_channels(model: nn.Module, coupling: Coupling, calls: Calls) -> tuple[tuple[ChannelGroup, ...], Owners]:
    """Units that touch the same sides of the same modules form one group, keyed by its first producer."""
    alike: defaultdict[tuple[tuple[str, Side], ...], list[list[Place]]] = defaultdict(list)
    for unit in coupling.units:
        counted: defaultdict[tuple[str, Side], int] = defaultdict(int)
        for name, side, _ in unit:
            counted[name, side] += 1
        signature = tuple(sorted((name, side, count) for (name, side), count in counted.items()))
        alike[signature].append(sorted(unit))  # type: ignore[index]
    rank = {name: number for number, name in enumerate(calls.order)}
    groups = [_group(units, model, coupling, rank) for units in alike.values()]
    groups.sort(key=lambda group: (rank[group.producers[0]], int(group.slices[0].index.min())))
    named = _named(groups)
    owners: defaultdict[tuple[str, Side], list[tuple[ChannelGroup, Slice]]] = defaultdict(list)
    for group in named:
        for part in group.slices:
            owners[part.module, part.side].append((group, part))
    return named, owners


def _group(units: list[list[Place]], model: nn.Module, coupling: Coupling, rank: dict[str, int]) -> ChannelGroup:
    sides = sorted({(name, side) for name, side, _ in units[0]}, key=lambda s: (rank.get(s[0], len(rank)), s))
    producers = [n for n, side in sides if side == "out" and n in rank and not is_depthwise(model.get_submodule(n))]
    first = producers[0]
    units.sort(key=lambda unit: min(p for name, side, p in unit if (name, side) == (first, "out")))
    slices = tuple(
        Slice(name, side, np.array([[p for n, s, p in unit if (n, s) == (name, side)] for unit in units]))
        for name, side in sides
    )
    slices = tuple(sorted(slices, key=lambda part: (part.module, part.side) != (first, "out")))
    places = [place for unit in units for place in unit]
    fixed = next((coupling.blocked[place] for place in places if place in coupling.blocked), "")
    if len(units) == 1 and not fixed:
        fixed = "a single channel"
    consumers = tuple(name for name, side in sides if side == "in")
    if not consumers and not fixed:
        fixed = "the network's output"
    params, size = _vectors(model, slices)
    stream = len(producers) > 1 and any(place in coupling.added for place in places)
    return ChannelGroup(first, len(units), slices, tuple(producers), consumers, params, size, stream, fixed)


def _named(groups: list[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Give a key of its own to each of several groups that share a first producer (branches cut in part)."""
    seen: defaultdict[str, int] = defaultdict(int)
    named = []
    for group in groups:
        seen[group.key] += 1
        suffix = f"#{seen[group.key]}" if seen[group.key] > 1 else ""
        named.append(replace(group, key=group.key + suffix))
    return tuple(named)


def _vectors(model: nn.Module, slices: tuple[Slice, ...]) -> tuple[int, int]:
    """Parameters and bytes that one unit holds in biases, norms and norm statistics."""
    params = size = 0
    for part in slices:
        if part.side == "in":
            continue
        module = model.get_submodule(part.module)
        length, per_unit = side_length(module, "out"), part.index.shape[1]
        trained = {name for name, _ in module.named_parameters(recurse=False)}
        for name, tensor in module.state_dict().items():
            if tensor.shape == (length,):
                params += per_unit * (name in trained)
                size += per_unit * tensor.element_size()
    return params, size


def describe_layer(name: str, model: nn.Module, calls: Calls, owners: Owners, batch: int) -> Layer:
    """The facts of one layer, from its module and from what the watched pass over `batch` examples showed."""
    module = model.get_submodule(name)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
    shapes = calls.shapes[name]
    x_shape, y_shape = shapes[0]
    convolution = not isinstance(module, nn.Linear)
    positions = sum(int(np.prod(y)) for _, y in shapes) // side_length(module, "out") // batch
    depthwise = is_depthwise(module)

    def extent(side: Side) -> Extent:
        parts = owners.get((name, "out" if depthwise else side), [])
        owned = sum(part.index.size for _, part in parts)
        coupled = tuple((group.key, part.index.shape[1], group.width) for group, part in parts)
        return Extent(side_length(module, side) - owned, coupled)

    return Layer(
        name=name,
        kind="depthwise" if depthwise else "conv" if convolution else "linear",
        in_channels=side_length(module, "in"),
        out_channels=side_length(module, "out"),
        kernel=module.kernel_size if convolution else (),  # type: ignore[arg-type]
        stride=int(module.stride[0]) if convolution else 1,  # type: ignore[index]
        groups=int(module.groups) if convolution else 1,  # type: ignore[arg-type]
        in_hw=_hw(x_shape) if convolution else (1, 1),
        out_hw=_hw(y_shape) if convolution else (1, 1),
        positions=positions,
        itemsize=module.weight.element_size(),
        inputs=extent("in"),
        outputs=extent("out"),
        once=len(shapes) == 1 and x_shape[0] == batch and not computes_more(module),
        norm=calls.norms.get(name),
        shortcut=calls.shortcuts.get(name),
    )


def _hw(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[2], shape[3]) if len(shape) == 4 else (1, shape[-1])
