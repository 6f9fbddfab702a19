"""What a whole network costs when some of its groups are cut."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secateur.cost.analytic import Bytes, CostModel, Macs, Params
from secateur.graph import Counts, Layer, ModelGraph
from secateur.plan import Costs

Curve = npt.NDArray[np.float64]


class NetworkCost:
    """The dense cost minus what a plan saves, so that everything a plan cannot touch is in it exactly."""

    def __init__(self, graph: ModelGraph, model: CostModel) -> None:
        self.graph = graph
        self.model = model
        self.dense = float(model.dense(graph))
        self._curves: dict[tuple[object, ...], Curve] = {}
        self._touched: dict[str, list[tuple[Layer, list[tuple[str, int]]]]] = {}
        self._units: dict[str, Curve] = {}
        for group in graph.groups:
            layers = [x for x in graph.layers if group.key in (*x.inputs.groups, *x.outputs.groups)]
            self._touched[group.key] = [(layer, self._others(layer, group.key)) for layer in layers]
            self._units[group.key] = model.unit_cost(group) * np.arange(group.width + 1.0)

    def _others(self, layer: Layer, key: str) -> list[tuple[str, int]]:
        others = {*layer.inputs.groups, *layer.outputs.groups} - {key}
        groups = [self.graph.group[other] for other in sorted(others)]
        return [(group.key, group.width) for group in groups if not group.fixed]

    def __call__(self, counts: Counts) -> float:
        """Cost with `counts[key]` units left of each group; groups left out stay whole."""
        cost = self.dense
        so_far: dict[str, int] = {}
        for key, count in counts.items():
            cost += self.step(so_far, key, count)
            so_far[key] = count
        return cost

    def step(self, counts: Counts, key: str, count: int) -> float:
        """How much the cost changes when group `key` goes from `counts[key]` to `count`."""
        curve = self.curve(counts, key)
        return float(curve[count] - curve[counts.get(key, len(curve) - 1)])

    def curve(self, counts: Counts, key: str) -> Curve:
        """The part of the cost that group `key` has a say in, with 0, 1, ..., all of its units: [width + 1].

        Only differences within one curve mean anything. Every layer's part is remembered: it depends on no
        more than the counts of the other groups that share the layer.
        """
        total = self._units[key]
        for layer, others in self._touched[key]:
            near = (layer.name, key, *[counts.get(other, width) for other, width in others])
            curve = self._curves.get(near)
            if curve is None:
                curve = self._curves[near] = self._layer_curve(layer, counts, key)
            total = total + curve
        return total

    def _layer_curve(self, layer: Layer, counts: Counts, key: str) -> Curve:
        moved = {**counts, key: np.arange(self.graph.group[key].width + 1)}
        return self.model.layer_cost(layer, layer.inputs.size(moved), layer.outputs.size(moved))


def costs(graph: ModelGraph, counts: Counts) -> Costs:
    """Every metric that follows from shapes, exactly as `graph.count_costs` counts it on the built network."""
    macs, params, size = (round(NetworkCost(graph, model)(counts)) for model in (Macs(), Params(), Bytes()))
    return Costs(macs, params, size)
