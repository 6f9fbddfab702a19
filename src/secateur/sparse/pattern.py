"""Which weights of a layer stay together or go together: single ones, blocks, or some of every few."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.sparse.matrix import Block, in_empty_blocks, tiled

LEVELS = 64
"""Densities that a layer can have, at most: finer than any loss curve can tell."""
INDEX_BYTES = 4
"""Of the number that says where a block lies in its row, or where a row begins."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of the matrix [out, in * kh * kw]; blocks of one by one are single weights (fine-grained pruning)."""

    block: Block = (1, 1)

    def __str__(self) -> str:
        return "element" if self.fine else "x".join(map(str, self.block))

    @property
    def fine(self) -> bool:
        """Whether it is single weights: then there is nothing that a kernel could skip."""
        return self.block == (1, 1)

    @property
    def together(self) -> float:
        """Weights that are decided about at once."""
        return float(np.prod(self.block))

    def levels(self, out: int, features: int) -> int:
        """Steps from nothing kept to everything kept."""
        high, wide = self.block
        return min(-(-out // high) * -(-features // wide), LEVELS)

    def best(self, value: Tensor, density: float) -> Tensor:
        """The weights to keep, bool [out, features]: the blocks of most value on average.

        No more than `density` of the weights and of the blocks, but one block at least.
        """
        if self.fine:
            return _top(value.flatten()[None], max(_whole(density * value.numel()), 1)).view_as(value)
        sizes = tiled(torch.ones_like(value), self.block).sum((2, 3))
        order = (tiled(value, self.block).sum((2, 3)) / sizes).flatten().argsort(descending=True, stable=True)
        kept = torch.zeros_like(order, dtype=torch.bool)
        kept[order[self._fitting(sizes.flatten()[order], density)]] = True
        high, wide = self.block
        grid = kept.view_as(sizes).repeat_interleave(high, 0).repeat_interleave(wide, 1)
        return grid[: value.shape[0], : value.shape[1]]

    def within(self, value: Tensor, density: float, mask: Tensor) -> Tensor:
        """The same, of what the mask has left."""
        value, share = value.masked_fill(~mask, -1.0), float(mask.float().mean())
        left = self.best(value, density * share) & mask
        return left if left.any() else self.best(value, 0.0) & mask  # what fitted was a block that had left already

    def skipped(self, mask: Tensor) -> int:
        """Weights, of a mask [out, features], that lie in whole blocks of zeros."""
        return 0 if self.fine else in_empty_blocks(mask, self.block)

    def _fitting(self, sizes: Tensor, density: float) -> Tensor:
        """Which of blocks of these sizes, the most valuable first, are kept: places among them."""
        blocks = max(_whole(density * len(sizes)), 1)
        if bool((sizes == sizes[0]).all()):
            return torch.arange(blocks)
        room = density * float(sizes.sum()) * (1 + 1e-9)
        places: list[int] = []
        for place, size in enumerate(sizes.tolist()):  # those at the far edges are smaller, and may still fit
            if size <= room and len(places) < blocks:
                places.append(place)
                room -= size
        return torch.tensor(places or [0])

    def least(self, out: Any, features: Any) -> Any:
        """Weights that are kept whatever the density: those of a block."""
        high, wide = self.block
        return np.minimum(high, out) * np.minimum(wide, features)

    def stored_bytes(self, out: Any, features: Any, density: Any, itemsize: int) -> Any:
        """What a file holds, at most: blocks, filled up at the edges, and their places; or weights, and a bit each."""
        high, wide = self.block
        if self.fine:
            return out * features * (density * itemsize + 1 / 8) + 1
        down, blocks = np.ceil(out / high), np.ceil(out / high) * np.ceil(features / wide)
        kept = np.maximum(density * blocks, 1)
        return kept * (high * wide * itemsize + INDEX_BYTES) + INDEX_BYTES * (down + 1)


@dataclass(frozen=True)
class Runs:
    """So many of every `length` weights that follow each other in a row (N:M sparsity)."""

    length: int = 4

    def __str__(self) -> str:
        return f"n:{self.length}"

    @property
    def fine(self) -> bool:
        """It is single weights."""
        return True

    @property
    def together(self) -> float:
        """Rather more than one weight: coarser than single ones, finer than any block."""
        return 1.5

    def levels(self, out: int, features: int) -> int:
        """Steps from nothing kept to everything kept."""
        return self.length

    def best(self, value: Tensor, density: float) -> Tensor:
        """The weights to keep, bool [out, features]: those of most value in each run; a row keeps one at least."""
        whole = value.shape[1] // self.length * self.length
        runs = _top(value[:, :whole].reshape(-1, self.length), round(density * self.length)).view(len(value), whole)
        rest = _whole(density * (value.shape[1] - whole))
        return torch.cat([runs, _top(value[:, whole:], rest if whole else max(rest, 1))], 1)

    def within(self, value: Tensor, density: float, mask: Tensor) -> Tensor:
        """The same, of what the mask has left."""
        value = value.masked_fill(~mask, -1.0)
        left = self.best(value, density) & mask
        return left if left.any() else SINGLE.best(value, 0.0)  # there was less than a run

    def skipped(self, mask: Tensor) -> int:
        """None lies in blocks."""
        return 0

    def least(self, out: Any, features: Any) -> Any:
        """Weights that are kept whatever the density: one a row."""
        return out

    def stored_bytes(self, out: Any, features: Any, density: Any, itemsize: int) -> Any:
        """What a file holds, at most: weights, and a bit for each."""
        return SINGLE.stored_bytes(out, features, density, itemsize)


Pattern = Blocks | Runs
SINGLE = Blocks()


def pattern(text: str) -> Pattern:
    """`element`, `16x16` (outputs by inputs of a block) or `n:4`. Raises ValueError."""
    if text == "element":
        return Blocks()
    if found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text):
        return Blocks((int(found[1]), int(found[2])))
    if found := re.fullmatch(r"n:([2-9]|[1-9]\d+)", text):
        return Runs(int(found[1]))
    raise ValueError(f"{text!r} is no pattern of sparsity: give element, blocks such as 16x16, or n:4")


def patterns(texts: str | Sequence[str]) -> list[Pattern]:
    """One pattern or several of one layer, the coarser first: blocks, then so many of every few, then single weights.

    Raises ValueError where two are alike, or where blocks would cut runs apart: no run could keep its share then.
    """
    found = sorted(map(pattern, [texts] if isinstance(texts, str) else texts), key=lambda each: each.together)[::-1]
    if len({(type(each), each.fine) for each in found}) < len(found):
        raise ValueError(f"{', '.join(map(str, found))} for one layer: give blocks, n:4 and element once each at most")
    for coarse, fine in pairwise(found):
        if isinstance(coarse, Blocks) and isinstance(fine, Runs) and coarse.block[1] % fine.length:
            raise ValueError(f"blocks of {coarse} cut the runs of {fine} apart: give a width that it divides")
    return found


def _whole(number: float) -> int:
    """Rounded down, but for what is a whole number up to rounding."""
    return int(number * (1 + 1e-9))


def _top(value: Tensor, count: int) -> Tensor:
    """Bool, true for the `count` largest of every row."""
    kept = torch.zeros_like(value, dtype=torch.bool)
    return kept.scatter_(1, value.topk(count, sorted=False).indices, True)
