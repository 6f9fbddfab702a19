"""Operators on pictures and signals: they move along the last dimensions, and treat each channel alone."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.axes import Axis, align_products, product
from secateur.graph.rules.elementwise import broadcast
from secateur.graph.rules.table import Axes, Call, rule


def _dims_of(call: Call) -> int:
    """How many of the last dimensions are spatial, by the operator's name."""
    return next((number for number in (1, 2, 3) if f"{number}d" in call.name), 2)


@rule(
    *(f"aten::{name}{dims}d" for dims in (1, 2, 3) for name in (
        "avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool", "reflection_pad", "replication_pad",
        "upsample_nearest", "_upsample_nearest_exact", "lp_pool")),
    "aten::upsample_linear1d", "aten::upsample_bilinear2d", "aten::upsample_bicubic2d", "aten::upsample_trilinear3d",
    "aten::_upsample_bilinear2d_aa", "aten::_upsample_bicubic2d_aa",
    "aten::mkldnn_adaptive_avg_pool2d", "aten::grid_sampler_2d", "aten::grid_sampler_3d", "aten::_pad_circular",
    "torchvision::roi_align",
    "torchvision::roi_pool", "aten::max_pool2d", "aten::max_pool1d", "aten::max_pool3d",
)  # fmt: skip
def pooling(call: Call) -> Axes:
    """All but the last dimensions as they are; of regions, as many as there are."""
    axes = call.axes(next(iter(call.arguments)))
    spatial = 3 if "trilinear" in call.name or "sampler_3d" in call.name else _dims_of(call)
    call.fix(axes[-spatial:], "moves along them")
    first = tuple(axis if axis.size == size else call.fixed(size) for axis, size in zip(axes, call.shape, strict=True))
    return (*first[: len(call.shape) - spatial], *(call.fixed(size) for size in call.shape[-spatial:]))


@rule(
    "aten::max_pool2d_with_indices", "aten::max_pool3d_with_indices", "aten::adaptive_max_pool2d",
    "aten::adaptive_max_pool3d", "aten::adaptive_max_pool1d", "aten::max_pool1d_with_indices",
    "aten::fractional_max_pool2d",
)  # fmt: skip
def max_pooling(call: Call) -> Sequence[Axes]:
    """As pooling; and where the values were."""
    return [tuple(pooling(call))] * len(call.results)  # type: ignore[arg-type]


@rule("aten::max_unpool2d", "aten::max_unpool3d")
def max_unpooling(call: Call) -> Axes:
    """Values put back where they were the largest."""
    spatial = _dims_of(call)
    call.fix((*call.axes("self")[-spatial:], *call.axes("indices")[-spatial:]), "moves along them")
    first = broadcast([call.axes("self")[:-spatial], call.axes("indices")[:-spatial]], len(call.shape) - spatial)
    return (*first, *(call.fixed(size) for size in call.shape[-spatial:]))


@rule("aten::im2col")
def im2col(call: Call) -> Axes:
    """Patches: channels times the taps of the kernel."""
    *rest, channels, height, width = call.axes("self")
    call.fix([height, width], "moves along them")
    taps = call.shape[-2] // channels.size
    return (*rest, product([channels, call.fixed(taps)]), call.fixed(call.shape[-1]))


@rule("aten::col2im")
def col2im(call: Call) -> Axes:
    """Patches laid over each other: a kernel's taps go."""
    *rest, columns, places = call.axes("self")
    call.fix([places], "moves along them")
    kernel = call["kernel_size"]
    taps = kernel[0] * kernel[1]
    channels = Axis(columns.size // taps)
    align_products([columns], [channels, call.fixed(taps)])
    return (*rest, channels, call.fixed(call.shape[-2]), call.fixed(call.shape[-1]))
