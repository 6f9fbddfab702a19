"""One forward pass, watched: which layers run, on what shapes, and which norm and sum follow each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph.inputs import Inputs, tensors_in
from secateur.graph.operations import OperationLog, Value

PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""What a refit knows how to fit."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
KNOWN = {each.forward for each in (*PRODUCERS, *BATCH_NORMS)}


def computes_more(module: nn.Module) -> bool:
    """Whether the forward of a layer or norm is another than torch's (standardised weights, padding of its own, an
    activation inside): it can be cut, but neither refitted nor folded, as what it does with its weights is not known.
    """
    ours = type(module).__module__.startswith("secateur.")
    return not ours and getattr(module.forward, "__func__", None) not in KNOWN


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer was called with, by position or by name."""
    return args[0] if args else next(iter(kwargs.values()))


@dataclass
class Calls:
    """What one forward pass showed: input and output shapes of each layer, norms and sums that follow."""

    order: list[str] = field(default_factory=list)
    shapes: defaultdict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    norms: dict[str, str] = field(default_factory=dict)
    shortcuts: dict[str, Value] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    """Linear layers with [N, tokens, features] outputs: a batch norm on them goes by token, not by feature."""


def watch(model: nn.Module, inputs: Inputs) -> Calls:
    """Run the model once and note what its layers see. Raises TraceError where it does not run."""
    calls = Calls()
    log = OperationLog(model, keep_sums=True)
    outputs: dict[str, Value | None] = {}
    norms: dict[str, list[tuple[Value | None, Value | None]]] = defaultdict(list)

    def hook(name: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        if isinstance(module, PRODUCERS):
            if name not in calls.shapes:
                calls.order.append(name)
            calls.shapes[name].append((tuple(x.shape), tuple(output.shape)))
            if computes_more(module):
                return
            outputs[name] = log.maker(output)
            if isinstance(module, nn.Linear) and output.dim() > 2:
                calls.tokens.add(name)
        elif not computes_more(module):
            norms[name].append((log.maker(x), log.maker(output)))

    with torch.no_grad(), _hooked(model, hook):
        try:
            with log:
                log.readers.update(map(log.maker, tensors_in(inputs.run(model))))
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} does not run on the example input of shape {inputs.shapes()}: "
                f"{type(error).__name__}: {error}"
            ) from error
    _follow(calls, log, outputs, norms)
    return calls


def _follow(
    calls: Calls,
    log: OperationLog,
    outputs: dict[str, Value | None],
    norms: dict[str, list[tuple[Value | None, Value | None]]],
) -> None:
    """Find the norm that alone reads a layer's output, and the sum that the branch then runs into."""
    for name, value in outputs.items():
        if value is None or len(calls.shapes[name]) != 1:
            continue
        for norm, uses in norms.items() if name not in calls.tokens else ():
            if len(uses) == 1 and uses[0][0] == value and log.readers[value] == 1:
                calls.norms[name], value = norm, uses[0][1]
                break
        for terms in log.sums:
            if value in terms and log.readers[value] == 1:
                other = terms[0] if terms[1] == value else terms[1]
                if other is not None:
                    calls.shortcuts[name] = other


@contextmanager
def _hooked(model: nn.Module, hook: Any) -> Iterator[None]:
    """Call `hook(name, module, input, output)` after every layer and batch norm."""
    watched = (*PRODUCERS, *BATCH_NORMS)
    handles = [
        module.register_forward_hook(
            lambda m, args, kwargs, out, name=name: hook(name, m, first_input(args, kwargs), out), with_kwargs=True
        )
        for name, module in model.named_modules()
        if isinstance(module, watched)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
