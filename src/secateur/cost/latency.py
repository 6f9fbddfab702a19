"""Reading what tells latency: a profile that comes with Secateur, or a table that `secateur profile` wrote."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from secateur.cost.device import DeviceProfile
from secateur.cost.table import LatencyTable
from secateur.errors import BudgetError
from secateur.schema import Malformed, decode

DEVICES = ("pixel1",)
"""Profiles that come with Secateur."""


def latency_model(name: str) -> DeviceProfile | LatencyTable:
    """The profile called `name`, or the table or profile in the JSON file `name`. Raises BudgetError."""
    try:
        if name in DEVICES:
            raw = json.loads((resources.files("secateur.cost") / "devices" / f"{name}.json").read_text())
        else:
            raw = json.loads(Path(name).read_text())
    except OSError as error:
        known = ", ".join(DEVICES)
        raise BudgetError(f"latency = {name!r}: no such file ({error.strerror}), and no profile ({known})") from error
    except ValueError as error:
        raise BudgetError(f"latency = {name!r} is no JSON ({error}); write it with secateur profile") from error
    try:
        kind = LatencyTable if isinstance(raw, dict) and "layers" in raw else DeviceProfile
        model: DeviceProfile | LatencyTable = decode(kind, raw, "table")
    except Malformed as error:
        raise BudgetError(f"latency = {name!r} is no latency table or device profile: {error}") from error
    return model
