"""One network as its users call it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SPREAD = 0.1
"""How much a parameter of one value throughout is varied."""
FLAT = 0.5
"""Weights are made larger whose products with activations are smaller than the activations by this factor."""


@dataclass(frozen=True)
class Inputs:
    """What a network is called with: `model(*args, **kwargs)`."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A network in eval mode with random weights, and what it is called with."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    smaller: Inputs | None = None
    """Inputs of another batch size; None where the network takes one size only."""
    task: str = ""

    @property
    def inputs(self) -> Inputs:
        """What it is called with."""
        return Inputs(self.args, self.kwargs)


Cases = dict[str, Callable[[], Case]]
"""What each file of this package calls `CASES`: by name, what builds the network after `torch.manual_seed(0)`."""


def fresh(build: Callable[[], nn.Module]) -> nn.Module:
    """The network that `build` makes from seed 0, in eval mode, no two channels of it alike."""
    torch.manual_seed(0)
    model = build().eval()
    vary(model)
    return model


def vary(model: nn.Module) -> None:
    """Make what happens to one channel show in the answers.

    Values that a constructor sets alike in all channels are made to differ (norms begin with weight 1 and bias 0, some
    layers with zeros only; what is averaged in training, with 0 and 1), and weights that it makes very small, as
    transformers' are, become as large as keeps the size of activations: else all attention is flat.
    """
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            _vary_parameter(parameter, isinstance(module, nn.modules.conv._ConvNd))
        if isinstance(getattr(module, "running_var", None), Tensor):
            module.running_mean.normal_(0, SPREAD)
            module.running_var.uniform_(0.5, 1.5)


def _vary_parameter(parameter: nn.Parameter, convolves: bool) -> None:
    """One of them."""
    if not parameter.is_floating_point() or not parameter.numel():
        return
    if parameter.ndim < 2 or bool((parameter == parameter.flatten()[0]).all()):
        parameter.data.add_(SPREAD * torch.randn_like(parameter))
        return
    summed = math.prod(parameter.shape[1:]) if convolves else parameter.shape[-1]
    size = float(parameter.detach().std()) * math.sqrt(summed)
    if 0 < size < FLAT:
        parameter.data.div_(size)


def images(batch: int, size: int | tuple[int, ...], channels: int = 3) -> Tensor:
    """Random images, `[batch, channels, height, width]`, or clips where `size` has three numbers."""
    sides = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, channels, *sides)


def pictured(
    build: Callable[[], nn.Module], size: int | tuple[int, ...], task: str = "classification", channels: int = 3
) -> Callable[[], Case]:
    """What makes the case of a network that is called with a batch of images alone."""

    def case() -> Case:
        model = fresh(build)
        return Case(model, (images(2, size, channels),), {}, Inputs((images(3, size, channels),)), task)

    return case
