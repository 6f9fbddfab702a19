"""From axes to a network: layers, sites, and what every tensor is made of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateur.graph.axes import Axis, Fixed, Free, Product, Sum, product
from secateur.graph.extent import Extent, site, whole
from secateur.graph.follow import Follower, Found
from secateur.graph.forward import Calls, computes_more
from secateur.graph.graph import QUERY_KEY, VALUE, ChannelGroup, Held, Kind, Layer, Slice
from secateur.graph.matrices import matrices_of


class Keys:
    """The sites: free axes of parameters, each with the name that it goes by."""

    def __init__(self) -> None:
        self.key: dict[Axis, str] = {}
        self._seen: defaultdict[str, int] = defaultdict(int)

    def name(self, axis: Axis, first: str) -> str:
        """Give a free axis the name of the first layer that makes it; with a number, where that makes several."""
        self._seen[first] += 1
        self.key[axis] = first if self._seen[first] == 1 else f"{first}#{self._seen[first]}"
        return self.key[axis]

    def extent(self, axis: Axis) -> Extent:
        """The axis, told for good."""
        axis = axis.root()
        match axis.form:
            case Product(parts):
                return _joined("product", [self.extent(part) for part in parts])
            case Sum(parts):
                return _joined("sum", [self.extent(part) for part in parts])
            case Free() if axis in self.key:
                return site(self.key[axis], axis.size)
        return whole(axis.size)


def _joined(kind: Any, parts: Sequence[Extent]) -> Extent:
    """Flat, and what is whole on both sides as one."""
    length = math.prod(part.length for part in parts) if kind == "product" else sum(part.length for part in parts)
    flat = [inner for part in parts for inner in (part.parts if part.kind == kind else (part,))]
    if all(part.kind == "whole" for part in flat):
        return whole(length)
    return Extent(length, kind, parts=tuple(flat))


@dataclass
class Described:
    """All that a graph is made of but for its costs."""

    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    tensors: tuple[Held, ...]
    keys: Keys


def describe(follower: Follower, calls: Calls, examples: int, itemsizes: Mapping[str, int]) -> Described:
    """Layers in forward order, groups in that of their first layer; `itemsizes` are the caller's tensors'."""
    runs = _runs(follower.record.contractions)
    keys, groups = Keys(), []
    made = {name: [found[0].what.out] for name, found in runs.items()}
    for name, axes in made.items():
        weighted = runs[name][0].weight is not None
        groups += [*_sites_of(name, axes, keys)] if weighted else []
    groups += [*_bare(follower, keys)]
    matrices = matrices_of(runs, follower, examples, keys.extent)
    layers = tuple(
        replace(
            _layer(name, found, follower, calls, keys, examples),
            itemsize=itemsizes.get(found[0].weight or "", 4),
            matrix=matrices.get(name),
        )
        for name, found in runs.items()
    )
    roles = _roles(runs, follower)
    filled = [_filled(key, width, reason, axis, layers, roles) for key, width, reason, axis in groups]
    return Described(layers, tuple(filled), _tensors(follower, runs, keys, itemsizes), keys)


def _runs(contractions: Sequence[Found]) -> dict[str, list[Found]]:
    """By layer: what multiplies by the same part of the same weight is one that runs several times."""
    runs: dict[str, list[Found]] = {}
    names: dict[tuple[Any, ...], str] = {}
    for found in contractions:
        axes = (found.what.contracted, found.what.out)
        place = (found.weight or len(names), found.offset, *(tuple(axis.leaves()) for axis in axes))
        if place not in names:
            names[place] = _unused(_name(found), runs)
        runs.setdefault(names[place], []).append(found)
    return runs


def _unused(name: str, taken: Container[str]) -> str:
    number = 2
    while (other := name if name not in taken else f"{name}[{number}]") in taken:
        number += 1
    return other


def _name(found: Found) -> str:
    """A layer by the module whose `weight` it is; another parameter by its own name; a product by where it is."""
    if found.weight is None:
        return f"{found.module or 'network'}.product"
    if found.computed and found.module and found.weight.startswith(f"{found.module}."):
        return found.module
    owner, _, leaf = found.weight.rpartition(".")
    return owner if leaf == "weight" and owner else found.weight


Site = tuple[str, int, str, Axis]
"""Key, width, why it is fixed, and its axis."""


def _sites_of(name: str, axes: Iterable[Axis], keys: Keys) -> Iterable[Site]:
    """The axes that a layer is the first to make; what stays has the reason, and is one where all of it does."""
    for axis in axes:
        leaves = list(dict.fromkeys(axis.leaves()))
        free = [leaf for leaf in leaves if isinstance(leaf.form, Free) and leaf.size > 1]
        stay = [leaf for leaf in leaves if isinstance(leaf.form, Fixed) and leaf.size > 1]
        for leaf in (*free, *stay) if free else ():
            if leaf not in keys.key:
                reason = leaf.form.reason if isinstance(leaf.form, Fixed) else ""
                yield keys.name(leaf, name), leaf.size, reason, leaf
        if not free and leaves and leaves[0] not in keys.key:
            reason = next((leaf.form.reason for leaf in leaves if isinstance(leaf.form, Fixed)), "a single channel")
            keys.key[leaves[0]] = name
            yield keys.name(leaves[0], name), axis.size, "a single channel" if axis.size == 1 else reason, leaves[0]


def _bare(follower: Follower, keys: Keys) -> Iterable[Site]:
    """Free axes that parameters alone make; and the last of a table's, where all of them stay."""
    for name in (name for name in follower.names if name in follower.touched):
        axes = follower.axes[follower.names[name]]
        leaves = [leaf for axis in axes for leaf in dict.fromkeys(axis.leaves())]
        for leaf in leaves:
            if isinstance(leaf.form, Free) and leaf.size > 1 and leaf not in keys.key:
                yield keys.name(leaf, name), leaf.size, "", leaf
        last = leaves[-1] if leaves else None
        trained = isinstance(follower.names[name], nn.Parameter) and len(axes) > 1
        if last is not None and trained and not any(leaf in keys.key for leaf in leaves):
            yield keys.name(last, name), last.size, getattr(last.form, "reason", "a single index"), last


