"""Loss curves, set right by one real cut for each.

What a change does to the first order is added up as if positions had nothing to do with each other: where errors of
neighbouring pixels point the same way, they do several times as much. The order of a site's units does not suffer from
that, the price of one site beside another does. So half of each site is cut alone, refitted, and its curve scaled to
what the answers then really do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from secateur.graph import tensors_in
from secateur.prune.calibration import Calibration
from secateur.prune.order import Curve

EXAMPLES, FEWEST = 32, 8
"""Calibration examples that a cut is looked at on; fewer, to `FEWEST`, where all sites together cost over `MACS`."""
MACS = 1e12


def examples_for(macs: int, sites: int) -> int:
    """How many examples to look at, of a network of so many MACs each."""
    return int(np.clip(MACS / max(macs * sites, 1), FEWEST, EXAMPLES))


def measured(
    curves: Mapping[str, Curve],
    cut: Callable[[Mapping[str, int]], nn.Module],
    dense: nn.Module,
    calibration: Calibration,
    sensed: Collection[str],
) -> dict[str, Curve]:
    """The curves [width + 1], each scaled to what the answers change when half of its site is cut.

    A curve that is not known (NaN) is the square of what goes. `cut` makes a network of counts that are valid until its
    next call. What is `sensed` tells the change of the answers already, to the first order, and is never scaled down:
    refits on these very examples flatter what is cut.
    """
    wanted = _answers(dense, calibration)
    found = {}
    for key, curve in curves.items():
        width = len(curve) - 1
        half = max(width // 2, 1)
        known = curve if np.isfinite(curve).all() else (1 - np.arange(width + 1) / width) ** 2
        if half == width or known[half] <= 0:
            found[key] = known
            continue
        change = _change(_answers(cut({key: half}), calibration), wanted)
        if change is None:
            found[key] = known
            continue
        factor = change / known[half]
        found[key] = known * (max(factor, 1.0) if key in sensed and known is curve else factor)
    return found


def _answers(network: nn.Module, calibration: Calibration) -> list[list[Tensor]]:
    """Of each batch, all tensors of floating numbers."""
    with torch.no_grad():
        given = [tensors_in(batch.run(network)) for batch in calibration.batches(32)]
    return [[x.float() for x in batch if x.is_floating_point()] for batch in given]


def _change(answers: list[list[Tensor]], wanted: list[list[Tensor]]) -> float | None:
    """The mean square of what is another, as a share of the variance; the mean over all that is answered, None where
    nothing can be compared (a detector that finds other boxes)."""
    shares = [
        float((one - other).square().mean() / other.var().clamp_min(1e-30))
        for batch in zip(answers, wanted, strict=True)
        for one, other in zip(*batch, strict=False)
        if one.shape == other.shape and other.numel() > 1
    ]
    return float(np.mean(shares)) if shares else None
