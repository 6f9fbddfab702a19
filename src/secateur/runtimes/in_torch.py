"""PyTorch itself as a runtime, which needs no file: on the CPU as it is, on a GPU as a recorded graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import BudgetError, ExportError
from secateur.graph import Inputs, copied
from secateur.runtimes.eager import eager_session
from secateur.runtimes.kernels import block_sparse
from secateur.runtimes.recorder import WARMING, Recorder
from secateur.runtimes.sessions.profile import processor

GPU = "cuda"
IN_TORCH = ("torch", GPU)
"""What PyTorch on the CPU and on a GPU are called among runtimes."""


def torch_runtimes() -> tuple[str, ...]:
    """Those of IN_TORCH that are here."""
    return IN_TORCH if torch.cuda.is_available() else IN_TORCH[:1]


def require_gpu(runtime: str) -> None:
    """Raises ExportError where the runtime is a GPU and there is none."""
    if runtime == GPU and not torch.cuda.is_available():
        raise ExportError(f"{GPU} needs an NVIDIA GPU and a build of PyTorch that sees it; here it sees none")


def check_counts(meter: str, runtime: str) -> None:
    """Raises BudgetError where the meter counts another chip than what the runtime runs on."""
    if not counts_chip_of(meter, runtime):
        chip, other = ("GPU", "CPU") if meter == "nvml" else ("CPU", "GPU")
        raise BudgetError(f"{meter} counts the energy of the {chip}, and {runtime} runs on the {other}")


def counts_chip_of(meter: str, runtime: str) -> bool:
    """Whether the meter counts the chip that the runtime runs on."""
    return (meter == "nvml") == (runtime == GPU)


def hardware(runtime: str) -> str:
    """The make of what the runtime runs on, on this machine."""
    if runtime != GPU:
        return processor()
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "a machine without a GPU"


def torch_session(runtime: str, network: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[Any], list[Any]]:
    """A pass of a copy of the network over `inputs` [N, ...], whatever it is called with; it waits for the GPU.

    Layers are block-sparse where that is quicker. What is timed on a GPU is a recorded graph: its kernels, and not
    Python that launches them. Raises ExportError where a network cannot be recorded.
    """
    require_gpu(runtime)
    if runtime != GPU:
        given = tuple(x.cpu() for x in inputs)
        eager = eager_session(block_sparse(copied(network).cpu(), Inputs(given)))
        return lambda _: eager(given)
    try:
        there = tuple(x.to(GPU) for x in inputs)
        ready, recorder = block_sparse(copied(network).to(GPU), Inputs(there)), Recorder(there[0].device)
        with torch.inference_mode():
            for _ in range(WARMING):
                recorder.eager(ready, *there)
            replayed = recorder.record(ready, *there)
    except RuntimeError as error:
        raise ExportError(f"{type(network).__name__} cannot be recorded as a CUDA graph: {error}") from error

    def run(_: Any) -> list[Any]:
        answer = replayed()
        torch.cuda.synchronize()
        return [answer]

    return run
