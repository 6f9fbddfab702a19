"""Reading what tells latency and energy: what comes with Secateur, or a table that `secateur profile` wrote."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from secateur.cost.analytic import CostModel
from secateur.cost.device import DeviceProfile
from secateur.cost.energy import EnergyEstimate
from secateur.cost.table import LayerTable
from secateur.errors import BudgetError
from secateur.runtimes.sessions.meters import METERS
from secateur.schema import Malformed, decode

DEVICES = ("pixel1",)
"""Latency profiles that come with Secateur."""
ENERGIES = ("estimate", *METERS)
"""What tells energy and is no file."""


def latency_model(name: str) -> DeviceProfile | LayerTable:
    """The profile called `name`, or the table or profile in the JSON file `name`. Raises BudgetError."""
    if name in DEVICES:
        raw = (resources.files("secateur.cost") / "devices" / f"{name}.json").read_text()
        return _decoded(raw, f"latency = {name!r}", "latency_ms")
    return _decoded(_text(name, "latency", DEVICES), f"latency = {name!r}", "latency_ms")


def energy_model(name: str) -> CostModel:
    """The estimate, or the table in the JSON file `name`. Raises BudgetError."""
    if name == "estimate":
        return EnergyEstimate()
    if name in METERS:
        raise BudgetError(
            f"energy = {name!r} is a meter, which measures whole networks: let it make a table first (secateur profile "
            f"--meter {name} -o energy.json), and name that"
        )
    return _decoded(_text(name, "energy", ("estimate",)), f"energy = {name!r}", "energy_mj")


def _text(name: str, key: str, known: tuple[str, ...]) -> str:
    try:
        return Path(name).read_text()
    except UnicodeDecodeError as error:
        raise BudgetError(f"{key} = {name!r} is no text; name a table that secateur profile wrote") from error
    except OSError as error:
        raise BudgetError(
            f"{key} = {name!r}: no such file ({error.strerror}), and none of {', '.join(known)}"
        ) from error


def _decoded(text: str, what: str, metric: str) -> DeviceProfile | LayerTable:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise BudgetError(f"{what} is no JSON ({error}); write it with secateur profile") from error
    try:
        kind = LayerTable if isinstance(raw, dict) and "layers" in raw else DeviceProfile
        model: DeviceProfile | LayerTable = decode(kind, raw, "table")
    except (Malformed, ValueError) as error:
        raise BudgetError(f"{what} is no table of layers or device profile: {error}") from error
    if model.metric != metric:
        raise BudgetError(f"{what} holds {model.metric}, not {metric}")
    return model
