"""Which channels to keep: one nested order a group, so that one pass serves every ratio.

Backward elimination (optimal brain surgeon on whole channels): remove the unit whose loss of the refitted
consumers is least, `tr(W_u (P_uu)^-1 W_u^T S)` with P = G^-1, then update W and P as if it had never been there.
G are the moments of the consumer's inputs, S says what a change of its outputs does to the network's answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.graph import ChannelGroup, Kept, ModelGraph, tensor_of, weight_of
from secateur.prune.moments import AllMoments, Moments
from secateur.prune.refit import RIDGE
from secateur.prune.sensitivity import Sensitivity
from secateur.prune.wide import precision
from secateur.threads import torch_threads

Curve = npt.NDArray[np.float64]
Criterion = Literal["elimination", "magnitude"]
PUT_OFF = 64
"""Columns of an elimination's updates that are put off at most, then made up for together."""


@dataclass(frozen=True, eq=False)
class Order:
    """Units of a group, most valuable first, and `loss[n]`: by how much the answers change when n units stay, as a
    share of their variance (0 with all of them; NaN where the criterion does not tell). Where the network has no
    gradients, it is the share of the consumers' output energy that is lost."""

    units: npt.NDArray[np.int64]
    loss: Curve

    def keep(self, count: int) -> npt.NDArray[np.int64]:
        """The `count` most valuable units, ascending."""
        return np.sort(self.units[:count])


Orders = Mapping[str, Order]


def keep(orders: Orders, counts: Mapping[str, int]) -> Kept:
    """The units that stay when each group keeps its best `counts[key]`."""
    return {key: orders[key].keep(count) for key, count in counts.items()}


def rank(
    model: nn.Module,
    graph: ModelGraph,
    moments: AllMoments,
    criterion: Criterion = "elimination",
    sensed: Sensitivity | None = None,
) -> Orders:
    """An order for every prunable group.

    A group whose consumers have no moments (query and key dims, read by each other) is ranked by what its units do to
    the answers as they are, where that is `sensed`, else by magnitude.
    """
    sensed = sensed or Sensitivity()
    orders = {}
    with torch_threads(1):
        for group in graph.prunable:
            if criterion == "magnitude":
                orders[group.key] = by_magnitude(model, graph, group)
            elif group.consumers and all(name in moments for name in group.consumers):
                orders[group.key] = eliminate(model, graph, group, moments, sensed)
            elif group.producers and all(name in sensed.energy for name in group.producers):
                orders[group.key] = by_gradient(group, sensed)
            else:
                orders[group.key] = by_magnitude(model, graph, group)
    return orders


def by_gradient(group: ChannelGroup, sensed: Sensitivity) -> Order:
    """Units of largest `E[g^2] E[y^2]` first, y what a producer gives there and g the answers' gradient by it.

    Nothing makes up for them. A product that two producers make of a unit is looked at from both sides, and the lesser
    counts: what all keys have in common, say, attention does not see.
    """
    losses = []
    for part in group.made:
        weight = sensed.square[part.module].diagonal(dim1=1, dim2=2) * sensed.energy[part.module]
        losses.append(weight.flatten().numpy()[part.index].sum(1))
    value = np.min(losses, axis=0)
    order = np.argsort(-value, kind="stable")
    return Order(order, np.append(np.cumsum(value[order][::-1])[::-1], 0.0))


def by_magnitude(model: nn.Module, graph: ModelGraph, group: ChannelGroup) -> Order:
    """Largest L1 norm of the producing filters first (Li et al., 2017); of an entry, of what reads the channels."""
    score = np.zeros(group.width)
    made_by = {graph.layer[name].weight for name in group.layers}
    for held in [graph.tensor[name] for name in made_by if name] or graph.tensors:
        for dim, extent in enumerate(held.extents):
            if group.key in extent.groups:
                weight = tensor_of(model, held.name)
                rows = weight.detach().transpose(0, dim).reshape(weight.shape[dim], -1)
                norms = rows.abs().double().mean(1).cpu().numpy()
                score += norms[extent.index(group.key)].sum(1)
    order = np.argsort(-score, kind="stable")
    return Order(order, np.full(group.width + 1, np.nan))


