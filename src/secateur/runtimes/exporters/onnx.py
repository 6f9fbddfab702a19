"""ONNX: one file that ONNX Runtime and OpenVINO run, and that most converters take."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import onnxscript  # noqa: F401  # torch.onnx asks for it in the middle of its work
import torch
from torch import Tensor, nn


def convert(network: nn.Module, example: tuple[Tensor, ...], place: Path) -> None:
    """Write the network, in eval mode, for inputs of the example's sizes."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, example, place, dynamo=True, external_data=False, verbose=False)
