"""What every method is given, and what several need: the blocks of a transformer, a budget, calibration inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.graph import Inputs, Kept, copied
from secateur.plan import Plan
from secateur.prune import Cutter
from secateur.search import SearchSpace

RIDGE = 1e-3


@dataclass(frozen=True)
class Block:
    """A transformer block, by the names of its linear layers; of attention, where its heads and dims are to be cut."""

    up: str
    down: str
    query: str = ""
    key: str = ""
    value: str = ""
    out: str = ""
    heads: int = 0
    stream: str = ""
    """Whose input the MLP's output is added to; `up` itself, where no norm stands before it."""


@dataclass(frozen=True)
class Task:
    """What all get. `inputs` are calibration inputs; `mask` [N, tokens] says which tokens are some, None: all."""

    model: nn.Module
    space: SearchSpace
    blocks: tuple[Block, ...]
    inputs: Inputs
    mask: Tensor | None

    def batches(self, size: int = 32) -> Iterator[tuple[Inputs, Tensor]]:
        """The calibration inputs, and which tokens are some, in pieces."""
        for start in range(0, len(self.inputs), size):
            piece = self.inputs.part(start, start + size)
            tokens = piece.tensors[0].shape[:2]
            mask = torch.ones(tokens) if self.mask is None else self.mask[start : start + size]
            yield piece, mask > 0

    def site(self, layer: str, role: str) -> str:
        """The key of the units of this role that a layer makes."""
        groups = self.space.graph.prunable
        return next(group.key for group in groups if layer in group.producers and group.role == role)

    def affordable(self, kept: Kept) -> bool:
        """Whether the budget allows it."""
        return self.space.cost({key: len(units) for key, units in kept.items()}) <= self.space.limit

    def uniform_plan(self) -> Plan:
        """The same share of every site, as much as the budget allows."""
        low, high = 0.0, 1.0
        for _ in range(12):
            share = (low + high) / 2
            counts = {site.key: site.count(share) for site in self.space.sites}
            low, high = (share, high) if self.space.cost(counts) <= self.space.limit else (low, share)
        return self.space.plan({site.key: site.count(low) for site in self.space.sites})

    def cut(self, model: nn.Module, kept: Kept) -> nn.Module:
        """A network of its own with these units."""
        return copied(Cutter(model, self.space.graph).cut(kept)).eval()


@contextmanager
def watching(model: nn.Module, layers: Sequence[str], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `see(layer, input, output)` whenever one of these layers runs."""
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, args, y, name=name: see(name, args[0], y))
        for name in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def largest(task: Task, kept_at: Callable[[float], Kept]) -> Kept:
    """The plan of the largest share that the budget allows."""
    low, high = 0.0, 1.0
    for _ in range(12):
        share = (low + high) / 2
        low, high = (share, high) if task.affordable(kept_at(share)) else (low, share)
    return kept_at(low)


def first(score: Tensor, share: float) -> npt.NDArray[np.int64]:
    """The units of the highest scores, ascending; one at least."""
    count = max(round(share * len(score)), 1)
    return np.sort(torch.argsort(-score)[:count].numpy())


def ridged(square: Tensor) -> Tensor:
    """With something on the diagonal, so that it can be solved."""
    return square + RIDGE * square.diagonal().mean() * torch.eye(len(square))
