"""ncnn, by way of pnnx: a .param text and a .bin of weights beside it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pnnx
import torch
from torch import Tensor, nn


def convert(network: nn.Module, example: tuple[Tensor, ...], place: Path) -> None:
    """Write the network, in eval mode, for inputs of the example's sizes; ncnn runs one example at a time."""
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "network.pt"
        torch.jit.trace(network, example, check_trace=False).save(str(traced))
        shapes = ",".join(str(list(x.shape)).replace(" ", "") for x in example)
        made = subprocess.run(
            [pnnx.EXEC_PATH, str(traced), f"inputshape={shapes}", "fp16=0"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if not traced.with_suffix(".ncnn.param").exists():
            raise ValueError(f"pnnx made no ncnn file: {(made.stderr or made.stdout)[-300:]}")
        unknown = [line.split()[0] for line in traced.with_suffix(".ncnn.param").read_text().splitlines()[2:]]
        unknown = [kind for kind in unknown if kind.startswith(("torch.", "aten::", "pnnx.", "nn.", "F.", "Tensor."))]
        if unknown:
            raise ValueError(f"ncnn has no {unknown[0]}")
        shutil.copy(traced.with_suffix(".ncnn.param"), place)
        shutil.copy(traced.with_suffix(".ncnn.bin"), place.with_suffix(".bin"))
