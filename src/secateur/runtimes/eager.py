"""PyTorch itself, eager."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.threads import torch_threads


class Eager:
    """The engine that is torch itself, with weights laid out channels-last."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network, changed in place."""
        laid_out: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return laid_out


def latencies_ms(
    networks: Mapping[str, nn.Module], example: Tensor, rounds: int = 30, threads: int = 1
) -> dict[str, float]:
    """Median milliseconds of one forward pass of each network on `example`.

    The networks take turns, so that a busy moment of the machine falls on all of them: compare the figures
    with each other, not with another run's.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch_threads(threads), torch.inference_mode():
        for number in range(rounds + 3):
            for name, network in networks.items():
                started = time.perf_counter()
                network(example)
                if example.is_cuda:
                    torch.cuda.synchronize()
                if number >= 3:  # the first passes warm caches up
                    times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(taken) for name, taken in times.items()}
