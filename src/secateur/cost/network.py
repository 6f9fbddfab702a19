"""What a whole network costs when some of its groups are cut."""

from __future__ import annotations

from secateur.cost.analytic import Bytes, CostModel, Macs, Params
from secateur.graph import Counts, Layer, ModelGraph
from secateur.plan import Costs


class NetworkCost:
    """The dense cost minus what a plan saves, so that everything a plan cannot touch is in it exactly."""

    def __init__(self, graph: ModelGraph, model: CostModel) -> None:
        self.graph = graph
        self.model = model
        self.dense = float(graph.dense[model.metric])
        self._memo: dict[tuple[str, int, int], float] = {}
        self._touched: dict[str, tuple[Layer, ...]] = {
            group.key: tuple(x for x in graph.layers if group.key in (*x.inputs.groups, *x.outputs.groups))
            for group in graph.groups
        }
        self._unit = {group.key: model.unit_cost(group) for group in graph.groups}

    def __call__(self, counts: Counts) -> float:
        """Cost with `counts[key]` units left of each group; groups left out stay whole."""
        touched = {layer.name: layer for key in counts for layer in self._touched[key]}
        saved = sum(self._layer(layer, {}) - self._layer(layer, counts) for layer in touched.values())
        for key, count in counts.items():
            saved += (self.graph.group[key].width - count) * self._unit[key]
        return self.dense - saved

    def step(self, counts: Counts, key: str, count: int) -> float:
        """How much the cost changes when group `key` goes from `counts[key]` to `count`; few layers are priced."""
        moved = {**counts, key: count}
        before = counts.get(key, self.graph.group[key].width)
        layers = sum(self._layer(x, moved) - self._layer(x, counts) for x in self._touched[key])
        return layers + (count - before) * self._unit[key]

    def _layer(self, layer: Layer, counts: Counts) -> float:
        key = (layer.name, layer.inputs.size(counts), layer.outputs.size(counts))
        if key not in self._memo:
            self._memo[key] = self.model.layer_cost(layer, key[1], key[2])
        return self._memo[key]


def costs(graph: ModelGraph, counts: Counts) -> Costs:
    """Every metric that follows from shapes, exactly as `graph.count_costs` counts it on the built network."""
    macs, params, size = (round(NetworkCost(graph, model)(counts)) for model in (Macs(), Params(), Bytes()))
    return Costs(macs, params, size)
