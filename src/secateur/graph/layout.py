"""How images lie in memory: channels-last, which the kernels of CPUs and GPUs like best, where a network bears it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.graph.inputs import Inputs
from secateur.graph.private import private_copy


def laid_out(inputs: Inputs, layout: torch.memory_format) -> Inputs:
    """The inputs, of which images [N, C, H, W] are laid out so."""
    return inputs.map(lambda x: _image(x, layout) if x.dim() == 4 else x)


def _image(x: Tensor, layout: torch.memory_format) -> Tensor:
    if layout == torch.channels_last:
        return x.contiguous(memory_format=layout)
    return x.reshape(-1).view(x.shape)  # `contiguous` leaves one channel as it is, whose strides kernels go by


def best_layout(network: nn.Module, inputs: Inputs) -> torch.memory_format:
    """Channels-last, unless the network's forward takes a `view` of a feature map that is none of one laid out so, or
    tensors of it have five dimensions, which `Module.to` cannot lay out.

    Whether it really fails depends on the kernels, and so on sizes and threads: the views are tried instead.
    """
    if any(tensor.dim() == 5 for tensor in (*network.parameters(), *network.buffers())):
        return torch.contiguous_format
    try:
        with torch.no_grad(), torch.random.fork_rng([]), _ViewsTried():
            laid_out(inputs, torch.contiguous_format).run(private_copy(network).requires_grad_(False))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


class _ViewsTried(TorchFunctionMode):
    """Every view of a feature map is taken of it channels-last, too; RuntimeError where there is none."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.view and args[0].dim() == 4:
            args[0].contiguous(memory_format=torch.channels_last).view(*args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))
