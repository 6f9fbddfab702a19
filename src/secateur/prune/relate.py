"""Numbers that stay what they were, though a forward works them out from a width, and perhaps from other sizes too.

`1 / (channels * pixels)` is another number for other pictures. While a network is searched, such numbers are held; in a
finished one they are what its forward works out, times what the cut took from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from secateur.graph import Inputs, Numbers, Scope
from secateur.prune.restate import Stated, layers_of, relating


def relate(model: nn.Module, dense: nn.Module, inputs: Inputs) -> None:
    """Have a cut network's numbers follow its inputs, by one pass of it and of the dense one; both in eval mode."""
    if not any(_held(stated) for _, stated in _restated(model)):
        return
    numbers = Numbers()
    with torch.no_grad(), torch.random.fork_rng([]):
        with Scope(dense, numbers.calls.begin, numbers.calls.end), numbers:
            inputs.run(dense)
        for name, stated in _restated(model):
            for line, place, path in _held(stated):
                if path[0] != "scale" and (name, line, path) in numbers.seen:
                    stated[line][place] = path, numbers.seen[name, line, path]
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
