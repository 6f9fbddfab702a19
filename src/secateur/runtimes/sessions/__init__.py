"""RUN A FILE AND TIME IT: numpy and the runtime alone, one file a runtime, nothing of Secateur and no torch.

This folder is copied as it is to a device that is profiled, so it imports nothing from outside itself.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Session = Callable[[Sequence[Array]], list[Array]]
"""The inputs of one forward pass, in order, as float32 [N, ...] -> the outputs."""

SESSIONS = ("onnxruntime", "openvino", "executorch", "ncnn", "litert")
TIMED = 5
"""Passes that are timed in a turn."""
WARMING, LEAST_WARMING, WARMING_MS = 16, 3, 20.0
"""Passes before them: so many, or fewer of a network that takes long, but never less than the second. The caches and
branch predictors of some processors need as many after another network has run."""


def open_session(runtime: str, place: str | Path, threads: int = 1) -> Session:
    """The file ready to run on so many threads.

    Raises ImportError where the runtime is not installed, and whatever it raises on a file that is not its own.
    """
    if runtime not in SESSIONS:
        raise ValueError(f"no runtime is called {runtime!r}; there are {', '.join(SESSIONS)}")
    module = importlib.import_module(f".{runtime}_session", __package__)
    session: Session = module.session(str(place), threads)
    return session


def version_of(runtime: str) -> str:
    """Of the installed package that runs the runtime's files; empty where it tells none."""
    package = {"litert": "ai-edge-litert", "cuda": "torch"}.get(runtime, runtime)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def median_ms(
    sessions: Mapping[str, Callable[[Any], list[Any]]],
    inputs: Sequence[Any],
    rounds: int = 50,
    least_ms: float = 0.0,
) -> dict[str, float]:
    """Median milliseconds of one pass of each session.

    The sessions take turns, so that a busy moment of the machine falls on all of them: compare the figures with each
    other, not with another run's. Goes on until `rounds` passes of each, and `least_ms`, have been timed. Every turn
    begins with untimed passes: who takes turns finds the caches full of others, who runs alone does not, and small
    networks would be charged more for it than large ones.
    """
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(100 * rounds):
        for name, session in sessions.items():
            _warm(session, inputs)
            times[name] += [_milliseconds(session, inputs) for _ in range(TIMED)]
        if all(len(spent) >= rounds and sum(spent) >= least_ms for spent in times.values()):
            break
    return {name: statistics.median(spent) for name, spent in times.items()}


def _warm(session: Callable[[Any], list[Any]], inputs: Sequence[Any]) -> None:
    spent = 0.0
    for number in range(WARMING):
        if number >= LEAST_WARMING and spent >= WARMING_MS:
            break
        spent += _milliseconds(session, inputs)


def _milliseconds(session: Callable[[Any], list[Any]], inputs: Sequence[Any]) -> float:
    started = time.perf_counter()
    session(inputs)
    return 1000 * (time.perf_counter() - started)


def random_inputs(said: Sequence[Sequence[int] | Mapping[str, Any]], seed: int = 0) -> list[Array]:
    """Normally distributed inputs, float32, where a shape is said; else (tokens, masks) the `values` of a `dtype`."""
    rng = np.random.default_rng(seed)
    return [
        np.array(each["values"], each["dtype"]) if isinstance(each, Mapping)
        else rng.standard_normal(each).astype(np.float32)
        for each in said
    ]  # fmt: skip
