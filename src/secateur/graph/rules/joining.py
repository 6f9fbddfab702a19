"""Operators that put tensors one behind the other, take them apart, pad them, or make them from nothing."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.axes import Axis, align_products, piece, total
from secateur.graph.rules.elementwise import broadcast
from secateur.graph.rules.table import Axes, Call, rule


@rule("aten::cat", "aten::concat", "aten::concatenate")
def cat(call: Call) -> Axes:
    """A sum along one dimension; the other dimensions are the same."""
    tensors = [tensor for tensor in call["tensors"] if tensor.shape != (0,)]
    parts = [call.axes_of(tensor) for tensor in tensors]
    dim = call["dim"] % len(parts[0])
    others = [(*axes[:dim], *axes[dim + 1 :]) for axes in parts]
    rest = list(broadcast(others, len(parts[0]) - 1))
    rest.insert(dim, total([axes[dim] for axes in parts]))
    return tuple(rest)


@rule("aten::stack")
def stack(call: Call) -> Axes:
    """A new dimension, which is fixed; the others are the same."""
    parts = [call.axes_of(tensor) for tensor in call["tensors"]]
    axes = list(broadcast(parts, len(parts[0])))
    axes.insert(call["dim"] % len(call.shape), call.fixed(len(parts)))
    return tuple(axes)


@rule("aten::slice", "aten::narrow", "aten::slice_copy")
def slice_(call: Call) -> Axes:
    """A stretch of a dimension; of every so many, one remainder."""
    axes = list(call.axes("self"))
    dim, step = call["dim"] % len(axes), call.get("step", 1)
    size = axes[dim].size
    start, stop, _ = slice(call.get("start"), call.get("end"), step).indices(size)
    if "length" in call.arguments:
        stop = start + call["length"]
    if step == 1:
        axes[dim] = piece(axes[dim], start, stop)
    elif start < step and start + step * call.shape[dim] >= size and not size % step:  # pairs go whole, or threes
        kept = Axis(size // step) if size > step else call.fixed(1)
        align_products([axes[dim]], [kept, call.fixed(step)])
        axes[dim] = kept
    else:
        call.fix([axes[dim]], "takes some of them")
        axes[dim] = call.fixed(call.shape[dim])
    return tuple(axes)


@rule("aten::_pack_padded_sequence")
def packed(call: Call) -> Sequence[Axes]:
    """Sequences without what pads them, step after step: [steps, features], and how many there are at each."""
    axes = call.axes("input")
    call.fix(axes[:2], "takes some of them")
    return [(call.fixed(call.shape[0]), *axes[2:]), (call.fixed(len(call.results[1])),)]


@rule("aten::split", "aten::split_with_sizes", "aten::unsafe_split", "aten::unsafe_chunk", "aten::chunk")
def split(call: Call) -> Sequence[Axes]:
    """Stretches of a dimension."""
    axes = call.axes("self")
    dim, start = call["dim"] % len(axes), 0
    found: list[Axes] = []
    for result in call.results:
        part = piece(axes[dim], start, start + result.shape[dim])
        found.append((*axes[:dim], part, *axes[dim + 1 :]))
        start += result.shape[dim]
    return found


@rule("aten::select", "aten::unbind", "aten::select_copy")
def select(call: Call) -> Axes | Sequence[Axes]:
    """One index of a dimension, by its number; or each of them."""
    axes = call.axes("self")
    dim = call["dim"] % len(axes)
    call.fix([axes[dim]], "picks them by their numbers")
    left = (*axes[:dim], *axes[dim + 1 :])
    return left if call.name != "aten::unbind" else [left] * len(call.results)


@rule("aten::constant_pad_nd")
def pad(call: Call) -> Axes:
    """Padding is one more term of a sum, before or behind; a negative one cuts off."""
    axes = list(call.axes("self"))
    pads = call["pad"]
    for number in range(0, len(pads), 2):
        dim, before, after = len(axes) - 1 - number // 2, pads[number], pads[number + 1]
        axis = axes[dim]
        if before < 0 or after < 0:
            axis = piece(axis, max(-before, 0), axis.size + min(after, 0))
        if axis.is_fixed:
            axes[dim] = call.fixed(call.shape[dim])
        else:
            axes[dim] = total([Axis(max(before, 0)), axis, Axis(max(after, 0))])
    return tuple(axes)


@rule(
    "aten::zeros", "aten::ones", "aten::full", "aten::empty", "aten::new_zeros", "aten::new_ones", "aten::new_full",
    "aten::new_empty", "aten::scalar_tensor", "aten::empty_strided", "aten::new_empty_strided",
)  # fmt: skip
def made(call: Call) -> Axes:
    """All elements are alike: there may be any number of them."""
    return tuple(Axis(size) for size in call.shape)


@rule(
    "aten::arange", "aten::linspace", "aten::eye", "aten::rand", "aten::randn", "aten::randint", "aten::randperm",
    "aten::tril_indices", "aten::triu_indices",
)  # fmt: skip
def numbered(call: Call) -> Axes:
    """Every element is another."""
    return tuple(call.fixed(size) for size in call.shape)
