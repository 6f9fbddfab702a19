"""Measure a table of latency or energy: the layers of a network at many widths, on a runtime, here or elsewhere."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress as Bars
from torch import Tensor, nn

import secateur.runtimes.sessions as sessions
from secateur.api import inspect
from secateur.bundle import Progress, Writer, bundle_of
from secateur.errors import ExportError
from secateur.graph import Example
from secateur.job import Job
from secateur.job.materials import materials
from secateur.plan import Budget
from secateur.run import try_to_write, write_atomically
from secateur.runtimes import IN_TORCH, check_counts, hardware, meter_called, require, runtime_called, torch_session
from secateur.runtimes.sessions import Session
from secateur.runtimes.sessions.profile import Bench, count_files, profile, profile_folder
from secateur.search import SearchSpace
from secateur.threads import torch_threads

STEP = 8
"""What counts of channels are multiples of, unless the job says otherwise: what the kernels of CPUs and phones work on
at once. Another count is often slower than the next multiple."""


@dataclass(frozen=True)
class How:
    """By which runtime layers are measured, on how many threads, and what counts energy, if it is a table of that."""

    runtime: str
    threads: int = 1
    meter: str | None = None


def profile_job(job: Job, how: How, table: Path | None, bundle: Path | None) -> str:
    """What `secateur profile` does: write the table of this machine, or a bundle for another. Returns what to say.

    Raises ExportError where the runtime is not installed or the place cannot be written, BudgetError where the meter is
    not here.
    """
    _check_place(table, bundle)
    require(how.runtime)
    if how.runtime in IN_TORCH and bundle is not None:
        raise ExportError(f"{how.runtime} needs no bundle: run secateur profile on the device itself")
    if how.meter:
        check_counts(how.meter, how.runtime)
    if how.meter and bundle is None:
        meter_called(how.meter)
    found = materials(job)
    settings = replace(job.space, step=job.space.step or STEP)
    space = SearchSpace(inspect(found.model, found.example), Budget(macs=1.0), settings)
    with Bars() as bars:
        if bundle is not None:
            make_bundle(found.model, found.example, space, how.runtime, bundle, partial(_show, bars, "written"))
            return (
                f"copy {bundle} to the device and run there, with numpy and {how.runtime} installed:\n"
                f"  cd {bundle.name} && python -m sessions.profile . -o table.json --threads {how.threads}"
                + (f" --meter {how.meter}" if how.meter else "")
            )
        assert table is not None
        made = make_table(found.model, found.example, space, how, partial(_show, bars))
    write_atomically(table, json.dumps(made, indent=1).encode() + b"\n")
    return f'written to {table}; name it in a job: {"energy" if how.meter else "latency"} = "{table.resolve()}"'


def _check_place(table: Path | None, bundle: Path | None) -> None:
    """Before anything is measured. Raises ExportError."""
    try:
        if bundle is not None:
            bundle.mkdir(parents=True, exist_ok=True)
        if table is not None:
            table.parent.mkdir(parents=True, exist_ok=True)
            try_to_write(table)
    except OSError as error:
        raise ExportError(f"cannot write {bundle or table}: {error.strerror}; name another place") from error
    if table is not None and table.is_dir():
        raise ExportError(f"cannot write {table}: it is a folder; name a file")


def _show(bars: Bars, what: str, done: int, whole: int) -> None:
    """Move the bar called `what`, which is made when it is first spoken of."""
    task = next((task.id for task in bars.tasks if task.description == what), None)
    bars.update(bars.add_task(what) if task is None else task, completed=done, total=whole)


def make_table(
    model: nn.Module,
    example: Example,
    space: SearchSpace,
    how: How,
    progress: Callable[[str, int, int], None] = lambda what, done, whole: None,
) -> dict[str, Any]:
    """The table of this machine, as JSON that `cost.latency_model` or `cost.energy_model` reads."""
    measured = partial(progress, "files measured")
    if how.runtime in IN_TORCH:
        return _table_of_torch(model, example, space, how, measured)
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(model, example, space, how.runtime, Path(folder), partial(progress, "files written"))
        return profile_folder(Path(folder), how.threads, measured, how.meter)


def _table_of_torch(
    model: nn.Module, example: Example, space: SearchSpace, how: How, progress: Progress
) -> dict[str, Any]:
    """PyTorch itself needs no files; its layers are block-sparse where that is quicker."""
    runs: dict[str, Session] = {}

    def write(network: nn.Module, inputs: tuple[Tensor, ...], name: str) -> str:
        runs[name] = torch_session(how.runtime, network, inputs)
        return name

    with torch_threads(how.threads):
        wanted = bundle_of(model, example, space, Writer(write, kernels=True)) | {"runtime": how.runtime}
        bench = Bench(runs.__getitem__, meter_called(how.meter) if how.meter else None, count_files(wanted), progress)
        made = profile(wanted, bench, how.threads, how.meter)
    return made | {"device": f"{platform.node()}, {hardware(how.runtime)}"}


def make_bundle(
    model: nn.Module, example: Example, space: SearchSpace, runtime: str, folder: Path, progress: Progress
) -> None:
    """Write all that a device needs to make its own table: files to time, what they are, and what times them."""
    chosen = runtime_called(runtime)
    chosen.require()
    folder.mkdir(parents=True, exist_ok=True)

    def write(network: nn.Module, inputs: tuple[Tensor, ...], name: str) -> str:
        chosen.convert(network, inputs, folder / f"{name}{chosen.suffix}")
        return f"{name}{chosen.suffix}"

    bundle = {"runtime": runtime, **bundle_of(model, example, space, Writer(write, progress))}
    (folder / "bundle.json").write_text(json.dumps(bundle, indent=1) + "\n")
    source = Path(sessions.__file__).parent
    shutil.copytree(source, folder / "sessions", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
