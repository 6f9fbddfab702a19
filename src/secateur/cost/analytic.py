"""Costs that follow from shapes alone: multiply-adds, parameters, bytes."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secateur.graph import ChannelGroup, Count, Layer, ModelGraph

Cost = npt.NDArray[np.float64]
"""One number, or as many as there were counts."""
Density = float | Cost
"""Share of a layer's weights that is not zero."""


class CostModel(Protocol):
    """Prices one layer at a time; a network costs the sum. Must not fall as anything that is kept grows."""

    @property
    def metric(self) -> str:
        """Its name in `plan.METRICS`."""

    @property
    def told_by(self) -> str:
        """Where its figures come from, in words that can stand behind them: what was counted, measured or estimated."""

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, density: Density = 1.0) -> Cost:
        """Cost of the layer with `keep_in` input and `keep_out` output channels left, and `density` of the weights
        between them: numbers, or arrays of them."""

    def unit_cost(self, group: ChannelGroup) -> float:
        """Cost of one unit of the group beside the weights of layers: biases and norms."""

    def dense(self, graph: ModelGraph) -> float:
        """Cost of the whole network."""


def summed(model: CostModel, graph: ModelGraph) -> float:
    """The dense cost where it is that of the layers, and no more."""
    return float(sum(float(model.layer_cost(x, x.in_channels, x.out_channels)) for x in graph.layers))


def kept_weights(layer: Layer, keep_in: Count, keep_out: Count, density: Density = 1.0) -> Cost:
    """Elements of the weight tensor that are not zero, at most."""
    whole = np.asarray(layer.weights(keep_in, keep_out), dtype=np.float64)
    if layer.sparsity is None:
        return whole
    features = whole / np.maximum(keep_out, 1)
    least = layer.sparsity.pattern.least(np.asarray(keep_out), features)
    return np.asarray(np.minimum(np.maximum(whole * density, least), whole))


def picture_bytes(layer: Layer, keep_in: Count, keep_out: Count) -> tuple[Cost, Cost]:
    """Bytes of a layer's input and of its output, for one example."""
    each = (
        layer.itemsize * np.asarray(keep_in, dtype=np.float64),
        layer.itemsize * np.asarray(keep_out, dtype=np.float64),
    )
    return each[0] * math.prod(layer.in_hw), each[1] * math.prod(layer.out_hw)


class _Counted:
    """A metric that `graph.count_costs` counts on the built network too."""

    metric: str
    told_by = "counting"

    def dense(self, graph: ModelGraph) -> float:
        """As counted."""
        return graph.dense[self.metric]


class Macs(_Counted):
    """Multiply-adds for one example (1 MAC = 1 multiply-add; norms, activations and pooling not counted)."""

    metric = "macs"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, density: Density = 1.0) -> Cost:
        """Each weight that is not zero is used once a position."""
        return layer.positions * kept_weights(layer, keep_in, keep_out, density)

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases and norms are not counted."""
        return 0


class Params(_Counted):
    """Trained parameters."""

    metric = "params"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, density: Density = 1.0) -> Cost:
        """Elements of the weight tensor that are not zero."""
        return kept_weights(layer, keep_in, keep_out, density)

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases and the affine parts of norms."""
        return group.vector_params


class Bytes(_Counted):
    """Bytes of the state dict: parameters and the statistics of norms."""

    metric = "bytes"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, density: Density = 1.0) -> Cost:
        """What is saved of the weight tensor: all of it, or what is not zero and where it lies, if that is less."""
        whole = kept_weights(layer, keep_in, keep_out)
        if layer.sparsity is None:
            return whole * layer.itemsize
        features = whole / np.maximum(keep_out, 1)
        packed = layer.sparsity.pattern.stored_bytes(np.asarray(keep_out), features, density, layer.itemsize)
        return np.asarray(np.minimum(packed, whole * layer.itemsize))

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases, norms and their statistics."""
        return group.vector_bytes


def model_for(metric: str) -> CostModel | None:
    """The cost model of a metric that follows from shapes alone; None for those that a device decides."""
    models: dict[str, CostModel] = {"macs": Macs(), "params": Params(), "bytes": Bytes()}
    return models.get(metric)
