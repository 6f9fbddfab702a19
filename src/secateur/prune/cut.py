"""Surgery: take units out of every tensor they lie in, so that the network becomes physically smaller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.errors import PlanError
from secateur.graph import (
    Attribute,
    Extent,
    Held,
    Kept,
    ModelGraph,
    Side,
    StatedSize,
    bypassed,
    copied,
    forgetful,
    opened,
    structural,
    tensor_of,
)
from secateur.prune.bypass import Bypassed, bypass_only
from secateur.prune.entry import pick_all
from secateur.prune.restate import Layers, grouped, layers_of, restate

Places = dict[tuple[str, Side], npt.NDArray[np.int64]]
"""(layer, side) -> positions that stay, ascending; only the sides that lose something."""


def places(graph: ModelGraph, kept: Kept) -> Places:
    """Where the kept units lie: for every side of every layer that loses channels, the positions left."""
    lost = lossy(graph, kept)
    found: Places = {}
    for layer in graph.layers:
        for side, extent in (("in", layer.inputs), ("out", layer.outputs)):
            if not lost.keys().isdisjoint(extent.groups):
                found[layer.name, side] = extent.alive(lost)  # type: ignore[index]
    return found


def lossy(graph: ModelGraph, kept: Kept) -> dict[str, npt.NDArray[np.int64]]:
    """The groups that lose something. Raises PlanError where one must not."""
    lost = {}
    for key, units in kept.items():
        group = graph.group[key]
        if group.fixed:
            raise PlanError(f"{key} cannot be cut: {group.fixed}. Take it out of the plan")
        if not len(units) and not group.bypass:
            raise PlanError(f"{key} has to keep something: it is not the inside of a residual branch")
        if len(units) < group.width:
            lost[key] = np.asarray(units, dtype=np.int64)
    return lost


class Cutter:
    """One private copy of a network that can be cut again and again from the dense tensors.

    Every tensor is renewed at each cut, so whatever a refit did to the last candidate is gone.
    """

    def __init__(self, model: nn.Module, graph: ModelGraph) -> None:
        self.dense = model
        self.model = opened(copied(model, share=True))
        self.graph = graph
        self._modules = dict(self.model.named_modules())
        self._stated = layers_of(self.model)
        for group in graph.groups:
            if group.entry:
                pick_all(self._modules[group.consumers[0]])
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        self._dense = {name: tensor.detach() for name, tensor in named}
        self._ties = ties(self.model)
        self._never_run = {name for name, module in self._modules.items() if isinstance(module, Bypassed)}
        self._lost: Kept = {}

    def cut(self, kept: Kept) -> nn.Module:
        """Give the private copy the kept channels of the dense network, and return it.

        Where a group keeps nothing, its layers are bypassed; all that the code around them sees is one unit.
        """
        left_out = {layer.name for layer in bypassed(self.graph, {key: len(units) for key, units in kept.items()})}
        bypass_only(self.model, left_out | self._never_run)
        self._lost = lost = lossy(self.graph, structural(kept))
        alive: dict[Extent, Tensor] = {}
        for name, tensor in self._dense.items():
            held = self.graph.tensor.get(name)
            value = tensor if held is None else _part(tensor, held, lost, alive)
            owner, _, leaf = name.rpartition(".")
            set_tensor(self._modules[owner], leaf, value)
        for g, v, dim in self.graph.norms:
            if not lost.keys().isdisjoint(self.graph.tensor[v].groups):
                self._keep_norms(g, v, dim)
        for u, weight, v in self.graph.spectra:
            if not lost.keys().isdisjoint(self.graph.tensor[weight].groups):
                self._keep_spectrum(u, weight, v)
        for (owner, leaf), (other, its) in self._ties.items():
            setattr(self._modules[owner], leaf, getattr(self._modules[other], its))
        counts = {key: len(units) for key, units in lost.items()}
        set_attributes(self._modules, self.graph.attributes, counts)
        set_sizes(self._modules, self.graph.sizes, counts, self._stated)
        return forgetful(self.model)

    def _keep_norms(self, g: str, v: str, dim: int) -> None:
        """Scale the norms of a weight, so that what stays of it is what it was."""
        left = self.model.get_parameter(v).detach()
        held, whole = self.graph.tensor[v], self._dense[v]
        rest = [each for each in range(whole.dim()) if each != dim]
        before = torch.linalg.vector_norm(whole, dim=rest, keepdim=True).index_select(
            dim, self._alive(held.extents[dim], whole)
        )
        self.model.get_parameter(g).data.mul_(torch.linalg.vector_norm(left, dim=rest, keepdim=True) / before)

    def _keep_spectrum(self, u: str, weight: str, v: str) -> None:
        """Scale a singular vector, so that `u W v`, which the weight is divided by, is what it was."""
        dim = self.graph.tensor[weight].extents.index(self.graph.tensor[u].extents[0])

        def norm(tensors: Mapping[str, Tensor]) -> Tensor:
            return tensors[u] @ tensors[weight].movedim(dim, 0).flatten(1) @ tensors[v]

        left = {name: tensor_of(self.model, name).detach() for name in (u, weight, v)}
        left[u].mul_(norm(self._dense) / norm(left))

    def _alive(self, extent: Extent, like: Tensor) -> Tensor:
        return torch.from_numpy(extent.alive(self._lost)).to(like.device)


def _part(tensor: Tensor, held: Held, lost: Kept, alive: dict[Extent, Tensor]) -> Tensor:
    """What is left of a tensor."""
    for dim, extent in enumerate(held.extents):
        if lost.keys().isdisjoint(extent.groups):
            continue
        if extent not in alive:
            alive[extent] = torch.from_numpy(extent.alive(lost))
        tensor = tensor.index_select(dim, alive[extent].to(tensor.device))
    return tensor


def set_attributes(
    modules: Mapping[str, nn.Module], attributes: Iterable[Attribute], counts: Mapping[str, int]
) -> None:
    """Make modules' own numbers say what they are now."""
    for each in attributes:
        if isinstance(modules[each.module], torch.jit.ScriptModule):  # its numbers are constants
            continue
        setattr(modules[each.module], each.name, each.value(counts))


def set_sizes(
    modules: Mapping[str, nn.Module],
    sizes: Iterable[StatedSize],
    counts: Mapping[str, int],
    before: Mapping[str, Layers],
) -> None:
    """Make forwards state the sizes that there are now; where nothing is cut, those that they stated `before`."""
    sizes = list(sizes)
    stated = grouped((each.where, each.path, each.value(counts)) for each in sizes) if counts else {}
    for name in {each.where.module for each in sizes} | {name for name in before if name in modules}:
        restate(modules[name], (*before.get(name, ()), *([stated[name]] if name in stated else [])))


def ties(model: nn.Module) -> dict[tuple[str, str], tuple[str, str]]:
    """Parameters that are other ones under a second name: (module, name) -> the first."""
    first: dict[Tensor, tuple[str, str]] = {}
    return {
        (name, key): owner
        for name, module in model.named_modules()
        for key, parameter in module.named_parameters(recurse=False)
        if (owner := first.setdefault(parameter, (name, key))) != (name, key)
    }


def set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or a buffer by a tensor of any shape, keeping `requires_grad`."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        fresh = value.detach().clone(memory_format=torch.contiguous_format)
        setattr(module, name, nn.Parameter(fresh, requires_grad=old.requires_grad))
    else:
        setattr(module, name, value.detach().clone())
