"""WHERE A MODEL REALLY RUNS: files for the runtimes that ship it, and the engines that score candidates."""

from secateur.runtimes.eager import Eager, latencies_ms
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

__all__ = [
    "ENGINES",
    "RUNTIMES",
    "Eager",
    "Engine",
    "Measured",
    "Runtime",
    "engine",
    "export",
    "installed",
    "latencies_ms",
    "measure",
    "meter_called",
    "runtime_called",
]
