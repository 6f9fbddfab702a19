"""The offset of a layer's output: its bias, or the running mean of the batch norm that alone reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from secateur.graph import Layer, Run, bias_of, matrix_of


def has_offset(model: nn.Module, layer: Layer) -> bool:
    """Whether the layer's output can be shifted without changing the architecture."""
    if matrix_of(layer).bias:
        return True
    return layer.norm is not None and getattr(model.get_submodule(layer.norm), "running_mean", None) is not None


def offset_behind(model: nn.Module, layer: Layer) -> Tensor | float:
    """What the layer's norm takes off its output, negative, where the layer has no bias: an offset [out] as good."""
    if matrix_of(layer).bias or not has_offset(model, layer):
        return 0.0
    mean: Tensor = -model.get_buffer(f"{layer.norm}.running_mean").float()
    return mean


def bias_behind(model: nn.Module, run: Run) -> Tensor | float:
    """The bias [out] of a dense layer that is not in what this run gives: an operator of its own adds it."""
    bias = None if run.biased else bias_of(model, run.layer)
    return 0.0 if bias is None else bias.float()


def shift(model: nn.Module, layer: Layer, offset: Tensor, counts: Mapping[str, Any] | None = None) -> None:
    """Add `offset` [out] to the layer's output, through its bias or the running mean of its norm.

    `counts` are the units that a cut network has kept.
    """
    bias = bias_of(model, layer, counts)
    if bias is not None:
        bias.add_(offset)
    elif layer.norm is not None:
        mean = model.get_buffer(f"{layer.norm}.running_mean")
        mean.sub_(offset)
