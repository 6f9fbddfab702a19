"""Which weights to keep inside a layer, and what the rest make up for: gradual elimination with refits.

With A the (centred) second moments of the layer's inputs and W0 its dense weights, weights go in stages: those that
add least to the output, `w_ij^2 A_jj`, leave; the others are refitted, `min_W tr((W - W0) A (W - W0)^T)` over what is
kept, by conjugate gradients on all rows at once; and so on. One pass gives one nested order for every density, and
the loss at each. Elements, blocks and N:M differ in what may leave together (`sparse.pattern`), in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.graph import Kept, Layer, ModelGraph, Sparsity
from secateur.prune.cut import places
from secateur.prune.moments import AllMoments
from secateur.prune.order import Criterion, Curve
from secateur.prune.refit import RIDGE
from secateur.prune.sensitivity import Sensitivity
from secateur.prune.solve import masked_least_squares
from secateur.sparse import Pattern, Runs

DESCENT = 0.85
"""From one stage to the next, of what was kept; finer stages lose hardly less."""
SPARSEST = 0.02


@dataclass(frozen=True, eq=False)
class WeightOrder:
    """`rank` [out, in * kh * kw], the higher the longer a weight stays; `loss[n]` [levels + 1] as an `Order` has it."""

    rank: Tensor
    loss: Curve


WeightOrders = Mapping[str, WeightOrder]
Masks = dict[str, tuple[Tensor, Pattern]]
"""Layer -> what it keeps, bool, shaped as its weight; and what went together: blocks where any did."""


def rank_weights(
    model: nn.Module, graph: ModelGraph, moments: AllMoments, criterion: Criterion, sensed: Sensitivity | None = None
) -> WeightOrders:
    """An order for every layer that may be sparse, by the key of its sparsity; outputs compare by what a change of each
    does to the answers, where that is `sensed`.

    By magnitude where that is the criterion, or there are no moments.
    """
    weighed = (sensed or Sensitivity()).square
    orders = {}
    for key, layer in graph.sparse.items():
        weight = model.get_parameter(f"{layer.name}.weight").detach().flatten(1)
        known = moments.get(layer.name) if criterion == "elimination" else None
        if known is None:
            orders[key] = WeightOrder(weight.abs(), np.full(graph.width(key) + 1, np.nan))
        else:
            square = known.square[0].to(torch.float32, copy=True)
            square.diagonal().add_(RIDGE * square.diagonal().mean() + 1e-12)
            weighs = weighed.get(layer.name)
            scale = None if weighs is None else weighs[0].diagonal().sqrt().to(weight)
            orders[key] = _eliminate(weight, square, graph.sparsity[key].pattern, graph.width(key), scale)
    return orders


def _eliminate(dense: Tensor, moments: Tensor, kind: Pattern, levels: int, scale: Tensor | None = None) -> WeightOrder:
    """Weights leave stage by stage, and those that stay are refitted; `scale` [out] is what outputs are multiplied by,
    so that losses are changes of the answers, not shares."""
    dense = dense.float() if scale is None else dense.float() * scale[:, None]
    right, weight = dense @ moments, dense
    energy = max(float((right * dense).sum()), 1e-30)
    unit = energy if scale is None else 1.0
    mask = torch.ones_like(dense, dtype=torch.bool)
    rank = torch.zeros_like(dense)
    densities, lost = [1.0], [0.0]
    for stage, density in enumerate(stages(kind)):
        value = weight.square() * moments.diagonal()
        stays = kind.best(value.masked_fill(~mask, -1.0), density) & mask
        leaves = mask & ~stays
        rank[leaves] = stage + _within(value)[leaves]
        mask = stays
        weight = masked_least_squares(moments, right, weight, mask)
        gap = weight - dense
        densities.append(density)
        lost.append(max(float(((gap @ moments) * gap).sum()) / unit, lost[-1]))
    rank[mask] = len(densities) + _within(weight.square() * moments.diagonal())[mask]
    curve = np.interp(np.arange(levels + 1) / levels, [0.0, *densities[::-1]], [energy / unit, *lost[::-1]])
    return WeightOrder(rank, curve)


def stages(kind: Pattern) -> list[float]:
    """Densities, falling, at which weights leave."""
    if isinstance(kind, Runs):
        return [count / kind.length for count in range(kind.length - 1, 0, -1)]
    count = int(np.log(SPARSEST) / np.log(DESCENT))
    return [DESCENT**number for number in range(1, count + 1)]


def _within(value: Tensor) -> Tensor:
    """Values as ranks in [0, 1): an order within one stage."""
    ranks = value.flatten().argsort().argsort().view_as(value)
    return ranks.to(value.dtype) / value.numel()


def masks(graph: ModelGraph, orders: WeightOrders, counts: Mapping[str, int], kept: Kept) -> Masks:
    """What each layer that gets sparse keeps [out, in, kh, kw], of what the channels cut leave of it."""
    where = places(graph, kept)

    def value(layer: Layer, each: Sparsity) -> Tensor:
        rank = orders[each.key].rank.unflatten(1, (layer.in_channels, *layer.kernel))
        return _left(_left(rank, 0, where.get((layer.name, "out"))), 1, where.get((layer.name, "in")))

    return masks_by(graph, counts, value)


def masks_by(graph: ModelGraph, counts: Mapping[str, int], value: Callable[[Layer, Sparsity], Tensor]) -> Masks:
    """What each layer that gets sparse keeps, by the value of its weights to each of its sparsities: one after the
    other, each of what the one before has left."""
    found: Masks = {}
    for layer in graph.layers:
        for each in layer.sparsities:
            if (density := each.density(counts)) < 1:
                worth = value(layer, each)
                mask, coarsest = found.get(layer.name, (None, each.pattern))
                chosen, flat = each.pattern, worth.flatten(1)
                left = chosen.best(flat, density) if mask is None else chosen.within(flat, density, mask.flatten(1))
                found[layer.name] = left.view_as(worth), coarsest if chosen.fine else chosen
    return found


def _left(rank: Tensor, axis: int, channels: npt.NDArray[np.int64] | None) -> Tensor:
    return rank if channels is None else rank.index_select(axis, torch.from_numpy(channels).to(rank.device))
