"""LiteRT (TensorFlow Lite), by way of litert-torch."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import litert_torch
from torch import Tensor, nn


def convert(network: nn.Module, example: tuple[Tensor, ...], place: Path) -> None:
    """Write the network, in eval mode, for inputs of the example's sizes."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it tells of every step on the screen
        warnings.simplefilter("ignore")
        litert_torch.convert(network, example).export(str(place))
