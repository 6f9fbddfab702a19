"""WHERE A MODEL REALLY RUNS: one file a runtime."""

from secateur.runtimes.eager import Eager, latencies_ms
from secateur.runtimes.engine import ENGINES, Engine, engine

__all__ = ["ENGINES", "Eager", "Engine", "engine", "latencies_ms"]
