"""A network as a file of the runtime that ships it, written only where it answers as PyTorch does."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import BudgetError, ExportError, ExportMismatch
from secateur.graph import copied, count_costs
from secateur.runtimes.in_torch import IN_TORCH, counts_chip_of, require_gpu, torch_session
from secateur.runtimes.sessions import Session, median_ms, open_session
from secateur.runtimes.sessions.meters import Meter, millijoules, open_meter
from secateur.sparse import dense_again
from secateur.threads import torch_threads

TOLERANCE = 1e-3
"""Largest difference of an output from PyTorch's, over the outputs' root mean square; rounding stays near 1e-5."""


@dataclass(frozen=True)
class Runtime:
    """A runtime by the name that jobs and commands know it by, its files, and what has to be installed."""

    name: str
    suffix: str
    exporter: str
    to_convert: tuple[str, ...]
    """Packages that write its files."""
    to_run: str
    """The package that runs them."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        needed = dict.fromkeys((*self.to_convert, self.to_run))
        return tuple(name for name in needed if importlib.util.find_spec(name) is None)

    def convert(self, network: nn.Module, example: tuple[Tensor, ...], place: Path) -> None:
        """Write the network for inputs of the example's sizes. Raises ExportError."""
        self.require()
        ready = copied(dense_again(network)).eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        try:
            exporter = importlib.import_module(f"secateur.runtimes.exporters.{self.exporter}")
            exporter.convert(ready.requires_grad_(False), tuple(x.cpu().contiguous() for x in example), place)
        except Exception as error:
            lines = " ".join(str(error).split())
            raise ExportError(
                f"{type(network).__name__} cannot be converted for {self.name}: {type(error).__name__}: {lines[:300]}"
            ) from error

    def check_place(self, place: Path) -> None:
        """Raises ExportError where its files have another suffix."""
        if place.suffix != self.suffix:
            raise ExportError(f"{place}: a file for {self.name} ends in {self.suffix}")

    def require(self) -> None:
        """Raises ExportError where something is not installed."""
        if self.missing:
            raise ExportError(
                f"{self.name} needs {', '.join(self.missing)}, not installed: pip install {' '.join(self.missing)}"
            )


RUNTIMES: Mapping[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        Runtime("onnxruntime", ".onnx", "onnx", ("onnx", "onnxscript"), "onnxruntime"),
        Runtime("openvino", ".onnx", "onnx", ("onnx", "onnxscript"), "openvino"),
        Runtime("executorch", ".pte", "executorch", ("executorch",), "executorch"),
        Runtime("ncnn", ".param", "ncnn", ("pnnx",), "ncnn"),
        Runtime("litert", ".tflite", "litert", ("litert_torch",), "ai_edge_litert"),
    )
}
"""What networks can be exported to; torch itself needs no export."""


def runtime_called(name: str) -> Runtime:
    """The runtime of that name. Raises ExportError where there is none."""
    if name not in RUNTIMES:
        raise ExportError(f"no runtime is called {name!r}; choose one of {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def require(name: str) -> None:
    """Raises ExportError where nothing can be run on the runtime of that name here: what it needs is not installed."""
    if name in IN_TORCH:
        require_gpu(name)
    elif name in RUNTIMES:
        RUNTIMES[name].require()
    else:
        raise ExportError(f"no runtime is called {name!r}; choose one of {', '.join((*IN_TORCH, *RUNTIMES))}")


def installed() -> tuple[str, ...]:
    """The runtimes that can be exported to and run here."""
    return tuple(name for name, runtime in RUNTIMES.items() if not runtime.missing)


def export(network: nn.Module, inputs: tuple[Tensor, ...], place: Path, runtime: str) -> float:
    """Write `network` for `runtime`, for one example at a time, proven equal to PyTorch on every example of `inputs`.

    Args:
        network: any network in eval mode; it is not touched.
        inputs: real inputs of the network, each [N, ...]: all N examples are compared.
        place: the file; the suffix is the runtime's (.onnx, .pte, .param with .bin beside it, .tflite).
        runtime: one of RUNTIMES.

    Returns:
        The largest difference of an output, as a fraction of the outputs' root mean square.

    Raises:
        ExportError: the runtime is unknown or not installed, the network cannot be converted or does not run there.
        ExportMismatch: it answers differently; nothing is written.
    """
    chosen = runtime_called(runtime)
    chosen.check_place(place)
    _check_precision(network)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / place.name
        chosen.convert(network, tuple(x[:1] for x in inputs), made)
        session = _opened(chosen, made)
        error = largest_error(network, session, inputs)
        if not error <= TOLERANCE:
            raise ExportMismatch(
                f"{runtime} answers differently from PyTorch by {error:.2g} of the outputs' size (allowed: "
                f"{TOLERANCE:g}); nothing was written"
            )
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == made):  # the file itself comes last
                shutil.copy(file, place.with_suffix(file.suffix))
        except OSError as problem:
            raise ExportError(f"cannot write {place}: {problem.strerror}; name another place") from problem
    return error


