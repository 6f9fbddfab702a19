"""LiteRT (TensorFlow Lite), by way of litert-torch."""

from __future__ import annotations

from pathlib import Path

import litert_torch
from torch import Tensor, nn


def convert(network: nn.Module, example: tuple[Tensor, ...], place: Path) -> None:
    """Write the network, in eval mode, for inputs of the example's sizes."""
    litert_torch.convert(network, example).export(str(place))
