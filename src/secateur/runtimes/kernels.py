"""Layers with blocks of zeros made block-sparse, where that is quicker on this machine."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph import Inputs, copied
from secateur.runtimes.eager import eager_session
from secateur.runtimes.sessions import median_ms
from secateur.sparse import TYPES, BlockSparseConv2d, BlockSparseLinear, Pattern, masked_layers

ROUNDS, LEAST_MS = 15, 5.0
"""Passes of a layer at least, and milliseconds."""


def block_sparse(model: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy for inference, whose layers with blocks of zeros are block-sparse where they answer sooner so.

    `inputs` are an example of what the network will be asked: what is quicker depends on its size.
    A network without such layers is copied as it is.
    """
    ready = copied(model).eval().requires_grad_(False)
    coarse = {name: (layer, kind) for name, layer, _, kind in masked_layers(ready) if not kind.fine}
    seen = _inputs_of(ready, {name: layer for name, (layer, _) in coarse.items()}, inputs)
    for name, (layer, kind) in coarse.items():
        sparse = _block_sparse(layer, kind)
        if sparse is not None and name in seen:
            chosen = quicker(layer, sparse, seen[name])
            if not name:
                return chosen
            parent, _, child = name.rpartition(".")
            setattr(ready.get_submodule(parent), child, chosen)
    return ready


def quicker(dense: nn.Module, sparse: nn.Module, example: Tensor) -> nn.Module:
    """Whichever of the two answers the example sooner here: a block-sparse layer that is not worth it stays dense."""
    both = {"dense": eager_session(dense), "sparse": eager_session(sparse)}
    taken = median_ms(both, [example], ROUNDS, LEAST_MS)
    return sparse if taken["sparse"] < taken["dense"] else dense


def _block_sparse(layer: nn.Module, kind: Pattern) -> nn.Module | None:
    """None where there is no such layer."""
    if layer.get_parameter("weight").dtype not in TYPES or getattr(layer, "groups", 1) != 1:
        return None
    block = getattr(kind, "block", (1, 1))
    if type(layer) is nn.Linear:
        return BlockSparseLinear.of(layer, block)
    if type(layer) is nn.Conv2d:
        with suppress(ValueError):  # it pads in another way
            return BlockSparseConv2d.of(layer, block)
    return None


def _inputs_of(model: nn.Module, layers: dict[str, nn.Module], inputs: Inputs) -> dict[str, Tensor]:
    """What each layer is given in a pass."""
    seen: dict[str, Tensor] = {}

    def look(name: str, args: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        seen[name] = args[0] if args else named["input"]

    handles = [
        layer.register_forward_pre_hook(lambda _, args, named, name=name: look(name, args, named), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        with torch.inference_mode():
            inputs.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return seen
