"""A pruned network states its own sizes where the forward of its class states the dense ones.

A module whose forward writes sizes down (`x.view(B, N, 3, 12, 64)`) becomes one of a class of its own, below its own
class: its forward is the same, but the arguments named are replaced as torch's functions are called. This is plain
Python while the forward runs, so that exporters, compilers and autograd see a network like any other.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.graph.sizes import NUMBERED, Path, Spot, argument, counted, is_number, kind_of, name_of

Stated = dict[str, list[tuple[Path, Any]]]
"""Where a call is, by its line and again by its number (`Spot.names`) -> what lies at which path of its arguments."""
Layers = tuple[Stated, ...]
"""What is stated by one pruning after another."""


UNSEEN = ("pad",)
"""Functions that torch.compile does not show while it traces: it leaves out forwards that call them."""


LOOP = "loop"
"""Among what is stated where some of it is stated in a loop."""


class Restating(TorchFunctionMode):
    """While it is there, the calls that are named take the arguments that are named."""

    def __init__(self, stated: Stated, module: nn.Module) -> None:
        super().__init__()
        self.stated, self.module = stated, module
        self.by_line = not torch.compiler.is_dynamo_compiling() and any("@" in name for name in stated)
        self.by_part = self.by_line and any(name.rpartition("#*")[1] and not name.endswith("#*") for name in stated)
        self.last: nn.Module | None = None
        """The module within that ran last."""
        self.counts: dict[str, int] = {}
        self.within = 0
        """Modules within, that are running: their calls are not this forward's own."""

    def __enter__(self) -> Restating:
        """Begin."""
        _running().append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _running().remove(self)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call it with what it is to be called with."""
        kwargs = kwargs or {}
        kind = kind_of(func, args, kwargs) if self.within == 0 else None
        if kind is None:
            return func(*args, **kwargs)
        names = self._names(kind)
        if getattr(_OF_THREAD, "relating", False):
            for name in self.stated.keys() & {name for some in names for name in some}:
                self.stated[name] = [_related(path, value, args, kwargs) for path, value in self.stated[name]]
        by_line, by_number = names
        looked_up = by_line if self.by_line else by_number
        changes = [change for name in looked_up for change in self.stated.get(name, ())]
        return called(func, kind, args, kwargs, changes) if changes else func(*args, **kwargs)

    def _names(self, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of the call that is about to be made: by its line, and by its number.

        torch.compile traces one path, whose calls it can number alone.
        """
        if torch.compiler.is_dynamo_compiling():
            self.counts[kind] = self.counts.get(kind, 0) + 1
            return (), (f"{kind}:{self.counts[kind]}",)
        where = counted(self.counts, "", kind)
        if self.by_part:
            where = replace(where, after=next((n for n, x in self.module.named_modules() if x is self.last), ""))
        return where.lines, where.names[1:]


@contextmanager
def relating() -> Iterator[None]:
    """For a while, numbers that are stated are told by how much what the forward works out is multiplied by."""
    _OF_THREAD.relating = True
    try:
        yield
    finally:
        _OF_THREAD.relating = False


def _related(path: Path, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Path, Any]:
    if not isinstance(value, float) or path[-1] == "scaled":
        return path, value
    given = argument(args, kwargs, path)
    known = isinstance(given, (int, float)) and given and math.isfinite(given) and math.isfinite(value)
    return ((*path, "scaled"), value / given) if known else (path, value)


_OF_THREAD = threading.local()


def _running() -> list[Restating]:
    """The forwards of this thread that state sizes of their own, outermost first."""
    if not hasattr(_OF_THREAD, "running"):
        _OF_THREAD.running = []
    return _OF_THREAD.running  # type: ignore[no-any-return]


def _begin(module: nn.Module, args: object) -> None:
    for each in _running():
        each.within += 1


def _end(module: nn.Module, args: object, output: object) -> None:
    for each in _running():
        each.within -= 1
        if each.within == 0:
            each.last = module


def _watch(module: nn.Module) -> None:
    """Have a module say when it runs: what it calls is not the forward's around it."""
    if not isinstance(module, torch.jit.ScriptModule) and _begin not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_begin)
        module.register_forward_hook(_end, always_call=True)


