"""ncnn on the CPU: runs a .param file with the .bin beside it, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ncnn
import numpy as np


def session(place: str, threads: int) -> Callable[[Sequence[Any]], list[Any]]:
    """The file ready to run in 32 bits, on so many threads. ncnn knows no batches: N is 1."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for narrow in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, narrow, False)
    if net.load_param(place) or net.load_model(str(Path(place).with_suffix(".bin"))):
        raise ValueError(f"ncnn cannot read {place}")
    takes, gives = sorted(net.input_names()), sorted(net.output_names())

    def run(inputs: Sequence[Any]) -> list[Any]:
        with net.create_extractor() as extractor:
            for name, x in zip(takes, inputs, strict=True):
                pixels = np.ascontiguousarray(x[0])  # a Mat does not own it: it has to outlive the clone
                extractor.input(name, ncnn.Mat(pixels).clone())
            return [np.array(extractor.extract(name)[1])[None] for name in gives]

    return run
