"""What a whole network costs when some of its groups are cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secateur.cost.analytic import Bytes, CostModel, Macs, Params, kept_blocks
from secateur.graph import Counts, Held, Layer, ModelGraph
from secateur.plan import Costs

Curve = npt.NDArray[np.float64]
STORED = ("params", "bytes")
"""Metrics of what a file holds, not of what runs."""


class NetworkCost:
    """The dense cost minus what a plan saves, so that everything a plan cannot touch is in it exactly."""

    def __init__(self, graph: ModelGraph, model: CostModel) -> None:
        self.graph = graph
        self.model = model
        self.dense = float(model.dense(graph))
        self._curves: dict[tuple[object, ...], Curve] = {}
        self._settled: dict[str, Curve] = {}
        self._touched: dict[str, list[tuple[Layer | _Vectors, list[tuple[str, int]]]]] = {}
        self._vectors = [*_vectors(graph, model)]
        self._bypass = frozenset(group.key for group in graph.groups if group.bypass)
        self._whole: dict[str, float] = {}
        for key in (*graph.group, *graph.sparse):
            layers: list[Layer | _Vectors] = [layer for layer in graph.layers if key in layer.keys]
            layers += [each for each in self._vectors if key in each.keys]
            self._touched[key] = [(layer, self._others(layer, key)) for layer in layers]

    def _others(self, layer: Layer | _Vectors, key: str) -> list[tuple[str, int]]:
        decided = [*(group.key for group in self.graph.prunable), *self.graph.sparse]
        return [(other, self.graph.width(other)) for other in decided if other in layer.keys - {key}]

    def __call__(self, counts: Counts) -> float:
        """Cost with `counts[key]` units left of each group, or levels of each sparsity; those left out stay whole."""
        cost = self.dense
        for layer in {layer.name: layer for key in counts for layer, _ in self._touched[key]}.values():
            if layer.name not in self._whole:
                self._whole[layer.name] = float(self._price(layer, {}))
            cost += float(self._price(layer, counts)) - self._whole[layer.name]
        return float(cost)

    def _price(self, layer: Layer | _Vectors, counts: Mapping[str, Any]) -> Any:
        """Of one layer: a number, or an array where the counts are arrays.

        Where a site keeps nothing, layers that have no inputs or outputs left do not run: they take no time, but one
        unit of them is stored, and the products and norms between them go on with one unit.
        """
        empty = [key for key in layer.keys & self._bypass if not np.all(counts.get(key, 1))]
        one = {**counts, **{key: np.maximum(counts[key], 1) for key in empty}} if empty else counts
        if isinstance(layer, _Vectors):
            return layer.price(one)
        cut = layer.at(one)
        price = self.model.layer_cost(cut, cut.inputs.size(one), cut.outputs.size(one), cut.densities(one))
        if not empty or not layer.weight or self.model.metric in STORED:
            return price
        return price * (np.minimum(layer.inputs.size(counts), layer.outputs.size(counts)) > 0)

    def step(self, counts: Counts, key: str, count: int) -> float:
        """How much the cost changes when `key` goes from `counts[key]` to `count`."""
        curve = self.curve(counts, key)
        return float(curve[count] - curve[counts.get(key, len(curve) - 1)])

    def curve(self, counts: Counts, key: str) -> Curve:
        """The part of the cost that `key` has a say in, with 0, 1, ..., all of its units: [width + 1].

        Only differences within one curve mean anything. Every layer's part is remembered: it depends on no
        more than the counts of what else is decided about the layer.
        """
        if key in self._settled:
            return self._settled[key]
        total: Curve = np.zeros(self.graph.width(key) + 1)
        for layer, others in self._touched[key]:
            near = (layer.name, key, *[counts.get(other, width) for other, width in others])
            curve = self._curves.get(near)
            if curve is None:
                curve = self._curves[near] = self._layer_curve(layer, counts, key)
            total = total + curve
        if not any(others for _, others in self._touched[key]):  # the same in every plan
            self._settled[key] = total
        return total

    def _layer_curve(self, layer: Layer | _Vectors, counts: Counts, key: str) -> Curve:
        moved = {**counts, key: np.arange(self.graph.width(key) + 1)}
        return np.broadcast_to(self._price(layer, moved), self.graph.width(key) + 1)


@dataclass(frozen=True)
class _Vectors:
    """Tensors beside the layers' weights that are made of the same sites: biases, norms, embeddings."""

    name: str
    keys: frozenset[str]
    elements: tuple[tuple[Held, float], ...]
    """Each with the cost of one element."""
    entry: int = 0
    """Of numbers of picked channels: all that there are. A layer that picks them all is an ordinary one."""

    def price(self, counts: Mapping[str, Any]) -> Any:
        """A number, or an array where the counts are arrays."""
        sizes = [(held.size(counts), cost) for held, cost in self.elements]
        return sum(np.where(size == self.entry, 0.0, size * cost) for size, cost in sizes)


def _vectors(graph: ModelGraph, model: CostModel) -> Iterator[_Vectors]:
    """By the sites that they are made of, as far as they cost anything."""
    alike: defaultdict[tuple[str, ...], list[tuple[Held, float]]] = defaultdict(list)
    for held in graph.tensors:
        if held.layer or not held.groups or not (cost := model.held_cost(held)):
            continue
        if graph.group[held.groups[0]].entry:
            yield _Vectors(held.name, frozenset(held.groups), ((held, cost),), graph.width(held.groups[0]))
        else:
            alike[tuple(sorted(held.groups))].append((held, cost))
    for keys, elements in alike.items():
        yield _Vectors(f"beside {', '.join(keys)}", frozenset(keys), tuple(elements))


class CountedCosts:
    """Every metric that follows from shapes, as `graph.count_costs` counts it on the built network: exactly, or at most
    so much where blocks do not divide a layer."""

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        self._counted = [NetworkCost(graph, model) for model in (Macs(), Params(), Bytes())]

    def __call__(self, counts: Counts) -> Costs:
        """With these units left, or levels; those left out stay whole."""
        macs, params, size = (round(cost(counts)) for cost in self._counted)
        return Costs(macs, params, size, block_sparsity=block_sparsity(self._graph, counts))


def block_sparsity(graph: ModelGraph, counts: Counts) -> float:
    """BSF: weights that lie in whole blocks of zeros, over all weights that the layers have."""
    if not graph.sparse:
        return 0.0
    whole = gone = 0.0
    for dense in graph.layers:
        if dense.kind == "product":
            continue
        layer = dense.at(counts)
        sizes = layer.inputs.size(counts), layer.outputs.size(counts)
        weights = float(layer.weights(*sizes))
        whole += weights
        if layer.blocks:
            gone += weights - float(kept_blocks(layer, *sizes, layer.densities(counts)))
    return gone / whole
