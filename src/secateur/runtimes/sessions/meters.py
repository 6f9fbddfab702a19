"""What counts the energy that this machine uses: RAPL on its processors, NVML on its GPU. No torch in here.

A meter counts all that the machine does, not this program alone: measure on a quiet one.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

METERS = ("rapl", "nvml")
POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows RAPL's counters."""


class Meter(Protocol):
    """A counter of energy."""

    def joules(self) -> float:
        """Energy used since some moment in the past; it never falls."""


def open_meter(name: str) -> Meter:
    """The meter called `name`. Raises OSError where this machine has none that can be read, saying why."""
    if name not in METERS:
        raise OSError(f"no meter is called {name!r}; there are {', '.join(METERS)}")
    return Rapl(POWERCAP) if name == "rapl" else Nvml()


def millijoules(run: Callable[[Any], object], inputs: Sequence[Any], meter: Meter, least_s: float = 1.0) -> float:
    """Mean energy of one pass, over as many as fill `least_s` seconds: counters move only every few milliseconds."""
    run(inputs)
    passes, started, before = 0, time.perf_counter(), meter.joules()
    while time.perf_counter() - started < least_s:
        run(inputs)
        passes += 1
    return 1000 * (meter.joules() - before) / passes


class Rapl:
    """Running average power limit: the counters of the processor packages, and of the memory where it has its own."""

    def __init__(self, folder: Path) -> None:
        domains = [place for place in sorted(folder.glob("*rapl:*")) if _counts(place)]
        if not domains:
            raise OSError(f"no RAPL counter under {folder}: not this processor, or a virtual machine hides it")
        self._counters = [place / "energy_uj" for place in domains]
        self._ranges = [int((place / "max_energy_range_uj").read_text()) for place in domains]
        try:
            self._last = self._read()
        except PermissionError as error:
            raise OSError(f"{error.filename} may be read by root alone: run as root, or let it be read") from error
        self._used = 0.0

    def joules(self) -> float:
        """Counters start again at 0 after some minutes or hours: ask at least once between."""
        now = self._read()
        steps = zip(now, self._last, self._ranges, strict=True)
        self._used += sum((new - old) % whole for new, old, whole in steps) / 1e6
        self._last = now
        return self._used

    def _read(self) -> list[int]:
        return [int(place.read_text()) for place in self._counters]


def _counts(place: Path) -> bool:
    """Whether a domain is a package or its memory: cores and graphics are parts of a package already."""
    name = place / "name"
    return name.exists() and name.read_text().startswith(("package", "dram"))


class Nvml:
    """The energy counter of the machine's NVIDIA GPU (Volta or later)."""

    def __init__(self) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise OSError("nvml needs the package nvidia-ml-py: pip install nvidia-ml-py") from error
        try:
            self._nvml.nvmlInit()
            if (there := self._nvml.nvmlDeviceGetCount()) > 1:
                raise OSError(f"this machine has {there} GPUs, and which of them is meant NVML does not know")
            self._device = self._nvml.nvmlDeviceGetHandleByIndex(0)
            self.joules()
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML finds no GPU that counts its energy here: {error}") from error

    def joules(self) -> float:
        """Since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)) / 1000
