"""Layers that a pass does not reach: those of training alone, behind a flag, or of another method.

Where a training pass runs them, they are followed like all others. What else is left out may read any axis of its size
that its forward can see, and keeps that from being cut.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import torch
from torch import nn

from secateur.graph.axes import Axis
from secateur.graph.follow import Follower, Record, in_double, plain_kernels
from secateur.graph.inputs import Inputs
from secateur.graph.private import forgetful
from secateur.graph.scope import NOT_USERS, source_of


def watch_training(follower: Follower, inputs: Inputs) -> None:
    """Follow layers that run in training alone, as far as the forward goes with these inputs."""
    model, left_out = follower.model, [name for name in follower.names if name not in follower.touched]
    if all(sum(size > 1 for size in follower.names[name].shape) < 2 for name in left_out):
        return
    record, buffers = follower.record, {name: x.clone() for name, x in model.named_buffers()}
    follower.record = Record()
    try:
        with torch.no_grad(), torch.random.fork_rng([]), plain_kernels(in_double(model)), follower:
            outputs = inputs.run(model.train())
        follower.take(outputs)
    except Exception:  # it takes labels, or other inputs
        pass
    finally:
        follower.record = record
        forgetful(model)
        for name, x in model.named_buffers():
            x.copy_(buffers[name])


def leave_what_did_not_run(follower: Follower) -> None:
    """Fix what layers may hang on that no pass reached, or that nothing ran through."""
    starved = {name for name, fed in follower.fed.items() if not fed}
    for name, tensor in follower.names.items():
        if name in follower.touched and name not in starved:
            continue
        for axis in follower.axes[tensor]:
            axis.fix("the example does not reach it")
        if sum(size > 1 for size in tensor.shape) < 2:
            continue
        sizes, flattened = set(tensor.shape[:2]), name in starved
        for axis in _around(follower, name) if flattened else _in_sight(follower, name):
            if axis.size < 2 or axis.is_fixed:
                continue
            if axis.size in sizes or (flattened and any(size % axis.size == 0 for size in sizes)):
                axis.fix(f"{name} may hang on it, which the example does not reach")


def _held(follower: Follower) -> Iterator[Axis]:
    """The axes of all that was reached."""
    for name in follower.touched:
        yield from follower.axes[follower.names[name]]


def _around(follower: Follower, name: str) -> Iterator[Axis]:
    """The axes of what all forwards around a layer work with: of nothing, where it came from cannot be followed."""
    path = name.split(".")
    for depth in range(len(path)):
        yield from follower.seen.get(".".join(path[:depth]), ())


def _in_sight(follower: Follower, name: str) -> Iterator[Axis]:
    """The axes of what a layer can be given: what the nearest forward that ran works with.

    All there are, where another method than those that ran calls the layer too: it may work with other values.
    """
    path = name.split(".")
    runs = next(
        (depth for depth in range(len(path) - 1, 0, -1) if ".".join(path[:depth]) in follower.seen), 0
    )  # fmt: skip
    module = ".".join(path[:runs])
    if _called_elsewhere(follower.model.get_submodule(module), path[runs], follower.ran):
        yield from _held(follower)
    else:
        yield from follower.seen[module]


def _called_elsewhere(module: nn.Module, attribute: str, ran: set[str]) -> bool:
    """Whether a method that did not run calls what lies under an attribute, or goes through it."""
    called = re.compile(rf"\.{re.escape(attribute)}\s*(\[[^\]]+\]\s*)?\(|\bin\b[^:\n]*\.{re.escape(attribute)}\b")
    for kind in type(module).__mro__:
        for method in vars(kind).values():
            method = getattr(method, "__func__", getattr(method, "fget", method))
            code = getattr(inspect.unwrap(method) if callable(method) else method, "__code__", None)
            if code is None or code.co_filename.startswith(NOT_USERS) or code.co_name in ("__init__", "forward"):
                continue
            if code.co_qualname not in ran and called.search(source_of(code)):
                return True
    return False
