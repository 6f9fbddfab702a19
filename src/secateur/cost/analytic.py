"""Costs that follow from shapes alone: multiply-adds, parameters, bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secateur.graph import Count, Held, Layer, ModelGraph
from secateur.sparse import SINGLE

Cost = npt.NDArray[np.float64]
"""One number, or as many as there were counts."""
Densities = Sequence[float | Cost]
"""What each of a layer's sparsities keeps of what those before it have left; nothing for a dense layer."""


class CostModel(Protocol):
    """Prices one layer at a time; a network costs the sum. Must not fall as anything that is kept grows."""

    @property
    def metric(self) -> str:
        """Its name in `plan.METRICS`."""

    @property
    def told_by(self) -> str:
        """Where its figures come from, in words that can stand behind them: what was counted, measured or estimated."""

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
        """Cost of the layer with `keep_in` input and `keep_out` output channels left, thinned out to these densities:
        numbers, or arrays of them."""

    def held_cost(self, held: Held) -> float:
        """Cost of one element of a tensor that is no layer's weight: of biases, norms, embeddings."""

    def dense(self, graph: ModelGraph) -> float:
        """Cost of the whole network."""


def summed(model: CostModel, graph: ModelGraph) -> float:
    """The dense cost where it is that of the layers, and no more."""
    return float(sum(float(model.layer_cost(x, x.in_channels, x.out_channels)) for x in graph.layers))


def kept_weights(layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
    """Elements of the weight tensor that are not zero, at most; by the first of its sparsities, where densities are
    given of those alone."""
    kept = np.asarray(layer.weights(keep_in, keep_out), dtype=np.float64)
    features = kept / np.maximum(keep_out, 1)
    for each, density in zip(layer.sparsities, densities, strict=False):
        least = each.pattern.least(np.asarray(keep_out), features)
        kept = np.asarray(np.minimum(np.maximum(kept * density, least), kept))
    return kept


def kept_blocks(layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
    """Elements of the weight tensor that do not lie in whole blocks of zeros, at most."""
    return kept_weights(layer, keep_in, keep_out, densities[:1] if layer.blocks else ())


def picture_bytes(layer: Layer, keep_in: Count, keep_out: Count) -> tuple[Cost, Cost]:
    """Bytes of a layer's input and of its output, for one example."""
    each = (
        layer.itemsize * np.asarray(keep_in, dtype=np.float64),
        layer.itemsize * np.asarray(keep_out, dtype=np.float64),
    )
    return each[0] * math.prod(layer.in_hw) * layer.passes, each[1] * math.prod(layer.out_hw) * layer.passes


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

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
        """Each weight that is not zero is used once a position; of a product of activations, each pair of them."""
        return layer.positions * kept_weights(layer, keep_in, keep_out, densities)

    def held_cost(self, held: Held) -> float:
        """Biases and norms are not counted."""
        return 0


class Params(_Counted):
    """Trained parameters."""

    metric = "params"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
        """Elements of the weight tensor that are not zero."""
        return np.float64(layer.kind != "product") * kept_weights(layer, keep_in, keep_out, densities)

    def held_cost(self, held: Held) -> float:
        """Biases, the affine parts of norms, and other parameters."""
        return float(held.trained)


class Bytes(_Counted):
    """Bytes of the state dict: parameters and the statistics of norms."""

    metric = "bytes"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
        """What is saved of the weight tensor: all of it, or what is not zero and where it lies, if that is less."""
        whole = np.float64(layer.kind != "product") * kept_weights(layer, keep_in, keep_out)
        dense = whole * layer.itemsize
        if not layer.sparsities or not densities:
            return dense
        size = np.asarray(keep_out), whole / np.maximum(keep_out, 1)
        share = kept_weights(layer, keep_in, keep_out, densities) / np.maximum(whole, 1)
        stored = np.minimum(SINGLE.stored_bytes(*size, share, layer.itemsize), dense)
        if (
            len(layer.sparsities) == 1
        ):  # of blocks thinned out further, which would take less than a little more of them
            packed = layer.sparsities[0].pattern.stored_bytes(*size, densities[0], layer.itemsize)
            stored = np.minimum(stored, packed)
        return np.asarray(stored)

    def held_cost(self, held: Held) -> float:
        """Biases, norms and their statistics."""
        return held.itemsize if held.stored else 0


def model_for(metric: str) -> CostModel | None:
    """The cost model of a metric that follows from shapes alone; None for those that a device decides."""
    models: dict[str, CostModel] = {"macs": Macs(), "params": Params(), "bytes": Bytes()}
    return models.get(metric)
