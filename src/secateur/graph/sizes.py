"""Sizes that a forward writes down itself: `x.view(B, N, 3, self.num_heads, 64)` asks for the old ones.

A pruned network has to state others. Each call that takes sizes is found by the module in whose forward it is, the
function, the line of the forward (`spot`) and which call of it there it is; what is stated there is an extent. Paths
that a forward takes only sometimes (tables that it makes at its first call) change no other line's calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from secateur.graph.extent import Extent
from secateur.graph.scope import placed

Path = tuple[int | str, ...]
"""Where an argument lies: a position or a name, and a position in it where it is a tuple."""

FUNCTIONS: dict[Any, str] = {
    Tensor.view: "view",
    Tensor.reshape: "reshape",
    torch.reshape: "reshape",
    Tensor.expand: "expand",
    torch.broadcast_to: "expand",
    Tensor.broadcast_to: "expand",
    Tensor.repeat: "repeat",
    Tensor.unflatten: "unflatten",
    torch.unflatten: "unflatten",
    Tensor.split: "split",
    torch.split: "split",
    Tensor.split_with_sizes: "split",
    Tensor.chunk: "chunk",
    torch.chunk: "chunk",
    torch.tensor_split: "tensor_split",
    Tensor.tensor_split: "tensor_split",
    Tensor.narrow: "narrow",
    torch.narrow: "narrow",
    Tensor.__getitem__: "getitem",
    Tensor.__setitem__: "setitem",
    F.pad: "pad",
    torch.zeros: "made",
    torch.ones: "made",
    torch.full: "made",
    torch.empty: "made",
    Tensor.new_zeros: "new",
    Tensor.new_ones: "new",
    Tensor.new_full: "new",
    Tensor.new_empty: "new",
    Tensor.repeat_interleave: "repeat_interleave",
    torch.repeat_interleave: "repeat_interleave",
    F.layer_norm: "layer_norm",
    F.rms_norm: "layer_norm",
    torch.rms_norm: "layer_norm",
    F.group_norm: "group_norm",
    F.scaled_dot_product_attention: "attention",
    torch.conv1d: "conv",
    torch.conv2d: "conv",
    torch.conv3d: "conv",
    torch.conv_transpose1d: "conv",
    torch.conv_transpose2d: "conv",
    torch.conv_transpose3d: "conv",
    Tensor.mul: "mul",
    torch.mul: "mul",
    Tensor.__mul__: "mul",
    Tensor.__rmul__: "mul",
    Tensor.mul_: "mul",
    Tensor.div: "div",
    torch.div: "div",
    Tensor.__truediv__: "div",
    Tensor.div_: "div",
    Tensor.__imul__: "mul",
    Tensor.__itruediv__: "div",
    Tensor.add: "add",
    torch.add: "add",
    Tensor.__add__: "add",
    Tensor.__radd__: "add",
    Tensor.__iadd__: "add",
    Tensor.add_: "add",
    Tensor.sub: "sub",
    torch.sub: "sub",
    Tensor.__sub__: "sub",
    Tensor.__rsub__: "sub",
    Tensor.__isub__: "sub",
    Tensor.sub_: "sub",
    torch.tensor: "tensor",
}
"""What may be called with a size, or with a number that follows from one."""


@dataclass(frozen=True)
class Attribute:
    """A whole number of a module, or a tuple of them, that says how long something is."""

    module: str
    name: str
    extents: tuple[Extent, ...]
    several: bool = False
    """Whether it is a tuple."""
    guessed: bool = False
    """Whether it was found by its name and value, not by what torch's own modules call it."""

    def value(self, counts: Mapping[str, int]) -> int | tuple[int, ...]:
        """What it has to be with these units left."""
        sizes = tuple(int(extent.size(counts)) for extent in self.extents)
        return sizes if self.several else sizes[0]


@dataclass(frozen=True)
class Spot:
    """One call of a function in a module's forward."""

    module: str
    kind: str
    """The function, as `kind_of` tells it."""
    line: str
    """Where in the forward, as `spot` tells it, "#", and which call there it is; "#*" for all of them, "#*NAME" for all
    that come after a part of this name."""
    numbers: tuple[int, ...] = field(compare=False)
    """Which calls of this kind in the forward these are, from 1: for compilers, which do not know lines."""

    instructions: tuple[int, ...] = field(default=(), compare=False)
    """Of the code, for each of those."""
    after: str = field(default="", compare=False)
    """The part of the module that ran last before, where it has a name within that."""

    @property
    def in_loop(self) -> bool:
        """Whether these are rounds of a loop, of which other inputs may bring more; comprehensions go over parts."""
        if "comp>" in self.line or "genexpr>" in self.line:
            return False
        return len(set(self.instructions)) < len(self.instructions)

    @property
    def names(self) -> tuple[str, ...]:
        """By line, and by numbers."""
        return f"{self.kind}@{self.line}", *(f"{self.kind}:{number}" for number in self.numbers)

    @property
    def each(self) -> Spot:
        """All calls of its place."""
        return replace(self, line=self.line.rpartition("#")[0] + "#*")

    @property
    def behind(self) -> Spot:
        """All calls of its place after the same part: of the experts that a loop goes over, some are skipped."""
        return replace(self, line=self.line.rpartition("#")[0] + f"#*{self.after}")

    @property
    def lines(self) -> tuple[str, ...]:
        """Its names by line: alone, and together with others."""
        return tuple(dict.fromkeys(each.names[0] for each in (self, self.each, self.behind)))


