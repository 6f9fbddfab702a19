"""Operators that sum products over an axis: matrices, and convolutions of any dimension."""

from __future__ import annotations

from torch import Tensor

from secateur.graph.axes import Axis, align_products, product, unify
from secateur.graph.rules.elementwise import broadcast
from secateur.graph.rules.table import Axes, Call, Contraction, rule


@rule("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mv", "aten::matmul", "aten::linear")
def matrix_product(call: Call) -> Axes:
    """[..., rows, in] times [..., in, columns]."""
    one, other = ("mat1", "mat2") if "mat1" in call.arguments else ("self", "mat2")
    one = "batch1" if "batch1" in call.arguments else one
    other = next(name for name in ("mat2", "batch2", "vec", "tensor", "other", "weight") if name in call.arguments)
    left, right = call.axes(one), call.axes(other)
    contracted = left[-1]
    unify(contracted, right[-2] if len(right) > 1 else right[0])
    call.contract(one, len(left) - 1, contracted)
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    shared = broadcast([left[:-2], right[:-2]], max(len(left), len(right), 2) - 2)
    _note(call, call[one], call[other], contracted, rows, columns, shared)
    found = (*shared, *rows, *columns)
    if call.name in ("aten::addmm", "aten::baddbmm") and call.get("beta", 1) != 0:
        broadcast([found, call.axes("self")], len(found))
    return found


@rule("aten::dot", "aten::vdot")
def vector_product(call: Call) -> Axes:
    """One number of two vectors."""
    one, other = call.axes("self"), call.axes("tensor" if "tensor" in call.arguments else "other")
    unify(one[0], other[0])
    call.contract("self", 0, one[0])
    return ()


@rule("aten::_trilinear")
def trilinear(call: Call) -> Axes:
    """Three tensors, each spread over dimensions of its own, multiplied, and summed over some: `nn.Bilinear`."""
    shape: list[Axis | None] = []
    for name, spread in (("i1", "expand1"), ("i2", "expand2"), ("i3", "expand3")):
        axes, dims = iter(call.axes(name)), call[spread]
        whole = [None if dim in dims else next(axes) for dim in range(call[name].dim() + len(dims))]
        for dim, (mine, theirs) in enumerate(zip(shape, whole, strict=True)) if shape else ():
            if mine is not None and theirs is not None:
                unify(mine, theirs)
            whole[dim] = theirs if mine is None else mine
        shape = whole
    found = [axis if axis is not None else call.fixed(1) for axis in shape]
    summed = call["sumdim"]
    weight = call.axes("i2")
    for dim, axis in enumerate(weight):
        if any(found[each].root() is axis.root() for each in summed):
            call.contract("i2", dim, axis)
    contracted = product([found[each] for each in summed])
    left = [axis for dim, axis in enumerate(found) if dim not in summed]
    out = [axis for axis in left if any(axis.root() is each.root() for each in weight)]
    rest = [axis for axis in left if axis not in out]
    call.contractions.append(Contraction(call["i2"], contracted, product(out), tuple(rest)))
    return tuple(left)


def _note(call: Call, one: Tensor, other: Tensor, contracted: Axis, rows: Axes, columns: Axes, shared: Axes) -> None:
    """Which operand is the weight is not known here: both are told."""
    out, rest = (columns, rows) if columns else (rows, columns)
    sides = (other.dim() - 2, other.dim() - 1) if columns else (0, 0)
    found = [Contraction(other, contracted, product(out), (*shared, *rest), sides=sides, factor=shared)]
    if rows and columns:
        sides = (one.dim() - 1, one.dim() - 2)
        found.append(Contraction(one, contracted, product(rows), (*shared, *columns), sides=sides, factor=shared))
    call.contractions += found


@rule("aten::convolution", "aten::_convolution", "aten::cudnn_convolution", "aten::mkldnn_convolution",
      "aten::convolution_overrideable")  # fmt: skip
def convolution(call: Call) -> Axes:
    """Images [N, C, ...] and weight [out, C / groups, ...], or transposed [C, out / groups, ...]."""
    axes, weight = call.axes("input"), call.axes("weight")
    spatial = len(weight) - 2
    batch = axes[: len(axes) - spatial - 1]
    channels = axes[-spatial - 1]
    transposed, groups = call.get("transposed", False), call.get("groups", 1)
    pixels = tuple(_moved(call, dim, spatial) for dim in range(spatial))
    call.fix(weight[2:], "moves along them")
    first, second = (channels, weight[0]) if transposed else (weight[0], channels)
    split, inner = Axis(groups), weight[1]
    members = Axis(first.size // groups)
    align_products([first], [split, members])
    align_products([second], [split, inner]) if not transposed else unify(second, first)
    if transposed:
        out, contracted, per_group = product([split, inner]), channels, members
    else:
        out, contracted, per_group = weight[0], channels, inner
    if per_group.size > 1:
        call.contract("input", len(axes) - spatial - 1, channels)
    if call.get("bias") is not None:
        unify(out, call.axes("bias")[0])
    kernel = tuple(axis.size for axis in weight[2:])
    each = split if groups > 1 else None
    sides = (0, 1) if transposed else (1, 0)
    call.contractions.append(Contraction(call["weight"], contracted, out, (*batch, *pixels), kernel, each, sides))
    return (*batch, out, *pixels)


def _moved(call: Call, dim: int, spatial: int) -> Axis:
    """What becomes of a dimension that a convolution moves along: a kernel of one place moves nothing."""
    axis, size = call.axes("input")[dim - spatial], call.shape[dim - spatial]
    places = call["weight"].shape[2 + dim]
    step, border = (call[name][dim % len(call[name])] for name in ("stride", "padding"))
    if (places, step, border) == (1, 1, 0) and axis.size == size:
        return axis
    call.fix([axis], "moves along them")
    return call.fixed(size)


@rule("torchvision::deform_conv2d")
def deformable(call: Call) -> Axes:
    """As a convolution; offsets and masks tell where each pixel is read, for groups of channels alike."""
    call.fix(call.axes("offset"), "tells places by them")
    call.fix(call.axes("mask"), "tells places by them")
    axes, weight = call.axes("input"), call.axes("weight")
    call.fix((*axes[2:], *weight[2:]), "moves along them")
    if call.get("groups", call.get("n_weight_grps", 1)) != 1 or call.get("offset_groups", 1) != 1:
        call.fix((axes[1], weight[0]), "has groups of them")
    unify(axes[1], weight[1])
    call.contract("input", 1, axes[1])
    unify(weight[0], call.axes("bias")[0])
    pixels = tuple(call.fixed(size) for size in call.shape[2:])
    kernel = tuple(axis.size for axis in weight[2:])
    call.contractions.append(Contraction(call["weight"], axes[1], weight[0], (axes[0], *pixels), kernel))
    return (axes[0], weight[0], *pixels)
