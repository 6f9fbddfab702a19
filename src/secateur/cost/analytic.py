"""Costs that follow from shapes alone: multiply-adds, parameters, bytes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from secateur.graph import ChannelGroup, Count, Layer

Cost = npt.NDArray[np.float64]
"""One number, or as many as there were counts."""


class CostModel(Protocol):
    """Prices one layer at a time; a network costs the sum. Must not fall as `keep_in` or `keep_out` grow."""

    metric: str

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count) -> Cost:
        """Cost of the layer with `keep_in` input and `keep_out` output channels left: numbers, or arrays of them."""

    def unit_cost(self, group: ChannelGroup) -> float:
        """Cost of one unit of the group beside the weights of layers: biases and norms."""


class Macs:
    """Multiply-adds for one example (1 MAC = 1 multiply-add; norms, activations and pooling not counted)."""

    metric = "macs"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count) -> Cost:
        """Each weight is used once a position."""
        return np.asarray(layer.positions * layer.weights(keep_in, keep_out), dtype=np.float64)

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases and norms are not counted."""
        return 0


class Params:
    """Trained parameters."""

    metric = "params"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count) -> Cost:
        """Elements of the weight tensor."""
        return np.asarray(layer.weights(keep_in, keep_out), dtype=np.float64)

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases and the affine parts of norms."""
        return group.vector_params


class Bytes:
    """Bytes of the state dict: parameters and the statistics of norms."""

    metric = "bytes"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count) -> Cost:
        """Elements of the weight tensor times their size."""
        return np.asarray(layer.weights(keep_in, keep_out) * layer.itemsize, dtype=np.float64)

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases, norms and their statistics."""
        return group.vector_bytes


def model_for(metric: str) -> CostModel:
    """The cost model of a metric that a budget can name."""
    models: dict[str, CostModel] = {"macs": Macs(), "params": Params(), "bytes": Bytes()}
    return models[metric]
