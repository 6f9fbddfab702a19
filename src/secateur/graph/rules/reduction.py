"""Operators that take one dimension or several together: sums, means, norms, extremes; and those that order them."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.axes import Axis
from secateur.graph.rules.table import Axes, Call, rule


@rule(
    "aten::sum", "aten::mean", "aten::var", "aten::var_mean", "aten::std", "aten::std_mean", "aten::amax", "aten::amin",
    "aten::max", "aten::min",
    "aten::logsumexp", "aten::linalg_vector_norm", "aten::norm",
)  # fmt: skip
def mixing(call: Call) -> Sequence[Axes]:
    """What is left changes with what goes, but every member counts alike: such an axis may go in part."""
    name = next(iter(call.arguments))
    if call.get("other") is not None:
        raise NotImplementedError  # a pointwise form
    axes = call.axes(name)
    dims = _dims(call, len(axes))
    for dim in dims:
        call.mix(name, dim)
    return [_left(call, axes, dims)] * len(call.results)


@rule("aten::_is_all_true", "aten::_is_any_true")
def checking(call: Call) -> Axes:
    """Whether arguments are allowed: nothing comes of it but an error."""
    return ()


@rule("aten::_fft_r2c", "aten::_fft_c2c", "aten::_fft_c2r")
def transform(call: Call) -> Axes:
    """Frequencies of some dimensions, which are fixed."""
    dims = _dims(call, len(call.shape))
    axes = call.axes("self")
    call.fix([axes[dim] for dim in dims], "goes along them")
    return tuple(
        call.fixed(size) if dim in dims else axis for dim, (axis, size) in enumerate(zip(axes, call.shape, strict=True))
    )


@rule(
    "aten::prod", "aten::any", "aten::all", "aten::argmax", "aten::argmin", "aten::median",
    "aten::mode", "aten::count_nonzero", "aten::kthvalue", "aten::aminmax",
)  # fmt: skip
def picking(call: Call) -> Axes | Sequence[Axes]:
    """One member speaks for all, is told by its number, or what all come to scales each."""
    axes = call.axes(next(iter(call.arguments)))
    dims = _dims(call, len(axes))
    call.fix([axes[dim] for dim in dims], "takes all of them together")
    return [_left(call, axes, dims)] * len(call.results)


@rule(
    "aten::_softmax", "aten::_log_softmax", "aten::_safe_softmax", "aten::cumsum", "aten::cumprod",
    "aten::logcumsumexp", "aten::flip", "aten::roll", "aten::_softmax_backward_data", "aten::renorm",
)  # fmt: skip
def along(call: Call) -> Axes:
    """Each member depends on the others along some dimensions, which are fixed."""
    axes = call.axes(next(iter(call.arguments)))
    call.fix([axes[dim] for dim in _dims(call, len(axes))], "goes along them")
    return axes


@rule("aten::sort", "aten::topk")
def ordering(call: Call) -> Sequence[Axes]:
    """Members change places along a dimension, which is fixed."""
    axes = list(call.axes("self"))
    dim = call["dim"] % len(axes) if axes else 0
    call.fix([axes[dim]], "orders them by their values")
    axes[dim] = call.fixed(call.shape[dim])
    return [tuple(axes)] * 2


def _dims(call: Call, rank: int) -> list[int]:
    """The dimensions that are named, or all."""
    dim = call.get("dim", call.get("dims"))
    if dim is None or dim == []:
        return list(range(rank))
    return [each % rank for each in (dim if isinstance(dim, (list, tuple)) else [dim])] if rank else []


def _left(call: Call, axes: Axes, dims: Sequence[int]) -> Axes:
    """What is left of the dimensions."""
    keepdim = len(call.shape) == len(axes)
    left: list[Axis] = []
    for dim, axis in enumerate(axes):
        if dim not in dims:
            left.append(axis)
        elif keepdim:
            left.append(call.fixed(1))
    return tuple(left)
