"""How far moments are to be trusted: a few hundred examples show more relations between features than there are.

A least-squares fit on fewer examples than features makes up for everything, by chance, and for nothing on other
examples. What two features have in common is therefore shrunk by how far the examples disagree about it (Ledoit and
Wolf, 2004; towards the diagonal as Schaefer and Strimmer, 2005). An example counts once however many rows it gives:
they are alike.
"""

from __future__ import annotations

import torch
from torch import Tensor


def own_products(rows: Tensor, others: Tensor) -> Tensor:
    """Of rows [groups, N, P, D] and others [groups, N, P, E]: the squares of each example's mean products, summed."""
    each = rows.shape[2]
    if rows.shape[3] * others.shape[3] < each**2:
        found = (rows.transpose(2, 3) @ others).square_()
    else:  # the same sum, of smaller products
        found = (rows @ rows.transpose(2, 3)).mul_(others @ others.transpose(2, 3))
    return found.sum((1, 2, 3), dtype=torch.float64) / each**2


def own_moments(rows: Tensor) -> Tensor:
    """Of rows [groups, N, P, D]: the squares of each example's moments between two different features, summed."""
    alone = rows.square().sum(2).square_().sum((1, 2), dtype=torch.float64)
    return own_products(rows, rows) - alone / rows.shape[2] ** 2


def trusted(common: Tensor, own: Tensor, examples: int) -> Tensor:
    """The share [groups] of mean moments that is more than chance.

    `common` are their squares, summed; `own` the same of each example's own moments, summed over the examples.
    """
    if examples < 2:
        return torch.zeros_like(common)
    noise = (own / examples - common) / (examples - 1)
    return 1 - (noise / common.clamp_min(1e-30)).clamp(0, 1)


def shrink(square: Tensor, own: Tensor, examples: int) -> None:
    """Leave of the mean moments [groups, D, D] between two features what is more than chance, in place."""
    alone = square.diagonal(dim1=1, dim2=2)
    common = square.square().sum((1, 2), dtype=torch.float64) - alone.square().sum(1, dtype=torch.float64)
    share = trusted(common, own, examples).to(square.dtype)[:, None]
    kept = alone * (1 - share)
    square.mul_(share[..., None]).diagonal(dim1=1, dim2=2).add_(kept)
