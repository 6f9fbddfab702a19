"""Norms: over the examples, which treat each channel alone; and over channels, which mix them."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.axes import Axis, align_products, unify
from secateur.graph.rules.table import Axes, Call, rule


@rule(
    "aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::_native_batch_norm_legit",
    "aten::_native_batch_norm_legit_no_training", "aten::_native_batch_norm_legit_functional", "aten::_batch_norm_impl",
)  # fmt: skip
def batch_norm(call: Call) -> Sequence[Axes]:
    """Statistics, gain and offset are of the channels."""
    axes = call.axes("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.get(name) is not None:
            unify(axes[1], call.axes(name)[0])
    for dim in (0, *range(2, len(axes))):
        if call.get("training", False) and not axes[dim].is_fixed:  # statistics of its own input: standardised weights
            call.mix("input", dim)
    return [axes, *(_statistics(call, axes[1], each.shape) for each in call.results[1:])]


def _statistics(call: Call, channels: Axis, shape: Sequence[int]) -> Axes:
    """Of each channel, or nothing."""
    return tuple(channels if size == channels.size else call.fixed(size) for size in shape)


@rule("aten::native_layer_norm", "aten::_fused_rms_norm")
def layer_norm(call: Call) -> Sequence[Axes]:
    """Over the last dimensions, which it mixes."""
    axes = call.axes("input")
    last = len(axes) - len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            for mine, theirs in zip(axes[last:], call.axes(name), strict=True):
                unify(mine, theirs)
    for dim in range(last, len(axes)):
        call.mix("input", dim)
    statistics = tuple(axis if dim < last else call.fixed(1) for dim, axis in enumerate(axes))
    return [axes, *[statistics] * (len(call.results) - 1)]


@rule("aten::_weight_norm_interface")
def weight_norm(call: Call) -> Sequence[Axes]:
    """A weight of given norms: `v` times `g` over the norm of `v`, for each index along one dimension.

    A cut makes up for it: `g` is scaled, so that what stays of the weight is what it was (see `Record.norms`).
    """
    axes = call.axes("v")
    dim = call.get("dim", 0) % len(axes)
    unify(axes[dim], call.axes("g")[dim])
    return [axes, tuple(axis if number == dim else call.fixed(1) for number, axis in enumerate(axes))]


@rule("aten::native_group_norm")
def group_norm(call: Call) -> Sequence[Axes]:
    """Over the pictures, and over the channels of each group, which it mixes."""
    axes = call.axes("input")
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            unify(axes[1], call.axes(name)[0])
    groups = Axis(call["group"])
    members = Axis(axes[1].size // groups.size)
    align_products([axes[1]], [groups, members])
    if members.size > 1:
        members.mix(call.name)
        call.contract("input", 1, axes[1])
    return [axes, (axes[0], groups), (axes[0], groups)]
