"""WHERE A MODEL REALLY RUNS: files for the runtimes that ship it, and the engines that score candidates."""

from secateur.runtimes.eager import Eager, eager_session, latencies_ms
from secateur.runtimes.engine import ENGINES, Engine, engine, require_engine
from secateur.runtimes.export import (
    RUNTIMES,
    Measured,
    Runtime,
    export,
    installed,
    measure,
    meter_called,
    require,
    runtime_called,
)
from secateur.runtimes.in_torch import (
    GPU,
    IN_TORCH,
    check_counts,
    hardware,
    torch_runtimes,
    torch_session,
)
from secateur.runtimes.kernels import block_sparse, quicker
from secateur.runtimes.recorder import WARMING, Action, Recorder

__all__ = [
    "ENGINES",
    "GPU",
    "IN_TORCH",
    "RUNTIMES",
    "WARMING",
    "Action",
    "Eager",
    "Engine",
    "Measured",
    "Recorder",
    "Runtime",
    "block_sparse",
    "check_counts",
    "eager_session",
    "engine",
    "export",
    "hardware",
    "installed",
    "latencies_ms",
    "measure",
    "meter_called",
    "quicker",
    "require",
    "require_engine",
    "runtime_called",
    "torch_runtimes",
    "torch_session",
]
