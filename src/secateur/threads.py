"""How many of torch's threads a piece of work uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """For a while, use `count` threads within an operation.

    Long runs of small operations belong on one: there is little to share, and on a busy machine threads that
    wait for each other at every operation slow the work down twentyfold.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
