"""Fine-tuning by several processes at once: those that torchrun started, on GPUs or on cores."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Processes:
    """One alone, or one of several that each do a part of every batch and share their gradients."""

    rank = 0
    count = 1

    def part(self, batch: Tensor) -> Tensor:
        """This process's examples of a batch [N, ...]."""
        return batch

    def summed(self, values: Tensor) -> Tensor:
        """Over all processes, in place."""
        return values

    def sum_gradients(self, model: nn.Module) -> None:
        """Make the gradients of a part those of the whole batch."""

    def told(self, value: float | None) -> float | None:
        """What the first process says."""
        return value

    def alike(self, model: nn.Module) -> None:
        """Give every process the first one's network: statistics of norms differ by what each has seen."""


class Together(Processes):
    """One of several."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.count, self._device = dist.get_rank(), dist.get_world_size(), device

    def part(self, batch: Tensor) -> Tensor:
        """Every `count`-th example."""
        return batch[self.rank :: self.count]

    def summed(self, values: Tensor) -> Tensor:
        """Over all processes, in place."""
        dist.all_reduce(values)
        return values

    def sum_gradients(self, model: nn.Module) -> None:
        """All in one piece.

        Not by torch's DistributedDataParallel: the processes part while it still holds them, and whoever drops it then
        waits, with Python's lock held, for a thread of gloo that may need the lock.
        """
        gradients = [x.grad for x in model.parameters() if x.grad is not None]
        pieces = self.summed(torch.cat([x.flatten() for x in gradients])).split([x.numel() for x in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def told(self, value: float | None) -> float | None:
        """What the first process says; the others wait for it."""
        said = [value]
        dist.broadcast_object_list(said, src=0, device=self._device)
        return said[0]

    def alike(self, model: nn.Module) -> None:
        """Tensor by tensor."""
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Joins the processes that torchrun started, if it did so (nccl on GPUs, gloo else), and leaves them at the end."""
    started = dist.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    ours = started and not dist.is_initialized()
    if ours:
        # torch's optimisers import this when first used. Where that is while the processes are joined, gloo's threads
        # never end, and a process may be aborted by them when it does.
        importlib.import_module("torch._dynamo")
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Together(device) if started else Processes()
    finally:
        if ours:
            dist.destroy_process_group()
