"""Second moments of what each layer sees: all that least squares needs to know about the data.

For a layer with input rows x (a patch, and a constant 1 for the bias), G = E[x x^T], [groups, D + 1, D + 1].
Collected once on the dense network; every refit of every candidate is then a small solve.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.graph import Layer, ModelGraph
from secateur.prune.calibration import Calibration, input_rows, sample_positions, with_constant

LARGEST = 8192
"""Input features beyond which a layer's moments are not collected (0.5 GB each in double precision)."""

Grams = Mapping[str, Tensor]


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


def collect(model: nn.Module, graph: ModelGraph, calibration: Calibration, batch_size: int = 100) -> Grams:
    """One pass of the dense network over the calibration inputs."""
    layers = refittable(graph)
    grams: dict[str, Tensor] = {}
    seen: dict[str, int] = dict.fromkeys((layer.name for layer in layers), 0)
    positions = {layer.name: sample_positions(layer, len(calibration), 32) for layer in layers}

    def look(layer: Layer, module: nn.Module, x: Tensor) -> None:
        start = seen[layer.name]
        seen[layer.name] = start + len(x)
        where = positions[layer.name][start : start + len(x)]
        if len(where) < len(x):
            return  # a layer that runs twice in one pass has been looked at once already
        rows = with_constant(input_rows(module, x.float(), where)).transpose(0, 1)
        gram = (rows.transpose(1, 2) @ rows).double() / (len(calibration) * where.shape[1])
        grams[layer.name] = grams[layer.name] + gram if layer.name in grams else gram

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
    return grams
