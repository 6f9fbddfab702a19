"""Operators that arrange elements anew: views, permutations, repetitions."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.axes import Axis, align_products, product, unify
from secateur.graph.rules.table import Axes, Call, rule


@rule("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias", "aten::_reshape_copy")
def view(call: Call) -> Axes:
    """Row-major: the products of both shapes are the same, stretch by stretch."""
    shape = list(call.shape)
    return regrouped(call.axes("self"), shape)


def regrouped(axes: Axes, shape: Sequence[int]) -> Axes:
    """Axes for a view of another shape: each dimension a free axis, unified with what it is made of."""
    found: list[Axis] = [Axis(size) for size in shape]
    if 0 in shape:  # no element tells which dimension became which; those at the end that are as long may have stayed
        for mine, theirs in zip(reversed(axes), reversed(found), strict=False):
            if mine.size != theirs.size:
                break
            unify(mine, theirs)
        return tuple(found)
    first = second = 0
    while first < len(axes) or second < len(shape):
        ones, others, left, right = [], [], 1, 1
        while True:  # the shortest stretch of both that has the same number of elements
            if left <= right and first < len(axes):
                ones.append(axes[first])
                left *= axes[first].size
                first += 1
            elif second < len(shape):
                others.append(found[second])
                right *= shape[second]
                second += 1
            else:
                break
            if left == right and (ones and others):
                break
        if len(ones) == len(others) == 1:
            unify(ones[0], others[0])
        else:
            align_products(ones, others)
    return tuple(axis if axis.size != 1 else product([]) for axis in found)


@rule("aten::as_strided")
def strides(call: Call) -> Axes:
    """The same elements in the same order, as pooling to one pixel leaves them; other forms are not followed."""
    axes, size = call.axes("self"), list(call["size"])
    if size != [axis.size for axis in axes] or not call.results[0].is_contiguous():
        raise NotImplementedError
    return axes


@rule("aten::view_as_complex", "aten::view_as_real")
def complex_pair(call: Call) -> Axes:
    """Pairs of numbers that belong together."""
    axes = call.axes("self")
    if len(call.shape) > len(axes):
        return (*axes, call.fixed(2))
    call.fix(axes[-1:], "takes them as pairs")
    return axes[:-1]


@rule("aten::permute", "aten::transpose", "aten::t", "aten::movedim", "aten::numpy_T", "aten::mT")
def permute(call: Call) -> Axes:
    """The dimensions in another order."""
    axes = list(call.axes("self"))
    if (dims := call.get("dims")) is not None:
        return tuple(axes[dim] for dim in dims)
    if len(axes) > 1:
        one, other = call.get("dim0", 0), call.get("dim1", 1)
        axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


@rule("aten::unsqueeze")
def unsqueeze(call: Call) -> Axes:
    """One more dimension, of one index."""
    axes = list(call.axes("self"))
    axes.insert(call["dim"] % len(call.shape), call.fixed(1))
    return tuple(axes)


@rule("aten::squeeze")
def squeeze(call: Call) -> Axes:
    """Without dimensions of one index."""
    axes = call.axes("self")
    dim = call.get("dim")
    dims = (
        range(len(axes)) if dim is None else [d % max(len(axes), 1) for d in ([dim] if isinstance(dim, int) else dim)]
    )
    return tuple(axis for number, axis in enumerate(axes) if number not in dims or axis.size != 1)


@rule("aten::expand", "aten::expand_copy")
def expand(call: Call) -> Axes:
    """A dimension of one index becomes as many as are asked for: they are all alike, and may be fewer."""
    axes = call.axes("self")
    new = len(call.shape) - len(axes)
    return tuple(
        axes[dim - new] if dim >= new and axes[dim - new].size == size else Axis(size)
        for dim, size in enumerate(call.shape)
    )


@rule("aten::repeat")
def repeat(call: Call) -> Axes:
    """Tiles: every dimension is so many times itself."""
    axes = call.axes("self")
    new = len(call.shape) - len(axes)
    times = call["repeats"]
    return tuple(
        product([Axis(count), axes[dim - new]]) if dim >= new else Axis(count) for dim, count in enumerate(times)
    )


@rule("aten::unfold")
def unfold(call: Call) -> Axes:
    """Windows along a dimension, which is fixed, as a last dimension."""
    axes = list(call.axes("self"))
    dim = call["dimension"] % len(axes)
    call.fix([axes[dim]], "takes windows of them")
    axes[dim] = call.fixed(call.shape[dim])
    return (*axes, call.fixed(call.shape[-1]))


@rule("aten::pixel_shuffle", "aten::pixel_unshuffle")
def pixel_shuffle(call: Call) -> Axes:
    """Channels [C * r * r] become pixels, or the other way."""
    *rest, channels, height, width = call.axes("self")
    if call.name.endswith("unshuffle"):
        factor = call["downscale_factor"]
        call.fix([height, width], "moves them")
        return (
            *rest, product([channels, call.fixed(factor), call.fixed(factor)]),
            call.fixed(call.shape[-2]), call.fixed(call.shape[-1]),
        )  # fmt: skip
    factor = call["upscale_factor"]
    kept = Axis(channels.size // factor**2)
    align_products([channels], [kept, call.fixed(factor), call.fixed(factor)])
    call.fix([height, width], "moves them")
    return (*rest, kept, call.fixed(call.shape[-2]), call.fixed(call.shape[-1]))


@rule("aten::channel_shuffle", "aten::native_channel_shuffle")
def channel_shuffle(call: Call) -> Axes:
    """[groups x rest] becomes [rest x groups]."""
    axes = list(call.axes("self"))
    groups = Axis(call["groups"])
    rest = Axis(axes[1].size // groups.size)
    align_products([axes[1]], [groups, rest])
    axes[1] = product([rest, groups])
    return tuple(axes)
