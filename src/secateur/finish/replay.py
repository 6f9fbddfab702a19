"""A training step recorded as a CUDA graph: of small networks, a GPU computes sooner than Python can launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
"""One step on inputs [N, ...] and labels [N] that lie on the GPU; its loss."""
EAGER = 3
"""Steps of a shape that are taken as they are before one is recorded: libraries allocate in the first."""


class Replay:
    """Takes steps by replaying a recorded one, for each shape of inputs that comes again and again.

    What is replayed are the kernels: whatever else a network's `forward` does in Python is done while recording only.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._seen: Counter[torch.Size] = Counter()
        self._recorded: dict[torch.Size, Callable[[Tensor, Tensor], Tensor]] = {}
        self._aside = torch.cuda.Stream()

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One step; its loss."""
        shape = inputs.shape
        self._seen[shape] += 1
        if self._seen[shape] <= EAGER:
            return self._eager(inputs, labels)
        if shape not in self._recorded:
            self._recorded[shape] = self._record(inputs.clone(), labels.clone())
        return self._recorded[shape](inputs, labels)

    def _eager(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """On a stream of its own, as what is recorded later must not wait for the default one."""
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            loss = self._step(inputs, labels)
        torch.cuda.current_stream().wait_stream(self._aside)
        return loss

    def _record(self, inputs: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._step(inputs, labels)

        def replayed(*given: Tensor) -> Tensor:
            inputs.copy_(given[0])
            labels.copy_(given[1])
            graph.replay()
            return loss.clone()

        return replayed
