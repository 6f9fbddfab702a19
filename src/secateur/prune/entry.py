"""A convolution that reads only some channels of its input: what is left of it when an entry is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.graph import PICKED

if TYPE_CHECKING:
    _Layer = nn.Conv2d
else:
    _Layer = nn.Module


class Picking(_Layer):
    """Beside a convolution's own class: it works on the channels `picked` [in_channels] of a wider input."""

    if TYPE_CHECKING:  # torch.jit reads annotations, and does not know this one's text
        picked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, ...], C > max(picked)."""
        return super().forward(picked(x, self.picked))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by the class that it was of: its own is made as it is needed, and has no place."""
        return _empty, (type(self).__bases__[1],), self.__dict__


def _plain_forward(self: Any, x: Tensor) -> Tensor:
    """The same beside torch's own class, as torch.jit can read it."""
    found: Tensor = self._conv_forward(picked(x, self.picked), self.weight, self.bias)
    return found


_PICKING: dict[type, type] = {}
_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


def _picking(kind: type) -> type:
    if kind not in _PICKING:
        own = {"forward": _plain_forward} if kind is nn.Conv2d else {}
        _PICKING[kind] = type(f"Picking{kind.__name__}", (Picking, kind), own)
    return _PICKING[kind]


def _empty(kind: type) -> nn.Module:
    """One of its kind, to be filled."""
    made: nn.Module = object.__new__(_picking(kind))
    return made


def pick(module: nn.Module, channels: Tensor) -> None:
    """Make a convolution read these input channels only, in this order; its weight has to fit them."""
    if not isinstance(module, Picking):
        module.__class__ = _picking(type(module))
    module.register_buffer(PICKED, channels)


def pick_all(module: nn.Module) -> None:
    """Make a convolution pick all the input channels that it reads now."""
    if not isinstance(module, Picking):
        weight = module.get_parameter("weight")
        pick(module, torch.arange(weight.shape[1], device=weight.device))


def as_before(model: nn.Module, dense: nn.Module, name: str) -> None:
    """Make a convolution that picks all its channels an ordinary one again, if it is one in the dense network."""
    module = model.get_submodule(name)
    if isinstance(module, Picking) and not isinstance(dense.get_submodule(name), Picking):
        module.__class__ = type(module).__mro__[2]
        del module.picked


def picked(x: Tensor, channels: Tensor) -> Tensor:
    """Some channels of x [N, C, ...]; torch.fx and torch.jit can take it apart."""
    traced = _is_tracing() or not isinstance(x, Tensor)
    if traced or x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return x.index_select(1, channels)
    last = x.permute(0, 2, 3, 1)  # as pixels of channels, which are gathered twice as fast
    n, h, w, c = last.shape
    return last.reshape(-1, c).index_select(1, channels).view(n, h, w, -1).permute(0, 3, 1, 2)
