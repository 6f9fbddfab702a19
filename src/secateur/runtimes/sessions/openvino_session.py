"""OpenVINO on the CPU: runs .onnx files and its own .xml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import openvino as ov


def session(place: str, threads: int) -> Callable[[Sequence[Any]], list[Any]]:
    """The file ready to run in 32 bits, on so many threads."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = ov.Core().compile_model(place, "CPU", settings).create_infer_request()

    def run(inputs: Sequence[Any]) -> list[Any]:
        answers = request.infer(list(inputs), share_inputs=True)
        return [answer.copy() for answer in answers.values()]

    return run
