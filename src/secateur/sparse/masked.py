"""Dense layers that know which of their weights are zero for good: what is trained, saved and made block-sparse."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from secateur.sparse.pattern import Pattern

MASK = "weight_mask"
"""Name of the buffer, bool, shaped as the weight; it is no part of the state dict, `secateur.save` keeps it."""


def impose(layer: nn.Module, mask: Tensor, pattern: Pattern) -> None:
    """Let only the masked weights of a linear or convolution layer be other than zero."""
    layer.register_buffer(MASK, mask, persistent=False)
    layer.pattern = pattern  # type: ignore[assignment]
    _to_zero(layer)


def release(layer: nn.Module) -> None:
    """Make the layer an ordinary dense one; its weights stay as they are."""
    if MASK in layer._buffers:
        delattr(layer, MASK)
        del layer.pattern


def mask_of(layer: nn.Module) -> Tensor | None:
    """Bool, shaped as the weight; none for a dense layer."""
    return getattr(layer, MASK, None) if hasattr(layer, "pattern") else None  # torch's own pruning calls masks so, too


def masked_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor, Pattern]]:
    """Name, layer, mask and pattern of every layer that is sparse."""
    for name, module in model.named_modules():
        mask = mask_of(module)
        if mask is not None:
            yield name, module, mask, module.pattern


def hold(model: nn.Module) -> None:
    """Set what masks leave out to zero again, after an optimiser moved it."""
    for _, module, _, _ in masked_layers(model):
        _to_zero(module)


def hold_gradients(model: nn.Module) -> None:
    """Leave the gradients of what masks leave out out of account."""
    for _, module, mask, _ in masked_layers(model):
        gradient = module.get_parameter("weight").grad
        if gradient is not None:
            gradient.mul_(mask)


def _to_zero(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.get_parameter("weight").mul_(mask_of(layer))  # type: ignore[arg-type]
