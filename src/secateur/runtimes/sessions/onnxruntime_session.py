"""ONNX Runtime on the CPU: runs .onnx files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime as ort


def session(place: str, threads: int) -> Callable[[Sequence[Any]], list[Any]]:
    """The file ready to run, on so many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    opened = ort.InferenceSession(place, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in opened.get_inputs()]

    def run(inputs: Sequence[Any]) -> list[Any]:
        return list(opened.run(None, dict(zip(names, inputs, strict=True))))

    return run
