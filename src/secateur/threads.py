"""How many threads a piece of work uses within an operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """For a while, use `count` of torch's threads.

    Long runs of small operations belong on one: there is little to share, and on a busy machine threads that
    wait for each other at every operation slow the work down twentyfold.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """For a while, use one thread of torch's, and one of numpy's and scipy's linear algebra.

    What a searcher computes is small, and goes on beside evaluations that keep every core busy.
    """
    with torch_threads(1), _linear_algebra().limit(limits=1, user_api="blas"):
        yield


@cache
def _linear_algebra() -> ThreadpoolController:
    """The libraries loaded by now; to look for them takes longer than to set them."""
    return ThreadpoolController()
