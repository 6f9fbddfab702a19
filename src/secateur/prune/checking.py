"""The sizes that a cut network's forwards state, beside those that there are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from secateur.graph import (
    Calls,
    CallWatcher,
    Inputs,
    Kept,
    ModelGraph,
    Numbers,
    Path,
    Scope,
    Spot,
    StatedSize,
    argument,
    name_of,
    sliced,
)
from secateur.graph.sizes import NUMBERED, is_number
from secateur.prune.cut import lossy, set_sizes
from secateur.prune.restate import called, layers_of


def restate_where_needed(model: nn.Module, dense: nn.Module, graph: ModelGraph, kept: Kept, inputs: Inputs) -> None:
    """Have those modules alone state sizes whose forwards state wrong ones in this cut network, or some that the inputs
    do not reach; others are of their own classes again. All that state any, where it does not run on the inputs; they
    are in eval mode."""
    modules, counts = dict(model.named_modules()), {key: len(units) for key, units in lossy(graph, kept).items()}
    before = layers_of(dense)
    set_sizes(modules, graph.sizes, {}, before)
    checking, sizes = Checking(graph.sizes, counts), graph.sizes
    scope = Scope(model, checking.calls.begin, checking.calls.end)
    with suppress(Exception), torch.no_grad(), torch.random.fork_rng([]), scope, checking:
        inputs.run(model)
        unmet = [each for each in sizes if each.where not in checking.met]
        wrong = {each.where.module for each in (*checking.missed, *unmet)}
        sizes = tuple(each for each in sizes if each.where.module in wrong)
    set_sizes(modules, sizes, counts, before)


class Checking(CallWatcher):
    """Compares what is stated in a cut network with what has to be, and puts it right.

    `numbers` are those that the dense network is given where its answers are compared: of boxes, other ones are found.
    """

    def __init__(self, sizes: Sequence[StatedSize], counts: dict[str, int], numbers: Numbers | None = None) -> None:
        super().__init__(Calls())
        self._numbers = {} if numbers is None else numbers.seen
        self.missed = set[StatedSize]()
        self.met = set[Spot]()
        """Where sizes are stated that was reached."""
        self._counts = counts
        self._sizes: dict[Spot, list[StatedSize]] = {}
        for each in sizes:
            self._sizes.setdefault(each.where, []).append(each)

    def call(self, where: Spot, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call it with what it has to be called with."""
        kind = where.kind
        spots = dict.fromkeys((where, where.each, where.behind))
        stated = [self._now(where, size) for spot in spots for size in self._sizes.get(spot, ())]
        self.met.update(each.where for each in stated)
        wrong = [each for each in stated if not self._right(each, args, kwargs)]
        sure = [each for each in wrong if each.constant is not None or any(extent.groups for extent in each.extents)]
        rest = [each for each in wrong if each not in sure]
        if rest:  # what is not cut may be another number by rights: a detector finds other boxes
            with suppress(RuntimeError):
                return self._called(func, kind, args, kwargs, sure)
        if len(rest) == 1 and -1 not in _beside(args, kwargs, rest[0].path):
            return self._called(func, kind, args, kwargs, [*sure, rest[0].left_open])
        return self._called(func, kind, args, kwargs, sure)

    def _now(self, where: Spot, size: StatedSize) -> StatedSize:
        """The number that the dense network is given in this very call."""
        number = self._numbers.get((where.module, where.names[0], size.path))
        return size if size.constant is None or number is None else replace(size, constant=number)

    def _called(
        self, func: Any, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], wrong: Sequence[StatedSize]
    ) -> Any:
        """What comes of other sizes, which are kept in mind."""
        result = called(func, kind, args, kwargs, [(each.path, each.value(self._counts)) for each in wrong])
        for each in wrong:
            literal = each.path[-1] not in FORMS and argument(args, kwargs, _plain(each.path)) == each.value({})
            self.missed.add(each.relative if literal else each)
        return result

    def _right(self, size: StatedSize, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the call is given the size that there is."""
        if size.path[-1] == "rest":
            return False
        if size.path[-1] == "times":  # as it is written
            left, all_ = size.value(self._counts)  # type: ignore[misc]
            return bool(left == all_)
        given = argument(args, kwargs, _plain(size.path))
        if name_of(size.where.kind) in NUMBERED and not is_number(given):
            return True  # another call on the line
        if isinstance(given, slice):
            dim = next(dim for path, dim, _ in sliced(args[1], args[0].dim()) if path == _plain(size.path))
            given = slice(*given.indices(args[0].shape[dim]))
        return _stated(size, given, size.value(self._counts))


def _beside(args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> Sequence[Any]:
    """The sizes that one is given among."""
    among: Sequence[Any] = argument(args, kwargs, path[:-1]) if len(path) > 1 else args[1:]
    return among


FORMS = ("slice", "times", "rest")
"""How a value is meant, behind the path of what it is meant for."""


def _plain(path: Path) -> Path:
    """Where the whole argument lies."""
    return path[:-1] if path[-1] in FORMS else path


def _stated(size: StatedSize, given: object, wanted: object) -> bool:
    """Whether what is given comes to what is wanted."""
    if size.constant is not None:
        near = given is not None and abs(float(given) - size.constant) <= 1e-9 * abs(size.constant)  # type: ignore[arg-type]
        return near or given == size.constant
    if isinstance(given, slice):
        assert isinstance(wanted, list)
        start, length = wanted
        return (given.start, given.stop) == (start, start + length)
    if name_of(size.where.kind) == "chunk" and isinstance(given, int):
        assert isinstance(wanted, list)
        each = -(-sum(wanted) // given)
        return all(x == each for x in wanted[:-1]) and len(wanted) == given
    if name_of(size.where.kind) == "tensor_split":
        assert isinstance(wanted, list)
        even = isinstance(given, int) and len(wanted) == given and wanted == sorted(wanted, reverse=True)
        return wanted[0] - wanted[-1] <= 1 if even else given == type(given)(accumulate(wanted[:-1]))  # type: ignore[call-arg]
    if name_of(size.where.kind) == "split" and isinstance(given, int):
        assert isinstance(wanted, list)
        return all(x == given for x in wanted[:-1]) and wanted[-1] <= given
    if size.several and isinstance(given, (tuple, list)):
        return list(given) == wanted
    return given == wanted
