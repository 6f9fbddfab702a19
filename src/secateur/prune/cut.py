"""Surgery: take channels out of every tensor they lie in, so that the network becomes physically smaller."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.errors import PlanError
from secateur.graph import BATCH_NORMS, ModelGraph, Side
from secateur.graph.coupling import side_length
from secateur.prune.entry import PICKED, pick_all

Kept = Mapping[str, npt.NDArray[np.int64]]
"""Group key -> units that stay, ascending. A group that is absent stays whole."""
Places = dict[tuple[str, Side], npt.NDArray[np.int64]]
"""(module, side) -> positions that stay, ascending; only the sides that lose something."""


def places(graph: ModelGraph, kept: Kept) -> Places:
    """Where the kept units lie: for every side of every module that loses channels, the positions left."""
    stays: dict[tuple[str, Side], npt.NDArray[np.bool_]] = {}
    for key, units in kept.items():
        group = graph.group[key]
        if group.fixed:
            raise PlanError(f"{key} cannot be cut: {group.fixed}. Take it out of the plan")
        gone = np.ones(group.width, dtype=bool)
        gone[units] = False
        for part in group.slices if gone.any() else ():
            side = (part.module, part.side)
            if side not in stays:
                stays[side] = np.ones(_length(graph, *side), dtype=bool)
            stays[side][part.index[gone]] = False
    return {side: np.flatnonzero(mask) for side, mask in stays.items()}


def _length(graph: ModelGraph, name: str, side: Side) -> int:
    layer = graph.layer.get(name)
    if layer is not None:
        return layer.in_channels if side == "in" else layer.out_channels
    parts = [part for group in graph.groups for part in group.slices if part.module == name]
    return 1 + max(int(part.index.max()) for part in parts)


class Cutter:
    """One private copy of a network that can be cut again and again from the dense tensors.

    Every tensor is renewed at each cut, so whatever a refit did to the last candidate is gone.
    """

    def __init__(self, model: nn.Module, graph: ModelGraph) -> None:
        self.dense = model
        self.model = copy.deepcopy(model)
        self.graph = graph
        self._modules = dict(self.model.named_modules())
        for group in graph.groups:
            if group.entry:
                pick_all(self._modules[group.consumers[0]])
        self._dense = {name: own for name, module in self._modules.items() if (own := _tensors(module))}
        first: dict[Tensor, tuple[str, str]] = {}
        self._ties = {
            (name, key): owner
            for name, module in self._modules.items()
            for key, parameter in module.named_parameters(recurse=False)
            if (owner := first.setdefault(parameter, (name, key))) != (name, key)
        }
        self._lengths = {
            name: (side_length(self._modules[name], "in"), side_length(self._modules[name], "out"))
            for name in {part.module for group in graph.groups for part in group.slices} | graph.layer.keys()
        }

    def cut(self, kept: Kept) -> nn.Module:
        """Give the private copy the kept channels of the dense network, and return it."""
        where = places(self.graph, kept)
        for name in self._dense:
            self._place(name, where.get((name, "in")), where.get((name, "out")))
        for (name, key), (owner, its) in self._ties.items():
            setattr(self._modules[name], key, getattr(self._modules[owner], its))
        return self.model

    def _place(self, name: str, inward: npt.NDArray[np.int64] | None, outward: npt.NDArray[np.int64] | None) -> None:
        module, dense = self._modules[name], self._dense[name]
        length_in, length_out = self._lengths.get(name, (0, 0))
        layer = self.graph.layer.get(name)
        groups = layer.groups if layer is not None and layer.kind == "conv" else 1
        local = inward if inward is None or groups == 1 else inward[inward < length_in // groups]
        for key, tensor in dense.items():
            value = tensor
            if key == PICKED:
                value = value if local is None else value[torch.from_numpy(local).to(value.device)]
            elif outward is not None and tensor.dim() > 0 and len(tensor) == length_out:
                value = value[torch.from_numpy(outward).to(value.device)]
            if local is not None and key == "weight" and tensor.dim() > 1:
                value = value[:, torch.from_numpy(local).to(value.device)]
            set_tensor(module, key, value)
        if name in self._lengths:
            left_in = length_in if inward is None else len(inward)
            left_out = length_out if outward is None else len(outward)
            resize(module, left_in, left_out, depthwise=layer is not None and layer.kind == "depthwise")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: tensor.detach() for name, tensor in own}


def set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or a buffer by a tensor of any shape, keeping `requires_grad`."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        fresh = value.detach().clone(memory_format=torch.contiguous_format)
        setattr(module, name, nn.Parameter(fresh, requires_grad=old.requires_grad))
    else:
        setattr(module, name, value.detach().clone())


def resize(module: nn.Module, length_in: int, length_out: int, depthwise: bool = False) -> None:
    """Make a module's own numbers say how many channels it has now."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        if depthwise:
            module.groups = length_in = length_out
        module.in_channels, module.out_channels = length_in, length_out
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = length_in, length_out
    elif isinstance(module, BATCH_NORMS):
        module.num_features = length_out
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], length_out)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = length_out
    elif isinstance(module, nn.PReLU):
        module.num_parameters = length_out
