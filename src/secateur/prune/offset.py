"""The offset of a layer's output: its bias, or the running mean of the batch norm that alone reads it."""

from __future__ import annotations

from torch import Tensor, nn

from secateur.graph import Layer


def has_offset(model: nn.Module, layer: Layer) -> bool:
    """Whether the layer's output can be shifted without changing the architecture."""
    if getattr(model.get_submodule(layer.name), "bias", None) is not None:
        return True
    return layer.norm is not None and getattr(model.get_submodule(layer.norm), "running_mean", None) is not None


def offset_behind(model: nn.Module, layer: Layer) -> Tensor | float:
    """What the layer's norm takes off its output, negative, where the layer has no bias: an offset [out] as good."""
    if getattr(model.get_submodule(layer.name), "bias", None) is not None or not has_offset(model, layer):
        return 0.0
    mean: Tensor = -model.get_buffer(f"{layer.norm}.running_mean").float()
    return mean


def shift(model: nn.Module, layer: Layer, offset: Tensor) -> None:
    """Add `offset` [out] to the layer's output, through its bias or the running mean of its norm."""
    bias = getattr(model.get_submodule(layer.name), "bias", None)
    if bias is not None:
        bias.data.add_(offset)
    elif layer.norm is not None:
        mean = model.get_buffer(f"{layer.norm}.running_mean")
        mean.sub_(offset)
