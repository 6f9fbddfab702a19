"""Whether two networks answer alike but for rounding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference allowed, by how precisely the network computes, as a fraction of the spread of what differs: of
each output, and of each column of it. Right cuts differ by 1e-14 in double precision, and wrong ones by 4e-5 or more.
"""


def same(ones: Sequence[Tensor], others: Sequence[Tensor], nudged: Sequence[Tensor] = ()) -> bool:
    """Whether two networks' outputs are equal but for rounding, each at its own scale; `nudged`: as `_floor` has it."""
    rounded = nudged if [x.shape for x in nudged] == [x.shape for x in ones] else ones
    return len(ones) == len(others) and all(map(_equal, ones, others, rounded))


def near(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether no number is further from the other than rounding may ever bring it."""
    return all(
        float((one - other).nan_to_num().abs().max()) <= 1e-4 * float(one.nan_to_num(0, 0, 0).abs().max())
        for one, other in zip(ones, others, strict=True)
        if one.is_floating_point() and one.numel()
    )


def _equal(one: Tensor, other: Tensor, nudged: Tensor) -> bool:
    """Every element within the tolerance at the scale of its column, along each dimension: beside boxes in pixels,
    class scores are small."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or one.numel() == 0:
        return torch.equal(one, other)
    one, other, nudged = (x.unsqueeze(0) if x.dim() == 0 else x for x in (one, other, nudged))
    there = one.isfinite() & other.isfinite()
    if not bool(there.all()):  # what is infinite, or no number, has to be in both
        if not torch.equal(one.nan_to_num()[~there], other.nan_to_num()[~there]):
            return False
        one, other, nudged = (torch.where(there, x, 0) for x in (one, other, nudged))
    apart, tolerance = (one - other).abs(), TOLERANCE[one.dtype if one.dtype in TOLERANCE else torch.float32]
    floor = _floor(one, nudged, tolerance)
    for dimension in range(one.dim()):
        columns = one.transpose(0, dimension).reshape(one.shape[dimension], -1)
        columns = columns if columns.shape[1] > 1 else columns.reshape(1, -1)  # single numbers, on the scale of all
        spread = (columns - columns.mean(1, keepdim=True)).square().mean(1).sqrt()
        spread = spread if columns.shape[1] > 1 else columns.abs().amax(1)
        worst = apart.transpose(0, dimension).reshape(len(columns), -1).amax(1)
        if not bool((worst <= tolerance * spread + floor).all()):
            return False
    return True


def _floor(answer: Tensor, nudged: Tensor, tolerance: float) -> float:
    """What rounding alone may come to, where a column is all but zero: by the numbers' size, or by what came of inputs
    that were nudged by rounding; of what is chaotic beyond that, nothing is proven."""
    largest = float(answer.abs().max())
    seen = min(float((answer - nudged).abs().max()), tolerance / 64 * largest)
    return 64 * max(torch.finfo(answer.dtype).eps * largest, seen)
