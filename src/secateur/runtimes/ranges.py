"""The ranges of activations: what a runtime has to know to compute in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.graph import first_input

Ranges = Mapping[str, tuple[float, float]]
"""Module -> least and greatest value of its input; only the modules that are to compute in 8 bits."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
MOST_EXAMPLES = 256


def input_ranges(network: nn.Module, inputs: tuple[Tensor, ...]) -> Ranges:
    """Least (0 at most) and greatest (0 at least) value that each inner layer reads, over `inputs`, each [N, ...].

    The whole range, as clipping even one value in ten thousand doubled the error on ResNet-56. The first and the
    last layer to run are left out: they cost little, and rounding harms them most.
    """
    found: dict[str, tuple[float, float]] = {}

    def note(name: str, x: Tensor) -> None:
        least, greatest = found.get(name, (0.0, 0.0))
        found[name] = min(least, float(x.min())), max(greatest, float(x.max()))

    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: note(name, first_input(args, kwargs)), with_kwargs=True
        )
        for name, module in network.named_modules()
        if isinstance(module, LAYERS)
    ]
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            for pieces in zip(*(x[:MOST_EXAMPLES].split(32) for x in inputs), strict=True):
                network(*(piece.to(device) for piece in pieces))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: limits for name, limits in list(found.items())[1:-1] if limits != (0.0, 0.0)}
