"""Systems of least squares: one for all outputs of a layer, or one for each."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 10
"""Twenty change what is lost by less than a hundredth of it."""


def masked_least_squares(
    square: Tensor, right: Tensor, start: Tensor, mask: Tensor, iterations: int = ITERATIONS
) -> Tensor:
    """Rows w [out, D] that minimise `w A w^T - 2 w b^T`, zero off the mask [out, D].

    A is `square` [D, D], symmetric and positive, the b are the rows of `right` [out, D]. Each row has its own system,
    A without what is masked; to solve them one by one would take D^3 operations a row, an iteration for all rows
    takes a single product with A. Preconditioned by A's diagonal; every row goes at its own pace.
    """
    scale = 1.0 / square.diagonal()
    weight = start * mask
    residual = (right - weight @ square) * mask
    scaled = residual * scale
    direction, slope = scaled, (residual * scaled).sum(1, keepdim=True)
    tiny = torch.finfo(right.dtype).tiny
    for _ in range(iterations):
        image = direction @ square
        pace = slope / (direction * image).sum(1, keepdim=True).clamp_min(tiny)
        weight = weight + pace * direction
        residual = (residual - pace * image) * mask
        scaled = residual * scale
        slope, before = (residual * scaled).sum(1, keepdim=True), slope
        direction = scaled + slope / before.clamp_min(tiny) * direction
    return weight


def solve_positive(square: Tensor, right: Tensor) -> Tensor:
    """Solve positive definite systems [..., D, D]; in double precision where single does not reach."""
    factor, failed = torch.linalg.cholesky_ex(square)
    if not failed.any():
        return torch.cholesky_solve(right, factor)
    solved: Tensor = torch.linalg.solve(square.double(), right.double()).to(right.dtype)
    return solved
