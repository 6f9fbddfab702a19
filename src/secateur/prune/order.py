"""Which channels to keep: one nested order a group, so that one pass serves every ratio.

Backward elimination (optimal brain surgeon on whole channels): remove the unit whose loss of the refitted
consumers is least, `tr(W_u (P_uu)^-1 W_u^T)` with P = G^-1, then update W and P as if it had never been there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.graph import ChannelGroup, ModelGraph
from secateur.prune.cut import Kept
from secateur.prune.moments import AllMoments, Moments
from secateur.prune.refit import RIDGE
from secateur.threads import torch_threads

Curve = npt.NDArray[np.float64]
Criterion = Literal["elimination", "magnitude"]


@dataclass(frozen=True, eq=False)
class Order:
    """Units of a group, most valuable first, and `loss[n]`: the share of the consumers' output energy that is
    lost when n units stay (0 with all of them; NaN where the criterion does not tell)."""

    units: npt.NDArray[np.int64]
    loss: Curve

    def keep(self, count: int) -> npt.NDArray[np.int64]:
        """The `count` most valuable units, ascending."""
        return np.sort(self.units[:count])


Orders = Mapping[str, Order]


def keep(orders: Orders, counts: Mapping[str, int]) -> Kept:
    """The units that stay when each group keeps its best `counts[key]`."""
    return {key: orders[key].keep(count) for key, count in counts.items()}


def rank(model: nn.Module, graph: ModelGraph, moments: AllMoments, criterion: Criterion = "elimination") -> Orders:
    """An order for every prunable group; groups whose consumers have no moments fall back to magnitude."""
    orders = {}
    with torch_threads(1):
        for group in graph.prunable:
            known = criterion == "elimination" and all(name in moments for name in group.consumers)
            orders[group.key] = eliminate(model, group, moments) if known else by_magnitude(model, group)
    return orders


def by_magnitude(model: nn.Module, group: ChannelGroup) -> Order:
    """Largest L1 norm of the producing filters first (Li et al., 2017)."""
    score = np.zeros(group.width)
    for part in group.slices:
        if part.side == "out" and part.module in group.producers:
            weight = model.get_parameter(f"{part.module}.weight").detach()
            norms = weight.flatten(1).abs().mean(1).double().cpu().numpy()
            score += norms[part.index].sum(1)
    order = np.argsort(-score, kind="stable")
    return Order(order, np.full(group.width + 1, np.nan))


@dataclass
class _Consumer:
    """One group of one consuming layer: inverse Gram P [D, D], weights W [out, D], features of each unit."""

    inverse: Tensor
    weight: Tensor
    blocks: Tensor

    def losses(self, alive: Tensor) -> Tensor:
        """Loss of removing each unit that is still there, [alive]."""
        blocks = self.blocks[alive]
        square = self.inverse[blocks[:, :, None], blocks[:, None, :]]
        slabs = self.weight[:, blocks].permute(1, 2, 0)
        if square.shape[1] == 1:
            return (slabs.square().sum(2) / square[:, :, 0])[:, 0]
        losses: Tensor = (torch.linalg.solve(square, slabs) * slabs).sum((1, 2))
        return losses

    def remove(self, unit: int) -> None:
        """Schur complement: weights and inverse moments as if the unit's features had never been there."""
        block = self.blocks[unit]
        gain = torch.linalg.solve(self.inverse[block][:, block], self.inverse[block])
        self.weight -= self.weight[:, block] @ gain
        self.inverse -= self.inverse[:, block] @ gain


def eliminate(model: nn.Module, group: ChannelGroup, moments: AllMoments) -> Order:
    """Remove units one by one, always the one whose loss over all consumers is least."""
    consumers: list[_Consumer] = []
    energy = 0.0
    for part in group.slices:
        if part.side == "in":
            module = model.get_submodule(part.module)
            for consumer, energy_here in _consumers(module, part.index, moments[part.module]):
                consumers.append(consumer)
                energy += energy_here
    alive = torch.ones(group.width, dtype=torch.bool)
    removed: list[int] = []
    lost = np.zeros(group.width + 1)
    for left in range(group.width, 1, -1):
        standing = alive.nonzero()[:, 0]
        losses = sum(consumer.losses(standing.to(consumer.blocks.device)).cpu() for consumer in consumers)
        assert isinstance(losses, Tensor)
        unit = int(standing[int(losses.argmin())])
        lost[left - 1] = lost[left] + max(float(losses.min()), 0.0)
        for consumer in consumers:
            consumer.remove(unit)
        alive[unit] = False
        removed.append(unit)
    removed.append(int(alive.nonzero()[0, 0]))
    lost[0] = energy
    return Order(np.array(removed[::-1]), lost / max(energy, 1e-30))


def _consumers(module: nn.Module, index: npt.NDArray[np.int64], moments: Moments) -> list[tuple[_Consumer, float]]:
    """The consumer's groups as problems of their own, each with the energy of its dense output."""
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
    weight = module.weight.detach().flatten(1)
    period, area = module.weight.shape[1], int(np.prod(module.weight.shape[2:]))
    found = []
    for number, square in enumerate(moments.square):
        mine = index[:, (index[0] // period) == number] % period
        blocks = (torch.from_numpy(mine)[:, :, None] * area + torch.arange(area)).flatten(1).to(weight.device)
        precise = torch.float64 if len(square) <= 2048 else torch.float32
        rows = weight.unflatten(0, (len(moments.square), -1))[number].to(precise)
        square = square.to(precise, copy=True)
        energy = float(((rows @ square) * rows).sum())
        square.diagonal().add_(RIDGE * square.diagonal().mean())
        found.append((_Consumer(torch.linalg.inv(square), rows.clone(), blocks), energy))
    return found
