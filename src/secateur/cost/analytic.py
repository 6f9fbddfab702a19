"""Costs that follow from shapes alone: multiply-adds, parameters, bytes."""

from __future__ import annotations

from typing import Protocol

from secateur.graph import ChannelGroup, Layer


class CostModel(Protocol):
    """Prices one layer at a time; a network costs the sum. Must not fall as `keep_in` or `keep_out` grow."""

    metric: str

    def layer_cost(self, layer: Layer, keep_in: int, keep_out: int) -> float:
        """Cost of the layer with `keep_in` input and `keep_out` output channels left."""

    def unit_cost(self, group: ChannelGroup) -> float:
        """Cost of one unit of the group beside the weights of layers: biases and norms."""


class Macs:
    """Multiply-adds for one example (1 MAC = 1 multiply-add; norms, activations and pooling not counted)."""

    metric = "macs"

    def layer_cost(self, layer: Layer, keep_in: int, keep_out: int) -> float:
        """Each weight is used once a position."""
        return layer.positions * layer.weights(keep_in, keep_out)

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases and norms are not counted."""
        return 0


class Params:
    """Trained parameters."""

    metric = "params"

    def layer_cost(self, layer: Layer, keep_in: int, keep_out: int) -> float:
        """Elements of the weight tensor."""
        return layer.weights(keep_in, keep_out)

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases and the affine parts of norms."""
        return group.vector_params


class Bytes:
    """Bytes of the state dict: parameters and the statistics of norms."""

    metric = "bytes"

    def layer_cost(self, layer: Layer, keep_in: int, keep_out: int) -> float:
        """Elements of the weight tensor times their size."""
        return layer.weights(keep_in, keep_out) * layer.itemsize

    def unit_cost(self, group: ChannelGroup) -> float:
        """Biases, norms and their statistics."""
        return group.vector_bytes


def model_for(metric: str) -> CostModel:
    """The cost model of a metric that a budget can name."""
    models: dict[str, CostModel] = {"macs": Macs(), "params": Params(), "bytes": Bytes()}
    return models[metric]
