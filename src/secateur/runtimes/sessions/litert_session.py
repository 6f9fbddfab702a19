"""LiteRT (TensorFlow Lite) with XNNPACK: runs .tflite files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ai_edge_litert.interpreter import Interpreter


def session(place: str, threads: int) -> Callable[[Sequence[Any]], list[Any]]:
    """The file ready to run, on so many threads."""
    interpreter = Interpreter(model_path=place, num_threads=threads)
    interpreter.allocate_tensors()
    takes = [each["index"] for each in interpreter.get_input_details()]
    gives = [each["index"] for each in interpreter.get_output_details()]

    def run(inputs: Sequence[Any]) -> list[Any]:
        for index, x in zip(takes, inputs, strict=True):
            interpreter.set_tensor(index, x)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in gives]

    return run
