"""Operators that treat every element alone: what is added, multiplied or compared has the same axes."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.axes import Axis, cut, unify
from secateur.graph.rules.table import Axes, Call, rule

SUMS = ("aten::add", "aten::sub", "aten::add_", "aten::sub_")


@rule("pointwise")
def pointwise(call: Call) -> Axes:
    """Broadcast all tensor arguments against each other."""
    operands = [call.axes_of(tensor) for tensor in call.tensors()]
    if call.name in SUMS and len(operands) == 2:
        _note_sum(*operands)
    return broadcast(operands, len(call.shape))


@rule(
    "aten::clone", "aten::_to_copy", "aten::detach", "aten::alias", "aten::lift_fresh", "aten::lift_fresh_copy",
    "aten::contiguous", "aten::zeros_like", "aten::ones_like", "aten::empty_like", "aten::full_like", "aten::rand_like",
    "aten::randn_like", "aten::fill", "aten::zero", "aten::bernoulli", "aten::dropout", "aten::_conj",
    "aten::resolve_conj", "aten::masked_fill", "aten::uniform", "aten::normal", "aten::random",
    "aten::_prelu_kernel", "aten::threshold", "aten::rrelu_with_noise",
    "aten::rrelu_with_noise_functional", "aten::hardswish", "aten::rsub",
    "aten::floor_divide", "aten::special_expit", "aten::polar", "aten::complex", "aten::real", "aten::imag",
    "aten::bucketize",
)  # fmt: skip
def same(call: Call) -> Axes:
    """The axes of the first argument; of a mask beside it, too."""
    operands = [call.axes_of(tensor) for tensor in call.tensors()]
    return broadcast(operands, len(call.shape))


@rule("aten::mse_loss", "aten::smooth_l1_loss", "aten::huber_loss")
def loss(call: Call) -> Axes:
    """Of each element alone; means and sums of them take all together."""
    if call["reduction"]:
        raise NotImplementedError
    return broadcast([call.axes("self"), call.axes("target")], len(call.shape))


@rule("aten::copy")
def copy(call: Call) -> Axes:
    """What is written has the axes of where it is written."""
    return broadcast([call.axes("self"), call.axes("src")], len(call.shape))


@rule("aten::log_sigmoid_forward")
def log_sigmoid(call: Call) -> Sequence[Axes]:
    """The values, and what its gradient needs."""
    axes = call.axes("self")
    return [
        axes,
        *(axes if each.shape == call.shape else tuple(map(call.fixed, each.shape)) for each in call.results[1:]),
    ]


@rule("aten::tril", "aten::triu")
def triangle(call: Call) -> Axes:
    """Elements of the last two dimensions go by their places."""
    axes = call.axes("self")
    call.fix(axes[-2:], "goes by their places")
    return axes


@rule("aten::native_dropout")
def native_dropout(call: Call) -> Sequence[Axes]:
    """The values and the mask."""
    return [call.axes("input")] * 2


@rule("aten::glu")
def glu(call: Call) -> Axes:
    """One half times the gate of the other half."""
    axes = list(call.axes("self"))
    dim = call["dim"] % len(axes)
    one, other = cut(axes[dim], axes[dim].size // 2)
    unify(one, other)
    axes[dim] = one
    return tuple(axes)


def broadcast(operands: Sequence[Axes], dims: int) -> Axes:
    """Right-aligned; a dimension of one index goes with any."""
    found: list[Axis] = []
    for back in range(-dims, 0):
        here = [axes[back] for axes in operands if len(axes) >= -back]
        wide = [axis for axis in here if axis.size != 1] or here
        for axis in wide[1:]:
            unify(wide[0], axis)
        found.append(wide[0])
    return tuple(found)


def _note_sum(one: Axes, other: Axes) -> None:
    """Axes that only a sum makes the same are a stream's."""
    if [axis.size for axis in one] != [axis.size for axis in other]:
        return
    for mine, theirs in zip(one, other, strict=True):
        if mine.root() is not theirs.root():
            for leaf in (*mine.leaves(), *theirs.leaves()):
                leaf.added = True