class Restated:
    """Beside a module's own class: its forward states `stated_sizes`.

    A network that was pruned several times states the sizes of the last pruning over those of the one before.
    """

    stated_sizes: Layers

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by the class that it was of: its own is made as it is needed, and has no place."""
        return _empty, (type(self).__bases__[1],), self.__dict__


OWN = "forward_set"
"""Where a forward lies that was set on the module itself, and not by its class."""
_CLASSES: dict[type, type] = {}


def _restated(kind: type) -> type:
    if kind not in _CLASSES:

        @functools.wraps(kind.forward)  # type: ignore[attr-defined]
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_dynamo_compiling() and _unseen(self.stated_sizes):
                return uncompiled(self, *args, **kwargs)
            return _run(self, self.stated_sizes, args, kwargs)

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def uncompiled(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _run(self, self.stated_sizes, args, kwargs)

        def _run(self: Any, layers: Layers, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            """The last layer outermost: it was found where the others had put sizes right."""
            if not layers:
                return self.forward_set(*args, **kwargs) if hasattr(self, OWN) else kind.forward(self, *args, **kwargs)  # type: ignore[attr-defined]
            with Restating(layers[-1], self):
                return _run(self, layers[:-1], args, kwargs)

        own = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
        _CLASSES[kind] = type(kind.__name__, (Restated, kind), own)
    return _CLASSES[kind]


def _unseen(layers: Layers) -> bool:
    """Whether torch.compile cannot tell the calls: it shows some not at all, and how many rounds a loop has, none."""
    return any(name.startswith((*UNSEEN, LOOP)) for stated in layers for name in stated)


def _empty(kind: type) -> nn.Module:
    """One of its kind, to be filled."""
    made: nn.Module = object.__new__(_restated(kind))
    return made


def restate(module: nn.Module, layers: Layers) -> None:
    """Make a module state these sizes; none make it one of its own class again."""
    if layers and not isinstance(module, Restated):
        module.__class__ = _restated(type(module))
        if "forward" in vars(module):
            vars(module)[OWN] = vars(module).pop("forward")
    if layers:
        module.stated_sizes = layers  # type: ignore[assignment]
        for inner in list(module.modules())[1:]:
            _watch(inner)
    elif isinstance(module, Restated):
        del module.stated_sizes
        module.__class__ = type(module).__mro__[2]
        if OWN in vars(module):
            vars(module)["forward"] = vars(module).pop(OWN)


def layers_of(model: nn.Module) -> dict[str, Layers]:
    """What a network's modules state, by their names."""
    return {name: module.stated_sizes for name, module in model.named_modules() if isinstance(module, Restated)}


def grouped(sizes: Iterable[tuple[Spot, Path, Any]]) -> dict[str, Stated]:
    """By module: where, the path, and the value."""
    found: defaultdict[str, Stated] = defaultdict(dict)
    for where, path, value in sizes:
        for name in where.names:
            found[where.module].setdefault(name, []).append((path, value))
        if where.in_loop:
            found[where.module].setdefault(LOOP, [])
    return dict(found)


PARTED = ("chunk", "tensor_split")
"""Functions that are told how many parts there are, or where they end."""


def called(func: Any, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], changes: list[tuple[Path, Any]]) -> Any:
    """What a function gives with other arguments at these paths; what cannot be told sizes is split."""
    for path, value in changes:
        if name_of(kind) in NUMBERED and not is_number(argument(args, kwargs, path[:1])):
            continue
        args, kwargs = replaced(args, kwargs, path, value)
    if name_of(kind) in PARTED and changes:
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
        sizes = args[1] if len(args) > 1 else next(value for name, value in kwargs.items() if name != "dim")
        return torch.split(args[0], list(sizes), dim)
    return func(*args, **kwargs)


def replaced(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], path: Path, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with another value at a path."""
    first, rest = path[0], path[1:]
    kwargs = dict(kwargs)
    if isinstance(first, str):
        kwargs[first] = _within(kwargs.get(first), rest, value)
        return args, kwargs
    changed = list(args)
    changed[first] = _within(changed[first], rest, value)
    return tuple(changed), kwargs


def _within(old: Any, path: Path, value: Any) -> Any:
    if not path:
        return _like(value, old)
    if path[0] == "slice":
        return _slice(old, value)
    if path[0] == "times":
        return old * value[0] // value[1]
    if path[0] == "scaled":
        return _like(old * value, old)
    if path[0] == "rest":
        return -1
    changed = list(old)
    changed[path[0]] = _within(changed[path[0]], path[1:], value)  # type: ignore[index]
    return tuple(changed) if isinstance(old, tuple) else changed


def _like(value: Any, old: Any) -> Any:
    """A whole number stays one: `torch.tensor` makes another tensor of it."""
    whole = isinstance(value, float) and type(old) is int and abs(value - round(value)) <= 1e-9 * abs(value)
    return round(value) if whole else value


def _slice(old: slice, value: Sequence[int]) -> slice:
    """A stretch of so many behind so many; open ends stay open."""
    start, length = value
    return slice(
        None if old.start is None else start, None if old.stop is None else start + length, old.step
    )  # fmt: skip
