"""How matrices of moments are held: in single precision where they are wide, in blocks where they are very wide.

A matrix of moments of D features has D^2 numbers, and to invert it takes D^3 operations. The features (or outputs) of
a very wide layer are split into equal blocks, as if those of different blocks had nothing in common: what remains is
one matrix a block, [groups * blocks, D / blocks, D / blocks] for all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PRECISE = 2048
"""Features up to which double precision is affordable; it takes twice the memory and time."""
MOST = 2**26
"""Numbers in the matrices of a layer's group at most: 8,192 features in one block, 0.27 GB."""


def precision(features: int) -> torch.dtype:
    """What a matrix of so many features is held and solved in."""
    return torch.float64 if features <= PRECISE else torch.float32


def blocks_of(width: int, whole: Callable[[int], bool] = lambda size: True) -> int | None:
    """Into how many equal blocks a width is split: the fewest that are small enough and `whole`, as told by their size.

    None where only single features would do.
    """
    fewest = max(-(-(width**2) // MOST), 1)
    return next((n for n in range(fewest, width) if width % n == 0 and whole(width // n)), 1 if width == 1 else None)


def in_blocks(rows: Tensor, blocks: int) -> Tensor:
    """Rows [groups, N, D] as [groups * blocks, N, D / blocks]."""
    return rows if blocks == 1 else rows.unflatten(2, (blocks, -1)).transpose(1, 2).flatten(0, 1)
