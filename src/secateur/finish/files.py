"""Files of tensors, read without unpickling what could run code; and a dense network filled from one."""

from __future__ import annotations

import os
from collections.abc import KeysView
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateur.errors import CheckpointError


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError with the cause."""
    place = Path(path)
    if not place.is_file():
        raise CheckpointError(f"there is no file {place}")
    try:
        with safe_open(place, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        head = place.read_bytes()[:4]
        if head[:2] == b"PK" or head[:1] == b"\x80":
            raise CheckpointError(
                f"{place} is a pickle, and unpickling can run any code; convert it where it was made: "
                "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            ) from error
        raise CheckpointError(f"{place} is not a whole safetensors file ({error}); make it again") from error


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Fill a dense network from a safetensors file, or from a plain state dict read with `weights_only=True`.

    A state dict may be the only one in a dict of other things, and a wrapper may stand before all of its names
    ("module.", "_orig_mod.", "model."). Raises CheckpointError where the file is unsafe, damaged, or does not fit.
    """
    place = Path(path)
    if place.suffix == ".safetensors" or not place.is_file():
        state: Any = read_tensors(place)[0]
    else:
        state = _weights_only(place)
    known = model.state_dict().keys()
    state = _unwrapped(state, known)
    missing, unknown = sorted(known - state), sorted(state.keys() - known)
    if missing or unknown:
        raise CheckpointError(
            f"{place} does not fit {type(model).__name__}: missing {missing[:3]}, unknown {unknown[:3]}; give the "
            "architecture, and its options, that it was trained with"
        )
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError) as error:
        lines = " ".join(str(error).split())
        raise CheckpointError(
            f"{place} does not fit {type(model).__name__} as it is built: give the options (number of classes, width) "
            f"that it was trained with. {lines[:300]}"
        ) from error


def _unwrapped(state: dict[str, Tensor], known: KeysView[str]) -> dict[str, Tensor]:
    """Without what wrappers put before every name."""
    while not known & state.keys():
        wrappers = {name.partition(".")[0] for name in state}
        if len(wrappers) != 1 or not all("." in name for name in state):
            break
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
    return state


def _weights_only(place: Path) -> dict[str, Tensor]:
    try:
        raw = torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{place} holds more than tensors, or is damaged, and was not loaded (unpickling can run any code); "
            "save it again as safetensors"
        ) from error
    if _is_state(raw):
        return dict(raw)
    inside = {key: value for key, value in raw.items() if _is_state(value)} if isinstance(raw, dict) else {}
    if len(inside) == 1:
        return dict(*inside.values())
    if inside:
        raise CheckpointError(f"{place} holds several state dicts ({', '.join(map(str, inside))}); save the one alone")
    raise CheckpointError(f"{place} is not a state dict (name -> tensor); save model.state_dict()")


def _is_state(raw: object) -> bool:
    return (
        isinstance(raw, dict)
        and bool(raw)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in raw.items())
    )
