"""Widths that a forward compares: `if x.shape[1] == y.shape[1]: y = y + x` may do something else once one is cut.

While a pass is followed, sizes of tensors, and the numbers of modules that may say one, are whole numbers that remember
what they are of, and tell of being compared. Units only ever go, so what is larger may come down to what it is compared
with, and never the other way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.graph.axes import Axis
from secateur.graph.extent import Extent
from secateur.graph.scope import NOT_USERS

SIZES = (Tensor.shape.__get__, Tensor.size)  # type: ignore[attr-defined]
Told = Callable[[], tuple[str, str]]
"""The module whose forward runs, and where that is in words."""


Source = tuple[str, str]
"""A number that a module has: the module, and what the number is called."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: what it is, and the axes and the modules' numbers that it follows from."""

    size: int
    axes: tuple[Axis, ...] = ()
    sources: tuple[Source, ...] = ()
    worked_out: bool = False

    def extents(self, keys: Callable[[Axis], Extent], said: Mapping[Source, Extent]) -> list[Extent]:
        """Of what it follows from."""
        return [*map(keys, self.axes), *(said[source] for source in self.sources if source in said)]


@dataclass(frozen=True)
class Comparison:
    """Of a width with a number, or with another width."""

    module: str
    where: str
    sides: tuple[Side, Side]
    users: bool
    """Whether it stands in code of the user's."""


class Width(int):
    """The size of an axis, or a whole number that follows from some."""

    side: Side
    widths: Widths

    @classmethod
    def of(cls, side: Side, widths: Widths) -> Width:
        """The number, of which `widths` is told."""
        found = cls(side.size)
        found.side, found.widths = side, widths
        return found

    __hash__ = int.__hash__

    def __reduce__(self) -> tuple[type, tuple[int]]:
        """Copied and pickled as the number that it is."""
        return int, (int(self),)


def _compares(name: str) -> Callable[[Width, Any], Any]:
    plain = getattr(int, name)

    def compare(self: Width, other: Any) -> Any:
        outcome = plain(self, other)
        if outcome is not NotImplemented and not isinstance(other, bool):
            self.widths.note(self, other)
        return outcome

    return compare


def _works_out(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def work_out(self: Width, *others: Any) -> Any:
        found = plain(self, *others)
        if type(found) is not int:
            return found
        sides = [self.side, *(other.side for other in others if isinstance(other, Width))]
        axes, sources = (tuple(x for side in sides for x in getattr(side, name)) for name in ("axes", "sources"))
        return Width.of(Side(found, axes, sources, True), self.widths)

    return work_out


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(Width, _name, _compares(_name))
for _name in ("add", "sub", "mul", "floordiv", "mod", "pow"):
    setattr(Width, f"__{_name}__", _works_out(f"__{_name}__"))
    setattr(Width, f"__r{_name}__", _works_out(f"__r{_name}__"))


class Widths(TorchFunctionMode):
    """Gives sizes that are `Width`s, and notes what becomes of them."""

    def __init__(self, axes_of: Callable[[Tensor], tuple[Axis, ...]], told: Told) -> None:
        super().__init__()
        self.axes_of, self.told = axes_of, told
        self.noted: list[Comparison] = []
        self.watching = False

    def __enter__(self) -> Widths:
        """Begin."""
        self.watching = True
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        """End: numbers that a forward keeps are numbers from now on."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.watching = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Sizes with their axes; all else as it is."""
        found = func(*args, **(kwargs or {}))
        if func not in SIZES or _called_from().startswith(NOT_USERS[1]):
            return found
        axes = self.axes_of(args[0])
        if isinstance(found, int):
            dim = args[1] if len(args) > 1 else (kwargs or {})["dim"]
            return Width.of(Side(found, (axes[dim],)), self)
        return torch.Size([Width.of(Side(size, (axis,)), self) for size, axis in zip(found, axes, strict=True)])

    def note(self, one: Width, other: Any) -> None:
        """That a width was compared."""
        if not self.watching or not isinstance(other, (int, float)):
            return
        file = _called_from()
        if file.startswith(NOT_USERS[1]):
            return
        sides = one.side, other.side if isinstance(other, Width) else Side(int(other))
        self.noted.append(Comparison(*self.told(), sides, not file.startswith(NOT_USERS[0])))


@contextmanager
def numbers_told(model: nn.Module, widths: Widths, says_size: Callable[[str], bool]) -> Iterator[None]:
    """For a while, the whole numbers of modules that may say how long something is tell of being compared, too."""
    held: list[tuple[dict[str, Any], str, int]] = []
    for module, own in ((name, vars(module)) for name, module in model.named_modules()):
        held += [(own, name, value) for name, value in own.items() if type(value) is int and says_size(name)]
        for name in (name for place, name, _ in held if place is own):
            own[name] = Width.of(Side(own[name], sources=((module, name),)), widths)
    try:
        yield
    finally:
        for own, name, value in held:
            if isinstance(own.get(name), Width):
                own[name] = value


def _called_from() -> str:
    """The file whose code asked for a size, or compared some."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename


def deciding(
    noted: Iterable[Comparison], keys: Callable[[Axis], Extent], said: Mapping[Source, Extent]
) -> dict[str, str]:
    """The groups whose width decides what a forward does, and may decide otherwise once it is another: the reasons.

    Where both sides are as large, any cut shows it: that is left to the proof. A width that is compared with 1 is taken
    to be looked at for being there at all.
    """
    reasons: dict[str, str] = {}
    for each in noted:
        one, other = each.sides
        extents = [side.extents(keys, said) for side in each.sides]
        if not each.users or one.size == other.size or extents[0] == extents[1]:
            continue
        larger = extents[0] if one.size > other.size else extents[1]
        may = [*extents[0], *extents[1]] if one.worked_out or other.worked_out else larger
        if min(one.size, other.size) > 1 or one.worked_out or other.worked_out:
            for key in (key for extent in may for key in extent.groups):
                reasons.setdefault(key, f"a comparison of its width decides what runs{each.where}")
    return reasons


def checked(noted: Iterable[Comparison]) -> Iterator[tuple[str, Axis]]:
    """Modules whose forwards compare a size with a number that it is, and the axis: they may have that number."""
    for each in noted:
        one, other = each.sides
        if one.size == other.size and len(one.axes) == 1 and not (other.axes or one.worked_out or other.worked_out):
            yield each.module, one.axes[0]
        elif one.size == other.size and len(other.axes) == 1 and not (one.axes or one.worked_out or other.worked_out):
            yield each.module, other.axes[0]
