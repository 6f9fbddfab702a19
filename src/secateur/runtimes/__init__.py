"""WHERE A MODEL REALLY RUNS: one file a runtime."""

from secateur.runtimes.eager import latencies_ms

__all__ = ["latencies_ms"]
