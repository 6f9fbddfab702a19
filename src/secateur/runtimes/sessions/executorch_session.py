"""ExecuTorch with XNNPACK: runs .pte files. Its Python interface takes torch tensors, so here alone torch is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from executorch.extension.pybindings import portable_lib as lib
from executorch.runtime import Runtime


def session(place: str, threads: int) -> Callable[[Sequence[Any]], list[Any]]:
    """The file ready to run. The number of threads is the whole process's."""
    lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(place).load_method("forward")

    def run(inputs: Sequence[Any]) -> list[Any]:
        return [answer.numpy() for answer in method.execute([torch.from_numpy(x) for x in inputs])]

    return run
