"""What sizes a forward states while it is followed, and which axes they are the sizes of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.graph.axes import Axis, piece, product
from secateur.graph.sizes import FUNCTIONS, NUMBERED, Calls, CallWatcher, Path, Spot, argument, is_number, sliced


@dataclass
class Statement:
    """The same while a pass is followed: of axes."""

    where: Spot
    path: Path
    axes: tuple[Axis, ...] = ()
    constant: float | None = None
    several: bool = False


Told = tuple[Path, tuple[Axis, ...], bool]


class Recorder(CallWatcher):
    """Notes what sizes are stated while a pass is followed; `axes_of` tells the axes of a tensor."""

    def __init__(self, axes_of: Callable[[Tensor], tuple[Axis, ...]], calls: Calls) -> None:
        super().__init__(calls)
        self.axes_of = axes_of
        self.statements: list[Statement] = []
        self.calls_made: set[Spot] = set()

    def call(self, where: Spot, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call it, and note its sizes."""
        name = FUNCTIONS[func]
        if name not in NUMBERED or any(map(is_number, args[:2])):
            self.calls_made.add(where)
        taken = [self.axes_of(x) if isinstance(x, Tensor) else () for x in args[:1]]
        result = func(*args, **kwargs)
        with suppress(IndexError, TypeError, KeyError, ValueError, AttributeError):
            for path, axes, several in _told(name, args, kwargs, result, self.axes_of, taken[0] if taken else ()):
                self.statements.append(Statement(where, path, axes, several=several))
            for path, number in _numbers(name, args, kwargs):
                self.statements.append(Statement(where, path, constant=number))
        return result


def _told(
    name: str, args: Any, kwargs: Any, result: Any, axes_of: Callable[[Tensor], tuple[Axis, ...]], taken: Any
) -> Iterator[Told]:
    """Paths of sizes among the arguments of a call, and the axes that they are the sizes of."""
    match name:
        case "view" | "reshape" | "expand" | "new" | "made":
            yield from _each(args, kwargs, 0 if name == "made" else 1, ("size", "shape"), axes_of(result))
        case "split" | "chunk" | "tensor_split":
            yield from _parts(args, kwargs, [axes_of(part) for part in result])
        case "getitem" | "setitem":
            yield from _slices(args[1], taken)
        case "repeat" | "repeat_interleave":
            yield from _repeated(name, args, kwargs, axes_of(result), taken)
        case _:
            yield from _named(name, args, kwargs, axes_of(result), taken)


def _named(name: str, args: Any, kwargs: Any, made: Sequence[Axis], taken: Sequence[Axis]) -> Iterator[Told]:
    """Of functions that are told a dimension, or one size."""
    match name:
        case "unflatten":
            dim = (args[1] if len(args) > 1 else kwargs["dim"]) % len(taken)
            where = _where(args, 2, "sizes")
            for number, size in enumerate(argument(args, kwargs, where)):
                if size != -1:
                    yield (*where, number), (made[dim + number],), False
        case "narrow":
            dim, start = args[1] % len(taken), args[2]
            yield (2,), (piece(taken[dim], 0, start),), False
            yield (3,), (made[dim],), False
        case "pad":
            yield from _pads(args, kwargs, taken, made)
        case "layer_norm":
            where = _where(args, 1, "normalized_shape")
            yield where, tuple(made[-len(argument(args, kwargs, where)) :]), True
        case "conv":
            where = _where(args, 6, "groups")
            if (groups := argument(args, kwargs, where)) is not None and groups > 1:
                yield where, (_leading(made[-1 - _moves(args)], groups),), False
        case "group_norm":
            where = _where(args, 1, "num_groups")
            yield where, (_leading(taken[1], argument(args, kwargs, where)),), False


def _where(args: Any, place: int, name: str) -> Path:
    """By position or by name."""
    return (place,) if len(args) > place else (name,)


def _parts(args: Any, kwargs: Any, parts: Sequence[Sequence[Axis]]) -> Iterator[Told]:
    """Of what is taken apart: all sizes together."""
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    where: Path = (1,) if len(args) > 1 else (next(name for name in kwargs if name != "dim"),)
    yield where, tuple(part[dim] for part in parts), True


