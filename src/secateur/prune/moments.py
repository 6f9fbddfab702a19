"""Second moments of what each layer sees: all that least squares needs to know about the data.

Collected once on the dense network; every refit of every candidate is then a small solve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.graph import Layer, ModelGraph
from secateur.prune.calibration import Calibration, input_rows, sample_positions
from secateur.prune.offset import has_offset

LARGEST = 8192
"""Input features beyond which a layer's moments are not collected (0.5 GB each in double precision)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a layer's input rows x (a patch each), for each of its groups: `square` = E[x x^T], `mean` = E[x].

    Where the layer's offset is free, the square is taken about the mean: to lose the mean of an input costs nothing.
    """

    square: Tensor
    """[groups, D, D], double precision."""
    mean: Tensor
    """[groups, D]."""
    centred: bool


AllMoments = Mapping[str, Moments]
"""By the layer's name."""


def refittable(graph: ModelGraph) -> tuple[Layer, ...]:
    """Layers that mix input channels of which some can be cut, or may be sparse; small enough to solve."""
    prunable = {group.key for group in graph.prunable}
    return tuple(
        layer
        for layer in graph.layers
        if layer.once
        and layer.kind != "depthwise"
        and (layer.sparsity is not None or prunable & set(layer.inputs.groups))
        and layer.features <= LARGEST
    )


def collect(model: nn.Module, graph: ModelGraph, calibration: Calibration, batch_size: int = 100) -> AllMoments:
    """One pass of the dense network over the calibration inputs."""
    layers = refittable(graph)
    squares: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    seen: dict[str, int] = dict.fromkeys((layer.name for layer in layers), 0)
    positions = {layer.name: sample_positions(layer, len(calibration)) for layer in layers}

    def look(layer: Layer, module: nn.Module, x: Tensor) -> None:
        start = seen[layer.name]
        seen[layer.name] = start + len(x)
        where = positions[layer.name][start : start + len(x)]
        if len(where) < len(x):
            return  # a layer that runs twice in one pass has been looked at once already
        rows = input_rows(module, x.float(), where).transpose(0, 1)
        share = 1 / (len(calibration) * where.shape[1])
        square, mean = (rows.transpose(1, 2) @ rows).double() * share, rows.double().sum(1) * share
        squares[layer.name] = squares[layer.name].add_(square) if layer.name in squares else square
        means[layer.name] = means[layer.name] + mean if layer.name in means else mean

    handles = [
        model.get_submodule(layer.name).register_forward_pre_hook(
            lambda module, args, layer=layer: look(layer, module, args[0])
        )
        for layer in layers
    ]
    try:
        with torch.no_grad():
            for batch in calibration.batches(batch_size):
                model(*batch)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for layer in layers:
        square, mean, centred = squares.pop(layer.name), means[layer.name], has_offset(model, layer)
        if centred:
            square.sub_(mean[:, :, None] * mean[:, None, :])
        found[layer.name] = Moments(square, mean, centred)
    return found