@dataclass(frozen=True)
class StatedSize:
    """One argument of one call: a size, several, or a number that has to stay as it was."""

    where: Spot
    path: Path
    extents: tuple[Extent, ...] = ()
    constant: float | None = None
    several: bool = False

    def value(self, counts: Mapping[str, int]) -> int | float | list[int]:
        """What has to be stated with these units left."""
        if self.constant is not None:
            return self.constant
        sizes = [int(extent.size(counts)) for extent in self.extents]
        if self.path[-1] == "rest":
            return -1
        if self.path[-1] == "times":
            return [sizes[0], self.extents[0].length]
        return sizes if self.several else sizes[0]

    @property
    def left_open(self) -> StatedSize:
        """The same as what is left when the others are stated: it is not cut, and may be another for other inputs."""
        return replace(self, path=(*self.path, "rest"))

    @property
    def relative(self) -> StatedSize:
        """The same where it is a multiple of what other inputs bring (`batch * 12`): told by which part of it is left.

        It lies at the path and "times"; its value is two numbers, of which that part is the quotient.
        """
        mixed = not self.several and len(self.extents) == 1 and self.extents[0].kind == "product"
        if not mixed or all(part.kind != "whole" for part in self.extents[0].parts):
            return self
        return replace(self, path=(*self.path, "times"))


def kind_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The function's name and how many sizes it is given: calls are numbered among their like. None if none are."""
    name = FUNCTIONS.get(func)
    if name is None:
        return None
    given = args[1] if len(args) > 1 else None
    return f"{name}{len(given) if isinstance(given, (tuple, list)) else len(args) + len(kwargs)}"


NUMBERED = ("mul", "div", "add", "sub", "tensor")
"""Functions that numbers are given to."""


def is_number(value: object) -> bool:
    """A plain one; torch.jit.trace makes tensors of those that are worked out from sizes."""
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and not value.dim() and torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def name_of(kind: str) -> str:
    """Without the number."""
    return kind.rstrip("0123456789")


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], path: Path) -> Any:
    """What lies at a path; None where nothing does."""
    found: Any = kwargs.get(path[0]) if isinstance(path[0], str) else args[path[0]] if path[0] < len(args) else None
    for step in path[1:]:
        found = found[step]
    return found


class Calls:
    """Names the calls of functions within every forward that is running."""

    def __init__(self) -> None:
        self._running: list[_Forward] = [_Forward("")]

    def begin(self, module: str, given: object = None) -> None:
        """A forward begins."""
        self._running.append(_Forward(module))

    def end(self, output: object = None) -> None:
        """The innermost ends."""
        ended, around = self._running.pop().module, self._running[-1]
        within = f"{around.module}." if around.module else ""
        around.after = ended.removeprefix(within) if ended.startswith(within) else ""

    def next(self, kind: str) -> Spot:
        """Where the call is that is about to be made."""
        forward = self._running[-1]
        return replace(counted(forward.counts, forward.module, kind), after=forward.after)


@dataclass
class _Forward:
    """One that is running."""

    module: str
    counts: dict[str, int] = field(default_factory=dict)
    after: str = ""


class CallWatcher(TorchFunctionMode):
    """Watches the calls that may state sizes, each with where it is; what else there is runs as it is."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand on what may state one."""
        kwargs = kwargs or {}
        kind = kind_of(func, args, kwargs)
        if kind is None:
            return func(*args, **kwargs)
        return self.call(self.calls.next(kind), func, args, kwargs)

    def call(self, where: Spot, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One of them."""
        raise NotImplementedError


def counted(counts: dict[str, int], module: str, kind: str) -> Spot:
    """Where the next call of this kind is, by the calls before it in the forward."""
    line, instruction = placed()
    counts[kind] = counts.get(kind, 0) + 1
    place = f"{kind}@{line}"
    counts[place] = counts.get(place, 0) + 1
    return Spot(module, kind, f"{line}#{counts[place]}", (counts[kind],), (instruction,))


def sliced(index: Any, rank: int) -> Iterator[tuple[Path, int, slice]]:
    """The slices of an index that leave something out: where they lie, and the dimensions they cut."""
    several = isinstance(index, tuple)
    dim = 0
    for number, each in enumerate(index if several else (index,)):
        if each is Ellipsis:
            rest = [x for x in (index if several else (index,))[number + 1 :] if x is not None]
            dim = rank - len(rest)
            continue
        if each is None:
            continue
        if isinstance(each, slice) and each.step in (None, 1) and (each.start or each.stop is not None):
            yield ((1, number) if several else (1,)), dim, each
        dim += each.dim() if isinstance(each, Tensor) and each.dtype == torch.bool else 1
