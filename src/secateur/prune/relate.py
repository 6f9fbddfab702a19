"""Numbers that stay what they were, though a forward works them out from a width, and perhaps from other sizes too.

`1 / (channels * pixels)` is another number for other pictures. While a network is searched, such numbers are held; in a
finished one they are what its forward works out, times what the cut took from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from secateur.graph import Calls, CallWatcher, Inputs, Scope, Spot
from secateur.prune.restate import Stated, layers_of, relating


class _Numbers(CallWatcher):
    """Notes the arguments of calls, by the module and where in its forward they are."""

    def __init__(self) -> None:
        super().__init__(Calls())
        self.seen: dict[tuple[str, str], tuple[Any, ...]] = {}

    def call(self, where: Spot, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call it, and note what with."""
        for name in (*where.names, where.each.names[0]):
            self.seen.setdefault((where.module, name), args)
        return func(*args, **kwargs)


def relate(model: nn.Module, dense: nn.Module, inputs: Inputs) -> None:
    """Have a cut network's numbers follow its inputs, by one pass of it and of the dense one; both in eval mode."""
    if not any(_held(stated) for _, stated in _restated(model)):
        return
    numbers = _Numbers()
    with torch.no_grad(), torch.random.fork_rng([]):
        with Scope(dense, numbers.calls.begin, numbers.calls.end), numbers:
            inputs.run(dense)
        for name, stated in _restated(model):
            for line, place, path in _held(stated):
                given = numbers.seen.get((name, line), ())
                if len(path) == 1 and isinstance(path[0], int) and path[0] < len(given):
                    stated[line][place] = path, float(given[path[0]])
        with relating():
            inputs.run(model)


def _restated(model: nn.Module) -> Iterator[tuple[str, Stated]]:
    for name, layers in layers_of(model).items():
        for stated in layers:
            yield name, stated


def _held(stated: Stated) -> list[tuple[str, int, Any]]:
    """The numbers among what is stated: the call, which of its changes, and the path."""
    return [
        (line, place, path)
        for line, changes in stated.items()
        for place, (path, value) in enumerate(changes)
        if isinstance(value, float) and path[-1] != "scaled"
    ]