def _layer(name: str, found: Sequence[Found], follower: Follower, calls: Calls, keys: Keys, examples: int) -> Layer:
    first, what = found[0], found[0].what
    module = module_at(follower.model, name)
    groups = what.groups.size if what.groups is not None else 1
    others = [leaf for axis in what.others for leaf in axis.factors()]
    often = [leaf for leaf in others if keys.extent(leaf).kind != "whole"]
    calls_of_it = sum(math.prod(axis.size for axis in each.what.others) for each in found)
    stride = getattr(module, "stride", 1)
    shapes = calls.shapes.get(name, [(first.in_shape, first.out_shape)])
    kind = _kind(first)
    own = first.weight == f"{name}.weight" and not first.computed and kind in ("conv", "depthwise", "linear")
    return Layer(
        name=name,
        kind=kind,
        in_channels=what.contracted.size,
        out_channels=what.out.size,
        kernel=what.kernel,
        stride=int(stride[0]) if isinstance(stride, tuple) else int(stride) if isinstance(stride, int) else 1,
        groups=groups if kind != "product" else 1,
        in_hw=_pixels(shapes[0][0], what.kernel),
        out_hw=_pixels(shapes[0][1], what.kernel),
        positions=max(calls_of_it // examples, 1),
        itemsize=4,
        inputs=keys.extent(what.contracted),
        outputs=keys.extent(what.out),
        split=keys.extent(what.groups) if what.groups is not None else whole(1),
        repeats=keys.extent(product(often)) if often and calls_of_it else whole(1),
        weight=first.weight or "",
        once=own and len(found) == 1 and _runs_as_is(module, shapes, examples),
        norm=calls.norms.get(first.place),
        shortcut=calls.shortcuts.get(first.place),
    )


def _pixels(shape: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Height and width (and depth before them) of what a convolution reads or gives; of a signal, 1 and its length."""
    found = tuple(shape[len(shape) - len(kernel) :]) if kernel else ()
    return (*[1] * (2 - len(found)), *found)


def _runs_as_is(module: nn.Module | None, shapes: Sequence[Any], examples: int) -> bool:
    return module is not None and len(shapes) == 1 and shapes[0][0][0] == examples and not computes_more(module)


def module_at(model: nn.Module, name: str) -> nn.Module | None:
    """The module of this name; None where there is none."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _kind(found: Found) -> Kind:
    if found.weight is None:
        return "product"
    if not found.what.kernel:
        return "linear"
    if found.what.sides == (0, 1):
        return "transposed"
    groups = found.what.groups
    alone = groups is not None and groups.size == found.what.contracted.size == found.what.out.size
    return "depthwise" if alone else "conv"


def _roles(runs: dict[str, list[Found]], follower: Follower) -> dict[Axis, str]:
    """What the units of axes are that products of activations tell: heads, and dimensions of queries and values."""
    roles: dict[Axis, str] = {}
    for found in (found for each in runs.values() for found in each if found.weight is None):
        for axis in found.what.factor:
            roles |= dict.fromkeys(axis.leaves(), "heads")
        for leaf in found.what.contracted.leaves():
            roles.setdefault(leaf, QUERY_KEY)
        for leaf in found.what.out.leaves():
            roles.setdefault(leaf, VALUE)
    for name, tensor in follower.names.items():
        if "weight_hh" in name and tensor.dim() > 1:
            roles |= dict.fromkeys(follower.axes[tensor][1].leaves(), "hidden units")
    return roles


def _filled(
    key: str, width: int, fixed: str, axis: Axis, layers: Sequence[Layer], roles: dict[Axis, str]
) -> ChannelGroup:
    """A group with the layers that make and read it."""
    slices = []
    for layer in layers:
        for side, extent in (("out", layer.outputs), ("in", layer.inputs)):
            if key in extent.groups and key not in layer.split.groups and layer.kind != "product":
                slices.append(Slice(layer.name, side, extent.index(key)))  # type: ignore[arg-type]
    producers = tuple(part.module for part in slices if part.side == "out")
    consumers = tuple(layer.name for layer in layers if key in layer.inputs.groups and key not in layer.split.groups)
    read = axis.mixed or any(key in (*layer.inputs.groups, *layer.repeats.groups) for layer in layers)
    if not fixed and not read:
        fixed = "nothing that is cut reads it"
    if not producers and not consumers:
        consumers = tuple(layer.name for layer in layers if key in layer.keys)
    if fixed:
        producers = producers or (key.partition("#")[0],)
    default = "channels" if any(x.kernel for x in layers if x.name in producers) else "features"
    return ChannelGroup(
        key, width, tuple(slices), producers, consumers, roles.get(axis, default),
        axis.added and len(producers) > 1, axis.mixed, fixed,
    )  # fmt: skip


def _tensors(
    follower: Follower, runs: dict[str, list[Found]], keys: Keys, itemsizes: Mapping[str, int]
) -> tuple[Held, ...]:
    """Every parameter and buffer, under each of its names."""
    trained = {name for name, _ in follower.model.named_parameters()}
    stored = set(follower.model.state_dict())
    layer_of = {found[0].weight: name for name, found in runs.items() if found[0].weight is not None}
    return tuple(
        Held(
            name, tuple(keys.extent(axis) for axis in follower.axes[tensor]), itemsizes[name], name in trained,
            name in stored, layer_of.get(name, ""),
        )
        for name, tensor in follower.names.items()
    )  # fmt: skip


def with_reasons(groups: Sequence[ChannelGroup], reasons: dict[str, str]) -> tuple[ChannelGroup, ...]:
    """The groups, of which these are fixed."""
    return tuple(replace(group, fixed=reasons.get(group.key, group.fixed)) for group in groups)
