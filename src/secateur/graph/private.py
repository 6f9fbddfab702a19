"""A model and its example, made ready to be looked at without touching what the caller owns."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.errors import TraceError

Example = Tensor | Sequence[Tensor]


def as_inputs(example_input: Example) -> tuple[Tensor, ...]:
    """The positional arguments of the model's forward pass."""
    inputs = (example_input,) if isinstance(example_input, Tensor) else example_input
    if (
        not isinstance(inputs, Sequence)
        or not inputs
        or not all(isinstance(x, Tensor) and x.dim() > 0 and len(x) > 0 for x in inputs)
    ):
        raise TraceError("the example input is a tensor with a batch dimension, or a tuple of such tensors")
    return tuple(x.detach() for x in inputs)


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, without hooks, whose floating-point parameters all require gradients."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(f"{type(model).__name__} is compiled by torch.jit: give the nn.Module that it was made from")
    if hasattr(model, "_orig_mod"):
        raise TraceError("the network is compiled by torch.compile: give the nn.Module that it was made from")
    try:
        private = copy.deepcopy(model).eval()
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}") from error
    for module in private.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
    for parameter in private.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return private
