"""ExecuTorch with XNNPACK: what PyTorch itself ships for phones."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor, nn


def convert(network: nn.Module, example: tuple[Tensor, ...], place: Path) -> None:
    """Write the network, in eval mode, for inputs of the example's sizes."""
    logging.getLogger("executorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(network, example, strict=False)
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    place.write_bytes(program.buffer)