class _Consumer:
    """One group of one consuming layer, as far as it concerns the features of the units that still stand.

    All that counts are two matrices over these features: P, the inverse of the inputs' moments, and M = W^T S W of the
    refitted weights W. Removing the features r leaves P - P_r Z^T and M - Z V^T - V Z^T, with Z = P_r (P_rr)^-1 and
    V = M_r - Z M_rr / 2. Going through both matrices for so little arithmetic is slow, so these updates are put off
    and made up for many at a time, as in blocked factorisations; each unit's own blocks alone are always up to date.
    """

    def __init__(self, inverse: Tensor, gram: Tensor, features: Tensor) -> None:
        """P and M [D, D] of all the layer's features; `features` [units, each] are the units'."""
        mine, self._each = features.flatten(), features.shape[1]
        self._inverse, self._gram = inverse[mine][:, mine], gram[mine][:, mine]
        self._blocks = torch.arange(len(mine), device=mine.device).view_as(features)
        rows, columns = self._blocks[:, :, None], self._blocks[:, None, :]
        self._own_inverse, self._own_gram = self._inverse[rows, columns], self._gram[rows, columns]
        self._begin()

    def _begin(self) -> None:
        """With nothing put off."""
        columns = max(PUT_OFF // self._each, 1) * self._each
        self._put_off = self._inverse.new_empty(3, len(self._inverse), columns)
        self._waiting = 0

    def losses(self) -> Tensor:
        """Loss of removing each unit that stands, [units]: the trace of (P_uu)^-1 M_uu."""
        if self._each == 1:
            return (self._own_gram / self._own_inverse)[:, 0, 0]
        solved: Tensor = torch.linalg.solve(self._own_inverse, self._own_gram)
        return solved.diagonal(dim1=1, dim2=2).sum(1)

    def remove(self, place: int) -> None:
        """Take away the unit at this place among those that stand, and refit to the others."""
        block = self._blocks[place]
        p, z, v = self._put_off[:, :, : self._waiting]
        reach = self._inverse[:, block] - p @ z[block].T
        gram = self._gram[:, block] - z @ v[block].T - v @ z[block].T
        gain = torch.linalg.solve(reach[block], reach, left=False)
        rest = gram - gain @ gram[block] / 2
        self._blocks, own_inverse, own_gram = (
            torch.cat((x[:place], x[place + 1 :])) for x in (self._blocks, self._own_inverse, self._own_gram)
        )
        p, z, v = (x[self._blocks] for x in (reach, gain, rest))
        crossed = z @ v.mT
        self._own_inverse, self._own_gram = own_inverse - p @ z.mT, own_gram - crossed - crossed.mT
        new = slice(self._waiting, self._waiting + self._each)
        for put_off, columns in zip(self._put_off, (reach, gain, rest), strict=True):
            put_off[:, new] = columns
        self._waiting = new.stop
        if self._waiting == self._put_off.shape[2]:
            self._make_up()

    def _make_up(self) -> None:
        """Do what was put off, for the features that are left."""
        left = self._blocks.flatten()
        p, z, v = self._put_off[:, left]
        self._inverse = self._inverse[left][:, left].addmm_(p, z.T, alpha=-1)
        self._gram = self._gram[left][:, left].addmm_(z, v.T, alpha=-1).addmm_(v, z.T, alpha=-1)
        self._blocks = torch.arange(len(left), device=left.device).view_as(self._blocks)
        self._begin()


class _InBlocks:
    """A consumer so wide that its features are in blocks, each a problem of its own; no unit is in two."""

    def __init__(self, blocks: Sequence[_Consumer], block_of: npt.NDArray[np.int64]) -> None:
        """`block_of` [units]."""
        self._blocks, self._block_of = blocks, block_of
        self._losses = [block.losses() for block in blocks]

    def losses(self) -> Tensor:
        """As a single consumer has them, [units]."""
        found = self._losses[0].new_empty(len(self._block_of))
        for number, losses in enumerate(self._losses):
            found[torch.from_numpy(self._block_of == number)] = losses
        return found

    def remove(self, place: int) -> None:
        """As of a single consumer."""
        number = self._block_of[place]
        self._blocks[number].remove(int((self._block_of[:place] == number).sum()))
        self._losses[number] = self._blocks[number].losses()
        self._block_of = np.delete(self._block_of, place)


def eliminate(
    model: nn.Module,
    graph: ModelGraph,
    group: ChannelGroup,
    moments: AllMoments,
    sensed: Sensitivity | None = None,
) -> Order:
    """Remove units one by one, always the one whose loss over all consumers is least."""
    consumers: list[_Consumer | _InBlocks] = []
    energy = 0.0
    weighed = (sensed or Sensitivity()).square
    absolute = all(part.module in weighed for part in group.slices if part.side == "in")
    for part in group.slices:
        if part.side == "in":
            weight = weight_of(model, graph.layer[part.module])
            square = weighed[part.module] if absolute else None
            for consumer, energy_here in _consumers(weight, part.index, moments[part.module], square):
                consumers.append(consumer)
                energy += energy_here
    standing, removed = [*range(group.width)], []
    lost = np.zeros(group.width + 1)
    while len(standing) > 1:
        losses = sum(consumer.losses().cpu() for consumer in consumers)
        assert isinstance(losses, Tensor)
        place = int(losses.argmin())
        removed.append(standing.pop(place))
        lost[len(standing)] = lost[len(standing) + 1] + max(float(losses[place]), 0.0)
        for consumer in consumers:
            consumer.remove(place)
    removed += standing
    lost[0] = energy
    return Order(np.array(removed[::-1]), lost if absolute else lost / max(energy, 1e-30))


def _consumers(
    weight: Tensor, index: npt.NDArray[np.int64], moments: Moments, weighed: Tensor | None
) -> Iterator[tuple[_Consumer | _InBlocks, float]]:
    """The consumer's groups as problems of their own, each with the energy of its dense output, which is `weighed` by
    matrices [groups * blocks, out, out]. `weight` is [groups, out, in, *kernel]."""
    groups, channels, area = len(weight), weight.shape[2], int(np.prod(weight.shape[3:]))
    blocks = len(moments.square) // groups
    size = channels // blocks
    for group in range(groups):
        mine = index[:, (index[0] // channels) == group] % channels
        block_of = mine[:, 0] // size
        found = []
        for block in range(blocks):
            features = torch.from_numpy(mine[block_of == block] - block * size)[:, :, None] * area + torch.arange(area)
            columns = weight[group][:, block * size : (block + 1) * size].flatten(1)
            by = None if weighed is None else weighed.view(groups, -1, *weighed.shape[1:])[group]
            found.append(_problem(columns, features.flatten(1), moments.square[group * blocks + block], by))
        consumers, energies = zip(*found, strict=True)
        yield consumers[0] if blocks == 1 else _InBlocks(consumers, block_of), sum(energies)


def _problem(weight: Tensor, features: Tensor, moments: Tensor, weighed: Tensor | None) -> tuple[_Consumer, float]:
    """One block of weights [out, D], and the energy of what it gives, weighed by [blocks of out, out, out]."""
    square = moments.to(precision(len(moments)), copy=True)
    rows = weight.to(square)
    behind = rows if weighed is None else (weighed.to(square) @ rows.unflatten(0, weighed.shape[:2])).flatten(0, 1)
    gram = rows.T @ behind
    energy = float((gram * square).sum())
    square.diagonal().add_(RIDGE * square.diagonal().mean() + 1e-12)
    return _Consumer(torch.linalg.inv(square), gram, features.to(weight.device)), energy
