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
from secateur.prune.cut import Kept, Places, places
from secateur.prune.gram import Grams

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

    def apply(self, candidate: nn.Module, kept: Kept) -> None:
        """Give the layers of a cut network, whose inputs lost channels, their refitted weights."""
        where = places(self.graph, kept)
        for (name, side), inward in where.items():
            if side == "in" and name in self.grams:
                self._refit(candidate, self.graph.layer[name], inward, where)

    def _refit(self, candidate: nn.Module, layer: Layer, inward: npt.NDArray[np.int64], where: Places) -> None:
        key = (layer.name, inward.tobytes())
        solution = self._solved.get(key)
        if solution is None:
            solution = self.solve(layer, inward)
            self._remember(key, solution)
        weight, offset = solution
        outward = where.get((layer.name, "out"))
        if outward is not None:
            index = torch.from_numpy(outward).to(weight.device)
            weight, offset = weight[index], offset[index]
        target = candidate.get_parameter(f"{layer.name}.weight")
        target.data.copy_(weight.view(target.shape))
        if self._offset[layer.name]:
            shift(candidate, layer, offset)

    def _remember(self, key: tuple[str, bytes], solution: tuple[Tensor, Tensor]) -> None:
        with self._lock:
            while self._solved and self._bytes > REMEMBERED:
                self._bytes -= self._solved.pop(next(iter(self._solved)))[0].nbytes
            self._bytes += solution[0].nbytes
            self._solved[key] = solution

    def solve(self, layer: Layer, inward: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Weights [out, features kept] on the input channels `inward`, and the offset [out] they leave."""
        weight = self._weight[layer.name]
        area, period = int(np.prod(weight.shape[2:])), weight.shape[1]
        local = torch.from_numpy(inward[inward < period])
        kept = (local[:, None] * area + torch.arange(area)).ravel().to(weight.device)
        rows, offsets = [], []
        for gram, w in zip(self.grams[layer.name], weight.flatten(1).chunk(layer.groups), strict=True):
            solution, offset = _least_squares(gram, w.to(gram.dtype), kept, self._offset[layer.name])
            rows.append(solution)
            offsets.append(offset)
        return torch.cat(rows).to(weight.dtype), torch.cat(offsets).to(weight.dtype)


def _least_squares(gram: Tensor, weight: Tensor, kept: Tensor, offset: bool) -> tuple[Tensor, Tensor]:
    moments, mean = gram[:-1, :-1], gram[:-1, -1]
    if offset:
        moments = moments - torch.outer(mean, mean)
    square = moments[kept][:, kept]
    square.diagonal().add_(RIDGE * square.diagonal().mean() + 1e-12)
    solution = torch.linalg.solve(square, moments[kept] @ weight.T).T
    return solution, weight @ mean - solution @ mean[kept] if offset else weight.new_zeros(len(weight))
