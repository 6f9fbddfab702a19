"""WHERE A MODEL REALLY RUNS: files for the runtimes that ship it, and the engines that score candidates."""

from secateur.runtimes.eager import Eager, eager_session, latencies_ms
from secateur.runtimes.engine import ENGINES, Engine, engine
from secateur.runtimes.export import (
    RUNTIMES,
    Measured,
    Runtime,
    export,
    installed,
    measure,
    meter_called,
    runtime_called,
)
from secateur.runtimes.kernels import block_sparse, quicker

__all__ = [
    "ENGINES",
    "RUNTIMES",
    "Eager",
    "Engine",
    "Measured",
    "Runtime",
    "block_sparse",
    "eager_session",
    "engine",
    "export",
    "installed",
    "latencies_ms",
    "measure",
    "meter_called",
    "quicker",
    "runtime_called",
]
