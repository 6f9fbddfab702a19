"""Batch-norm recalibration, and the measurement that decides whether it helps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.answers import Likeness, parts_of
from secateur.errors import EvaluationError
from secateur.graph import copied, tensors_in
from secateur.prune.calibration import Calibration

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def recalibrate(model: nn.Module, calibration: Calibration, batch_size: int = 250) -> None:
    """Set the running statistics of every batch norm to their average over the calibration inputs.

    Batches are of `batch_size` at most, and equally large: each counts as much, and none is of a single example.
    """
    norms = [m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    with torch.no_grad():
        for batch in calibration.batches(-(-len(calibration) // -(-len(calibration) // batch_size))):
            batch.run(model)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def disagreement(model: nn.Module, reference: nn.Module, calibration: Calibration) -> float:
    """How far a network's answers are from the reference's: 1 - how alike they are (`Likeness`, at the scale of the
    first batch), the mean over all examples; 1 where they have other shapes. Needs no labels.

    Where no tensor of them goes by examples: the squared error as a share of the reference's energy.
    """
    total, likeness = 0.0, None
    with torch.no_grad():
        for batch in calibration.batches(250):
            mine, theirs = batch.run(model), batch.run(reference)
            wanted = parts_of(theirs, batch)
            likeness = likeness or Likeness.to(wanted, batch)
            try:
                known = float(1 - likeness(parts_of(mine, batch), wanted, batch).mean()) if wanted else None
            except EvaluationError:  # a detector that finds another number of boxes
                known = 1.0
            total += (_share(tensors_in(mine), tensors_in(theirs)) if known is None else known) * len(batch)
    return total / len(calibration)


def _share(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Of tensors of the same shapes; others tell nothing."""
    pairs = [(a.float(), b.float()) for a, b in zip(mine, theirs, strict=False) if a.shape == b.shape]
    return sum(float((a - b).square().sum() / b.square().sum().clamp_min(1e-12)) for a, b in pairs)


def recalibrated(model: nn.Module, calibration: Calibration) -> nn.Module:
    """A recalibrated copy."""
    renewed = copied(model)
    recalibrate(renewed, calibration)
    return renewed


def nearer(changed: nn.Module, model: nn.Module, reference: nn.Module, check: Calibration) -> nn.Module:
    """Of a network and a changed form of it, the one whose answers on `check` are nearer to the reference's."""
    better = disagreement(changed, reference, check) < disagreement(model, reference, check)
    return changed if better else model
