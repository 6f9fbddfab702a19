"""A layer of a residual branch that is left out: it gives its bias alone, whatever it reads.

What it gave on average is in that bias (`refit`), so the block becomes its shortcut and a constant. Nothing that the
layer reads is needed any more: a runtime leaves out all that leads to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    _Layer = nn.Conv2d
else:
    _Layer = nn.Module


class Bypassed(_Layer):
    """Beside the class of a linear layer or a convolution. Its weight, of a single unit, is kept but not used."""

    def forward(self, x: Tensor) -> Tensor:
        """x as the layer takes it, [..., in] or [N, C, *space]; the output as it would be, all positions alike."""
        kernel = len(self.weight.shape) - 2
        out = self.weight.shape[0]
        size = (*x.shape[:-1], out) if not kernel else (*x.shape[: -kernel - 1], out, *_space(self, x, kernel))
        given = x.new_zeros(size)
        return given if self.bias is None else given + self.bias.to(given.dtype).view(-1, *[1] * kernel)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by the class that it was of: its own is made as it is needed, and has no place."""
        return _empty, (type(self).__bases__[1],), self.__dict__


def _space(layer: Any, x: Tensor, kernel: int) -> tuple[Any, ...]:
    """How large the output of a convolution is."""
    sizes = x.shape[-kernel:]
    if layer.padding == "same":
        return tuple(sizes)
    padding = (0,) * kernel if layer.padding == "valid" else layer.padding
    return tuple(
        (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for size, pad, gap, taps, step in zip(
            sizes, padding, layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    )


_BYPASSED: dict[type, type] = {}


def _bypassed(kind: type) -> type:
    if kind not in _BYPASSED:
        _BYPASSED[kind] = type(f"Bypassed{kind.__name__}", (Bypassed, kind), {})
    return _BYPASSED[kind]


def _empty(kind: type) -> nn.Module:
    """One of its kind, to be filled."""
    made: nn.Module = object.__new__(_bypassed(kind))
    return made


def bypass(module: nn.Module) -> None:
    """Make a layer give its bias alone."""
    if not isinstance(module, Bypassed):
        module.__class__ = _bypassed(type(module))


def run_again(module: nn.Module) -> None:
    """Make a bypassed layer an ordinary one."""
    if isinstance(module, Bypassed):
        module.__class__ = type(module).__mro__[2]


def bypass_only(model: nn.Module, names: Iterable[str]) -> None:
    """Of a network that was bypassed elsewhere: these layers and no others."""
    wanted = set(names)
    for name, module in model.named_modules():
        bypass(module) if name in wanted else run_again(module)
