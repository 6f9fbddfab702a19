"""What answers for a candidate while it is scored: torch itself, or a runtime that is quicker on the CPU."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from secateur.errors import JobError
from secateur.graph import Inputs, best_layout
from secateur.runtimes.eager import Eager

ENGINES = ("torch", "openvino", "openvino-int8")


class Engine(Protocol):
    """Makes a network quick to evaluate. One a thread: it is not shared."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """The same answers, faster; valid until the next call, and only while `network` is left as it is."""


def engine(name: str, dense: nn.Module, example: Inputs, calibration: Inputs | None = None) -> Engine:
    """The engine called `name`; what it makes takes inputs of the same sizes as here, but for N, at its full speed.

    Args:
        name: torch (channels-last), openvino (the same answers but for rounding) or openvino-int8 (8-bit weights and
            activations: a few predictions are others, more of them for MobileNet-V1 than for ResNet-56).
        dense: the network before pruning, in eval mode; its norms may be folded or not.
        example: the inputs of one forward pass, each [N, ...].
        calibration: more of them, on which the ranges of activations are measured (256 at most are used) and
            every candidate's first answers are checked against torch's. None: the example serves.

    Raises:
        JobError: there is no engine of that name, or what it needs is not installed.
    """
    require_engine(name)
    if name == "torch" or not example.plain:
        return Eager(best_layout(dense, example))
    from secateur.runtimes.openvino import OpenVino

    more = () if calibration is None else calibration.args
    return OpenVino(dense, example.args, more, int8=name == "openvino-int8")


def require_engine(name: str) -> None:
    """Raises JobError where there is no engine of that name, or what it needs is not installed."""
    if name not in ENGINES:
        raise JobError(f"no engine is called {name!r}; choose one of {', '.join(ENGINES)}")
    if name != "torch":
        import secateur.runtimes.openvino  # noqa: F401
