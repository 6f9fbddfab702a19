"""One look of a contestant at a network, in a process of its own that ends in time."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

import torch


def look(contestant: str, library: str, network: str) -> dict[str, Any]:
    """Build the network, look at it, say what was found; `contestant` and `library` are names of modules."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    case = importlib.import_module(f"architectures.{library}").CASES[network]()
    return {"task": case.task, **importlib.import_module(f"contestants.{contestant}").look(case)}


def prepare(contestants: Iterable[str], libraries: Iterable[str]) -> None:
    """Have modules imported once, in a process that those of the looks are forked from: importing takes longest."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # Python 3.11 does not tell that process its path
    modules = [f"contestants.{name}" for name in contestants] + [f"architectures.{name}" for name in libraries]
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, *modules])


def look_apart(contestant: str, library: str, network: str, limit: float) -> dict[str, Any]:
    """The same in another process; `crash` says how it went down, if it did."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(contestant, library, network, sender))
    process.start()
    sender.close()
    if not receiver.poll(limit):
        process.kill()
        process.join()
        return {"crash": f"not done after {limit:g} s"}
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:
        process.join()
        return {"crash": f"exit {process.exitcode}"}
    process.join()
    return found


def _tell(contestant: str, library: str, network: str, sender: Connection) -> None:
    """What a look finds, or the error that ends it; what libraries print is nobody's."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    try:
        found = {**look(contestant, library, network), "crash": ""}
    except Exception as error:
        found = {"crash": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    sender.send(found)