def _repeated(name: str, args: Any, kwargs: Any, made: Sequence[Axis], taken: Sequence[Axis]) -> Iterator[Told]:
    """How many times: the factors that the result has more."""
    if name == "repeat":
        new = len(made) - len(taken)
        times = [axis.factors()[: -len(taken[dim - new].factors()) or None] if dim >= new else axis.factors()
                 for dim, axis in enumerate(made)]  # fmt: skip
        yield from _each(args, kwargs, 1, ("repeats",), [product(factors) for factors in times])
        return
    dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
    where = _where(args, 1, "repeats")
    if dim is not None and isinstance(argument(args, kwargs, where), int):
        yield where, (product(made[dim].factors()[len(taken[dim].factors()) :]),), False


def _each(args: Any, kwargs: Any, first: int, names: Sequence[str], axes: Sequence[Axis]) -> Iterator[Told]:
    """Sizes given one by one, or as one tuple, by position or by name."""
    where: Path = next(((name,) for name in names if name in kwargs), (first,))
    sizes = argument(args, kwargs, where)
    if isinstance(sizes, (tuple, list)):
        for number, axis in enumerate(axes):
            if sizes[number] != -1:
                yield (*where, number), (axis,), False
    elif isinstance(sizes, int):
        for number, axis in enumerate(axes):
            if args[first + number] != -1:
                yield (first + number,), (axis,), False


def _slices(index: Any, taken: Sequence[Axis]) -> Iterator[Told]:
    """Where stretches begin and end."""
    for path, dim, each in sliced(index, len(taken)):
        start, stop, _ = each.indices(taken[dim].size)
        yield (*path, "slice"), (piece(taken[dim], 0, start), piece(taken[dim], start, stop)), True


def _pads(args: Any, kwargs: Any, taken: Sequence[Axis], made: Sequence[Axis]) -> Iterator[Told]:
    """Before and behind, from the last dimension on."""
    where = _where(args, 1, "pad")
    pads = argument(args, kwargs, where)
    for number in range(0, len(pads), 2):
        dim = len(taken) - 1 - number // 2
        before, after = pads[number : number + 2]
        if before > 0:
            yield (*where, number), (piece(made[dim], 0, before),), False
        if after > 0:
            yield (*where, number + 1), (piece(made[dim], made[dim].size - after, made[dim].size),), False


def _moves(args: Any) -> int:
    """The dimensions that a convolution moves along."""
    dims: int = args[1].dim() - 2
    return dims


def _leading(axis: Axis, count: int) -> Axis:
    """The first factors of an axis, which have so many indices together."""
    found: list[Axis] = []
    for factor in axis.factors():
        if count == 1:
            break
        found.append(factor)
        count //= factor.size
    return product(found)


class Numbers(CallWatcher):
    """Notes the numbers that calls are given: by module, the call as `Spot.names` tells it, and path."""

    def __init__(self) -> None:
        super().__init__(Calls())
        self.seen: dict[tuple[str, str, Path], float] = {}

    def call(self, where: Spot, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call it, and note them; of several calls of one name, the first's."""
        for path, number in _numbers(FUNCTIONS[func], args, kwargs):
            for name in (*where.names, *where.lines):
                self.seen.setdefault((where.module, name, path), number)
        return func(*args, **kwargs)


def _numbers(name: str, args: Any, kwargs: Any) -> Iterator[tuple[Path, float]]:
    """Numbers that must stay what they are, though they may be worked out from a size; whole tensors tell places."""
    if name in NUMBERED and any(isinstance(x, Tensor) and not x.is_floating_point() | x.is_complex() for x in args[:2]):
        return
    if name in NUMBERED:
        for place, value in enumerate(args[:2]):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield (place,), float(value)
    elif name == "attention" and not kwargs.get("scale") and len(args) < 7:
        yield ("scale",), float(args[0].shape[-1]) ** -0.5
