"""Least squares: the weights on the channels that stay take over from those that left.

With G the moments of the dense inputs and S the features kept, `W_S = W G[:, S] (G[S, S] + ridge)^-1`.
The offset is refitted with them where there is a place to put it.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.graph import Kept, Layer, ModelGraph, matrix_of, structural, weight_of
from secateur.prune.cut import places
from secateur.prune.moments import AllMoments, Moments
from secateur.prune.offset import shift
from secateur.prune.solve import masked_least_squares, solve_positive
from secateur.prune.wide import in_blocks
from secateur.sparse import mask_of

RIDGE = 1e-4
"""Added to the diagonal of every matrix of moments, as a fraction of its mean: rank-deficient inputs stay solvable."""
REMEMBERED, PRODUCTS = 2**29, 2**28
"""Bytes kept for later candidates: of solutions, as orders are nested and the same input widths come back often; and of
weights times moments, which all solutions of a layer begin with."""


class Refitter:
    """Refits the consumers of any candidate, from moments collected once. With `remember`, what may come back in later
    candidates is kept."""

    def __init__(self, model: nn.Module, graph: ModelGraph, moments: AllMoments, remember: bool = True) -> None:
        self.graph = graph
        self.moments = moments
        self._weight = {name: weight_of(model, graph.layer[name]) for name in moments}
        self._fitted = [name for name in moments if matrix_of(graph.layer[name]).alone]
        self._products: dict[str, Tensor] = {}
        self._solved: dict[tuple[str, bytes], tuple[Tensor, Tensor]] = {}
        self._bytes, self._most = 0, REMEMBERED if remember else 0
        self._lock = threading.Lock()

    def apply(self, candidate: nn.Module, kept: Kept, sparse: bool = True) -> None:
        """Give the layers of a cut network that lost inputs, or weights, those that make up for them.

        Without `sparse`, layers that lost weights are left to another refit.
        """
        where, counts = places(self.graph, kept), {key: len(units) for key, units in structural(kept).items()}
        for name in self._fitted:
            layer, inward = self.graph.layer[name], where.get((name, "in"))
            mask = mask_of(candidate.get_submodule(name)) if layer.sparsities else None
            if (inward is None) if mask is None else (not sparse):
                continue
            outward = where.get((name, "out"))
            if outward is not None and not len(outward):  # it is bypassed
                continue
            left = slice(None) if outward is None else torch.from_numpy(outward)
            weight, offset = self._refitted(layer, inward, left, mask)
            if weight.numel():  # a bypassed layer has but its bias
                target = weight_of(candidate, layer, counts)
                target.copy_(weight.view(target.shape))
            if self.moments[name].centred:
                shift(candidate, layer, offset, counts)

    def _refitted(
        self, layer: Layer, inward: npt.NDArray[np.int64] | None, outward: Tensor | slice, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weights [outputs left, features left] and offset [outputs left]."""
        if mask is not None:
            return self.solve_masked(layer, inward, outward, mask)
        assert inward is not None
        key = (layer.name, inward.tobytes())
        solution = self._solved.get(key)
        if solution is None:
            solution = self.solve(layer, inward)
            self._remember(key, solution)
        return solution[0][outward], solution[1][outward]

    def _remember(self, key: tuple[str, bytes], solution: tuple[Tensor, Tensor]) -> None:
        with self._lock:
            if not self._most or key in self._solved:  # by another thread meanwhile
                return
            while self._solved and self._bytes > self._most:
                self._bytes -= self._solved.pop(next(iter(self._solved)))[0].nbytes
            self._bytes += solution[0].nbytes
            self._solved[key] = solution

    def solve(self, layer: Layer, inward: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Weights [out, features kept] on the input channels `inward`, and the offset [out] they leave."""
        moments, kept = self.moments[layer.name], self._features(layer, inward)
        weights, products = self._in_blocks(layer), self._with_moments(layer)
        blocks, size = len(moments.square) // layer.groups, moments.square.shape[1]
        of_block = [kept[kept // size == block] - block * size for block in range(blocks)]
        rows, offsets = [], []
        for group in range(layer.groups):
            solved, lost = [], []
            for number, mine in enumerate(of_block, start=group * blocks):
                solution = solve_positive(_kept(moments, number, mine), products[number][:, mine].T).T
                solved.append(solution)
                lost.append(_mean_lost(moments, number, weights[number], solution, mine))
            rows.append(torch.cat(solved, 1))
            offsets.append(torch.stack(lost).sum(0))
        precision = self._weight[layer.name].dtype
        return torch.cat(rows).to(precision), torch.cat(offsets).to(precision)

    def solve_masked(
        self, layer: Layer, inward: npt.NDArray[np.int64] | None, outward: Tensor | slice, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for the outputs `outward`, with the masked weights only."""
        weight, moments = self._weight[layer.name].flatten(2)[0][outward], self.moments[layer.name]
        kept = self._features(layer, np.arange(layer.in_channels) if inward is None else inward)
        square, right = _kept(moments, 0, kept), self._with_moments(layer)[0][outward][:, kept]
        start = weight[:, kept].float()
        solution = masked_least_squares(square.float(), right.float(), start, mask.flatten(1)).to(square.dtype)
        offset = _mean_lost(moments, 0, weight.to(square.dtype), solution, kept)
        return solution.to(weight.dtype), offset.to(weight.dtype)

    def _in_blocks(self, layer: Layer) -> Tensor:
        """The dense weight [groups * blocks, out, features of a block], as precise as the moments."""
        square = self.moments[layer.name].square
        return in_blocks(self._weight[layer.name].flatten(2), len(square) // layer.groups).to(square)

    def _with_moments(self, layer: Layer) -> Tensor:
        """The dense weight times the moments, as it is in blocks: the same for every candidate."""
        known = self._products.get(layer.name)
        if known is None:
            known = self._in_blocks(layer) @ self.moments[layer.name].square
            held = sum(product.nbytes for product in [*self._products.values()])
            if self._most and held + known.nbytes <= PRODUCTS:
                self._products[layer.name] = known
        return known

    def _features(self, layer: Layer, inward: npt.NDArray[np.int64]) -> Tensor:
        """Columns of the matrix form of the weight that belong to the input channels, in one group."""
        weight = self._weight[layer.name]
        area, period = int(np.prod(weight.shape[3:])), weight.shape[2]
        local = torch.from_numpy(np.unique(inward % period))  # the same in every group
        return (local[:, None] * area + torch.arange(area)).ravel().to(weight.device)


def _kept(moments: Moments, number: int, kept: Tensor) -> Tensor:
    """The moments of a block's features kept, [kept, kept], to be solved."""
    square = moments.square[number][kept][:, kept]
    square.diagonal().add_(RIDGE * square.diagonal().mean() + 1e-12)
    return square


def _mean_lost(moments: Moments, number: int, weight: Tensor, solution: Tensor, kept: Tensor) -> Tensor:
    """What the mean of the output [out] lost, where the offset can make up for it."""
    mean = moments.mean[number]
    return weight @ mean - solution @ mean[kept] if moments.centred else weight.new_zeros(len(weight))
