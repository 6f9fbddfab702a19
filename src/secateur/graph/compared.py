"""Widths that a forward compares: `if x.shape[1] == y.shape[1]: y = y + x` may do something else once one is cut.

While a pass is followed, sizes of tensors are whole numbers that remember the axes they are of, and tell of being
compared. Units only ever go, so what is larger may come down to what it is compared with, and never the other way.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from secateur.graph.axes import Axis
from secateur.graph.scope import NOT_USERS

SIZES = (Tensor.shape.__get__, Tensor.size)  # type: ignore[attr-defined]
Told = Callable[[], tuple[str, str]]
"""The module whose forward runs, and where that is in words."""


@dataclass(frozen=True)
class Comparison:
    """Of a width with a number, or with another width."""

    module: str
    where: str
    sizes: tuple[int, int]
    axes: tuple[tuple[Axis, ...], tuple[Axis, ...]]
    """Of either side: the axes whose sizes it is worked out from."""
    worked_out: bool
    """Whether some side is no size, but a number that follows from some."""
    users: bool
    """Whether it stands in code of the user's."""


class Width(int):
    """The size of an axis, or a whole number that follows from some."""

    axes: tuple[Axis, ...]
    worked_out: bool
    widths: Widths

    @classmethod
    def of(cls, size: int, axes: tuple[Axis, ...], worked_out: bool, widths: Widths) -> Width:
        """A number of these axes, of which `widths` is told."""
        found = cls(size)
        found.axes, found.worked_out, found.widths = axes, worked_out, widths
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
        axes = (*self.axes, *(axis for other in others for axis in getattr(other, "axes", ())))
        return Width.of(found, axes, True, self.widths)

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
            return Width.of(found, (axes[dim],), False, self)
        return torch.Size([Width.of(size, (axis,), False, self) for size, axis in zip(found, axes, strict=True)])

    def note(self, one: Width, other: Any) -> None:
        """That a width was compared."""
        if not self.watching or not isinstance(other, (int, float)):
            return
        file = _called_from()
        if file.startswith(NOT_USERS[1]):
            return
        sides = one.axes, getattr(other, "axes", ())
        worked_out = one.worked_out or getattr(other, "worked_out", False)
        sizes = int(one), int(other)
        self.noted.append(Comparison(*self.told(), sizes, sides, worked_out, not file.startswith(NOT_USERS[0])))


def _called_from() -> str:
    """The file whose code asked for a size, or compared some."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename


def fix_compared(noted: list[Comparison]) -> None:
    """Keep axes whose size decides what a forward does, wherever another size may decide otherwise.

    Where both sides are as large, any cut shows it: that is left to the proof.
    """
    for each in noted:
        leaves = [[leaf for axis in side for leaf in axis.leaves()] for side in each.axes]
        larger, smaller = max(each.sizes), min(each.sizes)
        if not each.users or larger == smaller or leaves[0] == leaves[1]:
            continue
        sides = leaves if each.worked_out else [leaves[each.sizes.index(larger)]] if smaller >= 1 else []
        for leaf in (leaf for side in sides for leaf in side):
            leaf.fix(f"a comparison of its width decides what runs{each.where}")


def checked(noted: list[Comparison]) -> Iterator[tuple[str, Axis]]:
    """Modules whose forwards compare a size with a number that it is, and the axis: they may have that number."""
    for each in noted:
        if operator.eq(*each.sizes) and not each.axes[1] and not each.worked_out:
            yield each.module, each.axes[0][0]
