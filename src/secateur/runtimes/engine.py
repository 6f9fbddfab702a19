"""What answers for a candidate while it is scored: torch itself, or a runtime that is quicker on the CPU."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur.errors import JobError
from secateur.runtimes.eager import Eager

ENGINES = ("torch", "openvino", "openvino-int8")


UNPREPARED = 2**19
"""Numbers that a network may take in before it is prepared: 100 pictures of CIFAR-10, not a batch of ImageNet's."""


class Engine(Protocol):
    """Makes a network quick to evaluate. One a thread: it is not shared."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """The same answers, faster; valid until the next call, and only while `network` is left as it is."""


class Late:
    """An engine for races that leaves the first answers to torch: what is soon stopped is not worth compiling.

    How much is answered so depends on the inputs' size alone, so that all networks are compared on equal terms.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._eager = Eager()

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network, to be prepared when `UNPREPARED` is exceeded."""
        return _Late(self._eager(network), self.engine)


class _Late(nn.Module):
    def __init__(self, network: nn.Module, engine: Engine) -> None:
        super().__init__()
        self.network = network
        self.eval()
        self._engine: Engine | None = engine
        self._taken = 0

    def forward(self, *inputs: Tensor) -> Any:
        self._taken += inputs[0].numel()
        if self._taken > UNPREPARED and self._engine is not None:
            with torch.inference_mode(False):  # what is made of the network now serves other networks too
                self.network = self._engine(self.network)
            self._engine = None
        return self.network(*inputs)


def engine(name: str, dense: nn.Module, example: tuple[Tensor, ...], calibration: tuple[Tensor, ...]) -> Engine:
    """The engine called `name`; what it makes takes inputs of the same sizes as here, but for N, at its full speed.

    Args:
        name: torch (channels-last), openvino (the same answers but for rounding) or openvino-int8 (8-bit weights and
            activations: a few predictions are others, more of them for MobileNet-V1 than for ResNet-56).
        dense: the network before pruning, in eval mode; its norms may be folded or not.
        example: the inputs of one forward pass, each [N, ...].
        calibration: more of them, on which the ranges of activations are measured (256 at most are used) and
            every candidate's first answers are checked against torch's. Empty: the example serves.

    Raises:
        JobError: there is no engine of that name, or what it needs is not installed.
    """
    if name not in ENGINES:
        raise JobError(f"no engine is called {name!r}; choose one of {', '.join(ENGINES)}")
    if name == "torch":
        return Eager()
    from secateur.runtimes.openvino import OpenVino

    return OpenVino(dense, example, calibration, int8=name == "openvino-int8")
