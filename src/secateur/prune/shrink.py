"""How far moments between two features are to be trusted: a few hundred examples show more of them than there are.

A least-squares fit on fewer examples than features makes up for everything, by chance, and for nothing on other
examples. What features have in common is therefore shrunk by how far the examples disagree about it (Ledoit and Wolf,
2004; towards the diagonal as Schaefer and Strimmer, 2005). An example counts once however many rows it gives: they are
alike.
"""

from __future__ import annotations

from torch import Tensor


def own_moments(rows: Tensor) -> Tensor:
    """Squares of each example's moments between two different features, summed: [groups] of rows [groups, N, P, D]."""
    among = rows @ rows.transpose(2, 3)  # has as great a sum of squares as the moments, and is smaller
    own = rows.square().sum(2)
    found: Tensor = among.double().square().sum((1, 2, 3)) - own.double().square().sum((1, 2))
    return found / rows.shape[2] ** 2


def trusted(square: Tensor, own: Tensor, examples: int) -> Tensor:
    """Share [groups] of the mean moments [groups, D, D] between two features that is more than chance.

    `own` are the sums of `own_moments` over all examples.
    """
    common = square.double().square().sum((1, 2)) - square.diagonal(dim1=1, dim2=2).double().square().sum(1)
    noise = (own / examples - common) / max(examples - 1, 1)
    return 1 - (noise / common.clamp_min(1e-30)).clamp(0, 1)


def shrink(square: Tensor, share: Tensor) -> None:
    """Leave this share [groups] of the moments [groups, D, D] between two features, in place."""
    kept = square.diagonal(dim1=1, dim2=2) * (1 - share)[:, None]
    square.mul_(share[:, None, None]).diagonal(dim1=1, dim2=2).add_(kept)
