"""Least squares: the weights on the channels that stay take over from those that left.

With G = E[x x^T] of the dense inputs and S the features kept, `W_S = W G[:, S] (G[S, S] + ridge)^-1`.
The offset is refitted with them where there is a place to put it: the layer's bias, or the running mean of
the batch norm that alone reads the layer.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.graph import Layer, ModelGraph
from secateur.prune.conjugate import masked_least_squares
from secateur.prune.cut import Kept, places
from secateur.prune.gram import Grams
from secateur.sparse import mask_of

RIDGE = 1e-4
"""Added to the diagonal of every Gram matrix, as a fraction of its mean: rank-deficient inputs stay solvable."""
REMEMBERED = 2**30
"""Bytes of solutions kept for later candidates: orders are nested, so the same input widths come back often."""


def has_offset(model: nn.Module, layer: Layer) -> bool:
    """Whether the layer's output can be shifted without changing the architecture."""
    if getattr(model.get_submodule(layer.name), "bias", None) is not None:
        return True
    return layer.norm is not None and getattr(model.get_submodule(layer.norm), "running_mean", None) is not None


def shift(model: nn.Module, layer: Layer, offset: Tensor) -> None:
    """Add `offset` [out] to the layer's output, through its bias or the running mean of its norm."""
    bias = getattr(model.get_submodule(layer.name), "bias", None)
    if bias is not None:
        bias.data.add_(offset)
    elif layer.norm is not None:
        mean = model.get_buffer(f"{layer.norm}.running_mean")
        mean.sub_(offset)


class Refitter:
    """Refits the consumers of any candidate, from moments collected once."""

    def __init__(self, model: nn.Module, graph: ModelGraph, grams: Grams) -> None:
        self.graph = graph
        self.grams = grams
        self._weight = {name: model.get_parameter(f"{name}.weight").detach() for name in grams}
        self._offset = {name: has_offset(model, graph.layer[name]) for name in grams}
        self._solved: dict[tuple[str, bytes], tuple[Tensor, Tensor]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def apply(self, candidate: nn.Module, kept: Kept, sparse: bool = True) -> None:
        """Give the layers of a cut network that lost inputs, or weights, those that make up for them.

        Without `sparse`, layers that lost weights are left to another refit.
        """
        where = places(self.graph, kept)
        for name in self.grams:
            layer, inward = self.graph.layer[name], where.get((name, "in"))
            mask = mask_of(candidate.get_submodule(name))
            if (inward is None) if mask is None else (not sparse):
                continue
            outward = where.get((name, "out"))
            left = slice(None) if outward is None else torch.from_numpy(outward)
            weight, offset = self._refitted(layer, inward, left, mask)
            target = candidate.get_parameter(f"{name}.weight")
            target.data.copy_(weight.view(target.shape))
            if self._offset[name]:
                shift(candidate, layer, offset)

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
            while self._solved and self._bytes > REMEMBERED:
                self._bytes -= self._solved.pop(next(iter(self._solved)))[0].nbytes
            self._bytes += solution[0].nbytes
            self._solved[key] = solution

    def solve(self, layer: Layer, inward: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Weights [out, features kept] on the input channels `inward`, and the offset [out] they leave."""
        weight, kept = self._weight[layer.name], self._features(layer, inward)
        rows, offsets = [], []
        for gram, w in zip(self.grams[layer.name], weight.flatten(1).chunk(layer.groups), strict=True):
            square, right = _normal_equations(gram, w.to(gram.dtype), kept, self._offset[layer.name])
            solution = torch.linalg.solve(square, right.T).T
            rows.append(solution)
            offsets.append(self._shift(layer, gram, w, solution, kept))
        return torch.cat(rows).to(weight.dtype), torch.cat(offsets).to(weight.dtype)

    def solve_masked(
        self, layer: Layer, inward: npt.NDArray[np.int64] | None, outward: Tensor | slice, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for the outputs `outward`, with the masked weights only."""
        weight, gram = self._weight[layer.name].flatten(1)[outward], self.grams[layer.name][0]
        kept = self._features(layer, np.arange(layer.in_channels) if inward is None else inward)
        square, right = _normal_equations(gram, weight.to(gram.dtype), kept, self._offset[layer.name])
        start = weight[:, kept].float()
        solution = masked_least_squares(square.float(), right.float(), start, mask.flatten(1))
        return solution.to(weight.dtype), self._shift(layer, gram, weight, solution, kept).to(weight.dtype)

    def _features(self, layer: Layer, inward: npt.NDArray[np.int64]) -> Tensor:
        """Columns of the matrix form of the weight that belong to the input channels, in one group."""
        weight = self._weight[layer.name]
        area, period = int(np.prod(weight.shape[2:])), weight.shape[1]
        local = torch.from_numpy(inward[inward < period])
        return (local[:, None] * area + torch.arange(area)).ravel().to(weight.device)

    def _shift(self, layer: Layer, gram: Tensor, weight: Tensor, solution: Tensor, kept: Tensor) -> Tensor:
        """What the mean of the output lost."""
        if not self._offset[layer.name]:
            return weight.new_zeros(len(weight))
        mean = gram[:-1, -1]
        return weight.to(mean.dtype) @ mean - solution.to(mean.dtype) @ mean[kept]


def _normal_equations(gram: Tensor, weight: Tensor, kept: Tensor, offset: bool) -> tuple[Tensor, Tensor]:
    """A and b of `A w^T = b^T`: [kept, kept] and [out, kept]."""
    moments, mean = gram[:-1, :-1], gram[:-1, -1]
    if offset:
        moments = moments - torch.outer(mean, mean)
    square = moments[kept][:, kept]
    square.diagonal().add_(RIDGE * square.diagonal().mean() + 1e-12)
    return square, weight @ moments[:, kept]
