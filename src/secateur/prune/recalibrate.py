"""Batch-norm recalibration, and the measurement that decides whether it helps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.answers import cosine
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
    """How far a network's answers are from the reference's: 1 - cosine of logits [N, classes] about their mean,
    else the squared error as a share of the reference's energy; the sum over all that it returns.
    Needs no labels."""
    total = 0.0
    with torch.no_grad():
        for batch in calibration.batches(250):
            pairs = zip(tensors_in(batch.run(model)), tensors_in(batch.run(reference)), strict=True)
            apart = [_distance(a.float(), b.float()) for a, b in pairs]
            total += sum(apart) * len(batch)
    return total / len(calibration)


def _distance(mine: Tensor, theirs: Tensor) -> float:
    if mine.dim() == 2 and mine.shape[1] > 1:
        return float(1 - cosine(mine, theirs).mean())
    return float((mine - theirs).square().sum() / theirs.square().sum().clamp_min(1e-12))


def recalibrated(model: nn.Module, calibration: Calibration) -> nn.Module:
    """A recalibrated copy."""
    renewed = copied(model)
    recalibrate(renewed, calibration)
    return renewed


def nearer(changed: nn.Module, model: nn.Module, reference: nn.Module, check: Calibration) -> nn.Module:
    """Of a network and a changed form of it, the one whose answers on `check` are nearer to the reference's."""
    better = disagreement(changed, reference, check) < disagreement(model, reference, check)
    return changed if better else model