def _opened(runtime: Runtime, place: Path, threads: int = 1) -> Session:
    try:
        return open_session(runtime.name, place, threads)
    except Exception as error:
        raise ExportError(f"{runtime.name} does not run what was converted for it: {error}") from error


def largest_error(network: nn.Module, session: Session, inputs: tuple[Tensor, ...]) -> float:
    """The largest difference of an output from PyTorch's, example by example, over the outputs' root mean square."""
    ready = copied(network).eval().cpu()
    worst = 0.0
    for number in range(len(inputs[0])):
        one = tuple(x[number : number + 1].cpu().contiguous() for x in inputs)
        with torch.no_grad():
            answer = ready(*one)
        answers = (answer,) if isinstance(answer, Tensor) else answer
        if not isinstance(answers, tuple | list) or not all(isinstance(x, Tensor) for x in answers):
            raise ExportError(f"{type(network).__name__} answers by {type(answer).__name__}, not by tensors")
        wanted = [x.float().numpy() for x in answers]
        given = session([x.numpy() for x in one])
        if [x.shape for x in given] != [x.shape for x in wanted]:
            return float("inf")
        for is_, should in zip(given, wanted, strict=True):
            difference = float(np.abs(is_ - should).max()) / max(float(np.sqrt(np.mean(np.square(should)))), 1e-6)
            worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst


@dataclass(frozen=True)
class Measured:
    """One network on one runtime."""

    network: str
    runtime: str
    latency_ms: float
    file_bytes: int
    energy_mj: float | None = None
    """Of the whole machine during one pass, where a meter counts it."""
    meter: str | None = None
    """Which."""


def _check_precision(network: nn.Module) -> None:
    """Files are proven in 32 bits; runtimes lack operations in others, and say so in their own words."""
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ExportError(
                f"{name} is {kind}: files for runtimes are in float32; give network.float(), and inputs so"
            )


def measure(
    networks: Mapping[str, nn.Module],
    inputs: tuple[Tensor, ...],
    runtimes: Sequence[str],
    threads: int = 1,
    rounds: int = 50,
    meter: str | None = None,
    skip: bool = False,
) -> list[Measured]:
    """Median latency and file size of every network on every runtime, for the first example of `inputs`.

    On each runtime the networks take turns: compare figures of one runtime with each other. "torch" is eager PyTorch
    on the CPU, "cuda" a recorded graph of it on the GPU, with block-sparse layers where they are quicker. A meter
    counts the energy of the runtimes that run on its chip.
    Raises as `export`, but for a mismatch, which it does not look for; BudgetError where the meter is not here. With
    `skip`, a runtime that does not take the networks is left out with a warning.
    """
    counter = None if meter is None else meter_called(meter)
    one = tuple(x[:1].cpu().contiguous() for x in inputs)
    found: list[Measured] = []
    for runtime in runtimes:
        try:
            counted = counter if meter and counts_chip_of(meter, runtime) else None
            taken = _measured(networks, one, runtime, threads, rounds, counted)
            found += [replace(each, meter=meter if counted else None) for each in taken]
        except ExportError as error:
            if not skip:
                raise
            warnings.warn(f"{runtime} is left out: {error}", stacklevel=2)
    return found


def _measured(
    networks: Mapping[str, nn.Module],
    one: tuple[Tensor, ...],
    runtime: str,
    threads: int,
    rounds: int,
    counter: Meter | None,
) -> list[Measured]:
    """The networks on one runtime."""
    arrays = [x.numpy() for x in one]
    with tempfile.TemporaryDirectory() as folder:
        sessions: dict[str, Callable[[Any], list[Any]]] = {}
        sizes: dict[str, int] = {}
        for name, network in networks.items():
            if runtime in IN_TORCH:
                with torch_threads(threads):
                    sessions[name] = torch_session(runtime, network, one)
                sizes[name] = count_costs(network, one).bytes
                continue
            chosen = runtime_called(runtime)
            place = Path(folder) / runtime / name / f"network{chosen.suffix}"
            place.parent.mkdir(parents=True)
            chosen.convert(network, one, place)
            sizes[name] = sum(file.stat().st_size for file in place.parent.iterdir())
            sessions[name] = _opened(chosen, place, threads)
        with torch_threads(threads):
            times = median_ms(sessions, arrays, rounds)
            used = {name: _energy(run, arrays, counter) for name, run in sessions.items()}
        return [Measured(name, runtime, times[name], sizes[name], used[name]) for name in networks]


def _energy(run: Callable[[Any], list[Any]], inputs: Sequence[Any], meter: Meter | None) -> float | None:
    return None if meter is None else millijoules(run, inputs, meter)


def meter_called(name: str) -> Meter:
    """The meter of that name. Raises BudgetError where this machine has none that can be read."""
    try:
        return open_meter(name)
    except OSError as error:
        raise BudgetError(f"no energy can be measured here by {name}: {error}") from error
