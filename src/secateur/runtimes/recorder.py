"""CUDA graphs: what a GPU does is recorded once and replayed, so that it waits for no Python between its kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARMING = 3
"""Times that an action is done as it is before it is recorded: in the first, libraries allocate and choose kernels."""
Action = Callable[..., Tensor]
"""Tensors on the GPU -> one more."""


class Recorder:
    """Does and records actions on one GPU, on a stream of its own: no recording may wait for the default one."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def eager(self, action: Action, *inputs: Tensor) -> Tensor:
        """Do it as it is."""
        before = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            answer = action(*inputs)
        before.wait_stream(self._stream)
        return answer

    def record(self, action: Action, *inputs: Tensor) -> Action:
        """What does it again, on other tensors of these sizes or, without any, on the same.

        It answers with the same tensor every time. Raises RuntimeError where the action cannot be recorded: it asks
        the GPU for a value, say.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            answer = action(*inputs)
        used = action, answer  # a graph does not keep what it reads and writes

        def replayed(*given: Tensor) -> Tensor:
            for old, new in zip(inputs, given, strict=bool(given)):
                old.copy_(new)
            graph.replay()
            return used[1]

        return replayed
