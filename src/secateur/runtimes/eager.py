"""PyTorch itself, eager."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.runtimes.sessions import median_ms
from secateur.threads import torch_threads


class Eager:
    """The engine that is torch itself, with weights laid out as it is quickest."""

    def __init__(self, layout: torch.memory_format = torch.channels_last) -> None:
        self.layout = layout

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network, changed in place."""
        laid_out: nn.Module = network.to(memory_format=self.layout)  # type: ignore[call-overload]
        return laid_out


def eager_session(network: nn.Module) -> Callable[[Sequence[Tensor]], list[Any]]:
    """A pass of the network in torch, to be timed as a runtime's session is; it waits for the GPU."""

    def run(inputs: Sequence[Tensor]) -> list[Any]:
        with torch.inference_mode():
            network(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()
        return []

    return run


def latencies_ms(networks: Mapping[str, nn.Module], example: Tensor) -> dict[str, float]:
    """Median milliseconds of one forward pass of each network on `example`, on one thread; they take turns."""
    with torch_threads(1):
        return median_ms({name: eager_session(network) for name, network in networks.items()}, [example], rounds=30)
