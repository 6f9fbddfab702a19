"""Which channels live or die together. The only file that imports torch_pruning.

torch-pruning says, for every layer, which entries of which other modules each of its output channels reaches.
We join those statements channel by channel (union-find), so that residuals of concatenations, or branches
that overlap in part, come out right whatever order they were stated in.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.utils._pytree import tree_leaves
from torch_pruning.dependency.group import Group

from secateur.errors import TraceError
from secateur.graph.graph import Side

Place = tuple[str, Side, int]
"""(module, side, position): one channel as one module sees it."""

PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CUTTABLE = (*PRODUCERS, *BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.PReLU)

MOST_STEPS = 10_000
"""Statements about one layer's channels beyond which torch-pruning goes round in circles."""


@dataclass
class Coupling:
    """Units as sets of places; a place in no unit is not coupled to any layer's output.

    `added` holds places whose channel is a term of a sum. `blocked` says why a place cannot be cut.
    """

    units: list[list[Place]] = field(default_factory=list)
    added: set[Place] = field(default_factory=set)
    blocked: dict[Place, str] = field(default_factory=dict)


class _Union:
    """Disjoint sets of places, with path halving."""

    def __init__(self) -> None:
        self.parent: dict[Place, Place] = {}

    def find(self, place: Place) -> Place:
        self.parent.setdefault(place, place)
        while self.parent[place] != place:
            self.parent[place] = self.parent[self.parent[place]]
            place = self.parent[place]
        return place

    def join(self, one: Place, other: Place) -> None:
        self.parent[self.find(other)] = self.find(one)

    def sets(self) -> list[list[Place]]:
        members: defaultdict[Place, list[Place]] = defaultdict(list)
        for place in self.parent:
            members[self.find(place)].append(place)
        return list(members.values())


def is_depthwise(module: nn.Module) -> bool:
    """A convolution whose every channel is filtered alone (a one-channel layer is an ordinary one)."""
    return (
        isinstance(module, (nn.Conv1d, nn.Conv2d))
        and module.groups == module.in_channels == module.out_channels
        and module.groups > 1
    )


def side_length(module: nn.Module, side: Side) -> int:
    """Channels on one side of a module that can be cut."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return module.out_channels if side == "out" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if side == "out" else module.in_features
    if isinstance(module, BATCH_NORMS):
        return module.num_features
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    assert isinstance(module, nn.PReLU)
    return module.num_parameters


def couple(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Coupling:
    """Join every channel with all that has to be cut with it.

    `model` is a private copy in eval mode whose parameters all require gradients: torch-pruning reads
    autograd's graph, and a frozen parameter would silently drop out of it. Raises TraceError.
    """
    graph = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _padded_with_zeros(model):
                graph.build_dependency(model, inputs, output_transform=_tensors, verbose=False)
            if any("CopySlices" in node.name for node in graph.module2node.values()):
                raise TraceError("it writes into a part of a tensor in place; use torch.cat or F.pad there")
            with _bounded(4 * max(size for parameter in model.parameters() for size in parameter.shape)):
                statements = list(_statements(graph))
    except Exception as error:
        raise TraceError(
            f"cannot follow the channels through {type(model).__name__}: {type(error).__name__}: {error}. "
            "Check that the model runs on the example input with gradients on; parts that reshape channels "
            "(channel shuffle, grouped-query attention) cannot be followed"
        ) from error
    union, coupling = _Union(), Coupling()
    modules = dict(model.named_modules())
    for root, items in statements:
        for item in items:
            _join(root, item, union, coupling, modules)
    _balance(union, coupling, modules)
    coupling.units = union.sets()
    return coupling


def _tensors(output: object) -> list[torch.Tensor]:
    """Those among what a model answers, which may be None or a number in other places."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


@contextmanager
def _padded_with_zeros(model: nn.Module) -> Iterator[None]:
    """For a while, no convolution pads in another way: that changes no coupling, and circular padding writes
    into slices in place, on which torch-pruning never ends."""
    modes = {m: m.padding_mode for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d))}
    for module in modes:
        module.padding_mode = "zeros"
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.padding_mode = mode


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    """For a while, torch-pruning stops where it would follow channels round and round for ever."""
    add = Group.add_dep

    def add_dep(group: Any, dep: Any, idxs: Sequence[Any]) -> None:
        if len(group) > MOST_STEPS or len(idxs) > most:
            raise RecursionError("its concatenations or flattened pictures lead in circles")
        add(group, dep, idxs)

    Group.add_dep = add_dep
    try:
        yield
    finally:
        Group.add_dep = add


@dataclass(frozen=True)
class _Item:
    """One statement of torch-pruning: entry positions[i] of a module belongs to the root's channel roots[i]."""

    name: str | None
    what: str
    parameter: bool
    side: Side
    positions: Sequence[int]
    roots: Sequence[int]


def _statements(graph: Any) -> Iterable[tuple[str, list[_Item]]]:
    for module in graph.module2node:
        if not isinstance(module, PRODUCERS) or is_depthwise(module):
            continue
        pruner = graph.get_pruner_of_module(module)
        channels = list(range(side_length(module, "out")))
        group = graph.get_pruning_group(module, pruner.prune_out_channels, channels)
        items = []
        for item in group.items:
            target = item.dep.target
            outward = graph.is_out_channel_pruning_fn(item.dep.handler)
            name = graph._module2name.get(target.module)
            side: Side = "out" if outward or is_depthwise(target.module) else "in"
            bare = isinstance(target.module, nn.Parameter)
            what = graph._param_to_name.get(target.module, "") if bare else str(target.name)
            items.append(_Item(name, what, bare, side, item.idxs, item.root_idxs))
        yield graph._module2name[module], items


def _join(root: str, item: _Item, union: _Union, coupling: Coupling, modules: dict[str, nn.Module]) -> None:
    if item.name is None or item.parameter:
        _note(item, root, coupling)
        return
    module = modules[item.name]
    if not isinstance(module, CUTTABLE):
        if any(True for _ in module.parameters()):
            hint = ": convert it to BatchNorm2d" if isinstance(module, nn.SyncBatchNorm) else ""
            what = f"tied to {item.name} ({type(module).__name__}), which is not cut{hint}"
            coupling.blocked.update({(root, "out", channel): what for channel in item.roots})
        return
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return
    length = side_length(module, item.side)
    for position, channel in zip(item.positions, item.roots, strict=True):
        if position < length:
            union.join((root, "out", channel), (item.name, item.side, position))
        else:
            coupling.blocked[root, "out", channel] = f"its channels are shifted on the way to {item.name}"


def _note(item: _Item, root: str, coupling: Coupling) -> None:
    """Take from an operation without parameters, or from a bare parameter, what matters for cutting."""
    places: list[Place] = [(root, "out", channel) for channel in item.roots]
    if item.parameter:
        coupling.blocked.update(dict.fromkeys(places, f"tied to the bare parameter {item.what}"))
    elif "AddBackward" in item.what or "SubBackward" in item.what:
        coupling.added.update(places)


def _balance(union: _Union, coupling: Coupling, modules: dict[str, nn.Module]) -> None:
    """Tie channels so that every group of a grouped convolution or group norm loses the same number."""
    for place in list(union.parent):
        name, side, position = place
        groups = _groups(modules[name])
        period = side_length(modules[name], side) // groups
        for partner in range(position % period, groups * period, period):
            if (name, side, partner) in union.parent:
                union.join(place, (name, side, partner))
            else:
                coupling.blocked[place] = f"the other groups of {name} cannot be cut with it"


def _groups(module: nn.Module) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and not is_depthwise(module):
        return module.groups
    return 1
