"""One forward pass, watched: which layers run, on what shapes, and which norm and sum follow each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph.inputs import Inputs, tensors_in
from secateur.graph.operations import OperationLog, Value, WeightPlace

PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""What a batch norm can be folded into."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
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
    norms: dict[WeightPlace, str] = field(default_factory=dict)
    """By weight, the batch norm that alone reads what is made by it."""
    shortcuts: dict[WeightPlace, Value] = field(default_factory=dict)
    """By weight, what is added to that, or to the norm of it."""


def watch(model: nn.Module, inputs: Inputs) -> Calls:
    """Run the model once and note what its layers see. Raises TraceError where it does not run."""
    calls = Calls()
    log = OperationLog(model, keep_sums=True)
    norms: dict[str, list[Norm]] = defaultdict(list)

    def hook(name: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        if isinstance(module, PRODUCERS):
            if name not in calls.shapes:
                calls.order.append(name)
            calls.shapes[name].append((tuple(x.shape), tuple(output.shape)))
        elif not computes_more(module):
            norms[name].append(Norm(log.maker(x), log.maker(output), x.shape))

    with torch.no_grad(), _hooked(model, hook):
        try:
            with log:
                log.readers.update(map(log.maker, tensors_in(inputs.run(model))))
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} does not run on the example input of shape {inputs.shapes()}: "
                f"{type(error).__name__}: {error}"
            ) from error
    _follow(calls, log, norms)
    return calls


class Norm(NamedTuple):
    """One call of a batch norm: the values that it reads and gives, and their shape."""

    reads: Value | None
    gives: Value | None
    shape: torch.Size


def _follow(calls: Calls, log: OperationLog, norms: dict[str, list[Norm]]) -> None:
    """Find the norm that alone reads what a weight makes, and the sum that the branch then runs into."""
    often = Counter(weight for weight, _, _ in log.made)
    for weight, value, shape in log.made:
        if value is None or often[weight] != 1:
            continue
        if log.readers[value] == 1:
            value = log.biased.get(value, value)
        for norm, uses in norms.items():
            if len(uses) == 1 and uses[0].reads == value and uses[0].shape == shape and log.readers[value] == 1:
                calls.norms[weight], value = norm, uses[0].gives
                break
        for terms in log.sums:
            if value in terms and log.readers[value] == 1:
                other = terms[0] if terms[1] == value else terms[1]
                if other is not None:
                    calls.shortcuts[weight] = other


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
