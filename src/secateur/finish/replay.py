"""A training step recorded as a CUDA graph: of small networks, a GPU computes sooner than Python can launch."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from secateur.errors import DataError
from secateur.runtimes import WARMING, Action, Recorder


class Replay:
    """Takes steps by replaying a recorded one, for each shape of inputs that comes again and again.

    What is replayed are the kernels: whatever else a network's `forward` does in Python is done while recording only.
    """

    def __init__(self, step: Action, device: torch.device) -> None:
        self._step, self._recorder = step, Recorder(device)
        self._seen: Counter[torch.Size] = Counter()
        self._recorded: dict[torch.Size, Action] = {}

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One step on inputs [N, ...] and labels [N] that lie on the GPU; its loss. Raises DataError."""
        shape = inputs.shape
        self._seen[shape] += 1
        if self._seen[shape] <= WARMING:
            return self._recorder.eager(self._step, inputs, labels)
        if shape not in self._recorded:
            try:
                self._recorded[shape] = self._recorder.record(self._step, inputs.clone(), labels.clone())
            except RuntimeError as error:
                raise DataError(f"a step cannot be recorded as a CUDA graph ({error}): leave replay out") from error
        return self._recorded[shape](inputs, labels).clone()
