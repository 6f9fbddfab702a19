"""A matrix of which only some blocks are kept, and its product with a dense one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from secateur.sparse.native import library

Block = tuple[int, int]
"""Rows (outputs) and columns (inputs) of a block."""
WORTH_SHARING = 2**20
"""Multiplications below which one thread does them all."""


@dataclass(frozen=True, eq=False)
class BlockSparse:
    """W [out, in] by its blocks that are not all zero; at the far edges blocks are filled up with zeros.

    `start` [block rows + 1] counts the blocks before each block row, `column` [blocks] says where in the row each lies,
    `values` [blocks, C, R] holds them, each column by column.
    """

    start: Tensor
    column: Tensor
    values: Tensor
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Raises ValueError where the parts do not fit together: the kernels trust them."""
        plain = self.start.dtype == self.column.dtype == torch.int32 and self.start.dim() == self.column.dim() == 1
        tensors = (self.start, self.column, self.values)
        if not plain or self.values.dim() != 3 or min(self.block) < 1 or not all(x.is_contiguous() for x in tensors):
            raise ValueError("blocks are [n, C, R], and int32 numbers say where they lie, each laid out in a piece")
        down, across = (-(-size // side) for size, side in zip(self.shape, self.block, strict=True))
        inside = len(self.column) == 0 or bool((self.column >= 0).all() and (self.column < across).all())
        ends = int(self.start[0]) == 0 and int(self.start[-1]) == len(self.column) == len(self.values)
        if len(self.start) != down + 1 or not ends or not bool((self.start.long().diff() >= 0).all()) or not inside:
            raise ValueError(f"these are not the blocks {self.block} of a matrix {self.shape}")

    @classmethod
    def of(cls, weight: Tensor, block: Block, mask: Tensor | None = None) -> BlockSparse:
        """The blocks of a dense matrix [out, in] that hold anything but zeros, or anything of the mask."""
        blocks = tiled(weight, block)
        kept = (blocks if mask is None else tiled(mask.to(weight.dtype), block)).ne(0).flatten(2).any(2)
        start = torch.cat([kept.new_zeros(1, dtype=torch.int32), kept.sum(1).cumsum(0).int()])
        column = kept.nonzero()[:, 1].int()
        return cls(start, column, blocks[kept].transpose(1, 2).contiguous(), (weight.shape[0], weight.shape[1]))

    @property
    def block(self) -> Block:
        """Rows and columns of a block."""
        return self.values.shape[2], self.values.shape[1]

    def dense(self) -> Tensor:
        """The matrix [out, in], exactly as it was."""
        (rows, columns), (high, wide) = self.shape, self.block
        down, across = len(self.start) - 1, -(-columns // wide)
        blocks = self.values.new_zeros(down, across, high, wide)
        row = torch.repeat_interleave(torch.arange(down, device=self.start.device), self.start.diff().long())
        blocks[row, self.column.long()] = self.values.transpose(1, 2)
        return blocks.transpose(1, 2).reshape(down * high, across * wide)[:rows, :columns].contiguous()

    def check(self, x: Tensor, out: Tensor, bias: Tensor | None) -> None:
        """Raises ValueError where these do not fit the matrix or each other: the kernels trust them."""
        rows, columns = self.shape
        sizes = x.dim() == 2 and tuple(out.shape) == (rows, x.shape[1]) and x.shape[0] == columns
        given = [self.values, x, out] if bias is None else [self.values, x, out, bias]
        alike = len({(tensor.dtype, tensor.device) for tensor in given}) == 1
        if not sizes or not alike or (bias is not None and (bias.shape != (rows,) or not bias.is_contiguous())):
            shapes = ", ".join(f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}" for tensor in given[1:])
            raise ValueError(f"a matrix {list(self.shape)} of {self.values.dtype} does not multiply so: {shapes}")

    def times(self, x: Tensor, out: Tensor, bias: Tensor | None = None, lanes: int = 0) -> None:
        """Write W x + bias into `out` [out, n], for x [in, n]; both float32 on the CPU and laid out in any way.

        By vectors of so many `lanes` (4, 8, 16) as far as the processor has them; 0 for the widest.
        Raises ValueError where they do not fit, RuntimeError without a compiled kernel (`native.library`), MemoryError
        without memory.
        """
        found = library()
        if found is None:
            raise RuntimeError("the block-sparse kernel is not compiled on this machine")
        self.check(x, out, bias)
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(f"this kernel computes in float32 on the CPU, not in {x.dtype} on {x.device}")
        high, wide = self.block

        def rows(first: int, last: int) -> None:
            failed = found.secateur_block_sparse(
                *(tensor.data_ptr() for tensor in (self.start, self.column, self.values)),
                None if bias is None else bias.data_ptr(),
                *(high, wide, first, last, *self.shape, x.shape[1]),
                *(x.data_ptr(), *x.stride(), out.data_ptr(), *out.stride(), lanes),
            )
            if failed:
                raise MemoryError("no memory for a panel of inputs")

        _shared(rows, len(self.start) - 1, self.values.numel() * x.shape[1])


def tiled(weight: Tensor, block: Block) -> Tensor:
    """A matrix [out, in] as blocks [block rows, blocks in a row, R, C], filled up with zeros."""
    (rows, columns), (high, wide) = weight.shape, block
    filled: Tensor = torch.nn.functional.pad(weight, (0, -columns % wide, 0, -rows % high))
    return filled.view(-1, high, filled.shape[1] // wide, wide).transpose(1, 2)


def block_sparsity(weight: Tensor, block: Block) -> float:
    """BSF of a matrix [out, in]: elements that lie in whole blocks of zeros, over all elements."""
    return in_empty_blocks(weight.ne(0), block) / weight.numel()


def in_empty_blocks(mask: Tensor, block: Block) -> int:
    """Elements of a mask [out, in] that lie in blocks of which nothing is kept."""
    inside = tiled(torch.ones_like(mask, dtype=torch.int32), block).sum((2, 3))
    return int(inside[~tiled(mask, block).flatten(2).any(2)].sum())


def _shared(rows: Callable[[int, int], None], count: int, work: int) -> None:
    """Do all block rows, on as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1 or work < WORTH_SHARING:
        rows(0, count)
        return
    ends = [count * number // threads for number in range(threads + 1)]
    list(_pool(threads).map(rows, ends[:-1], ends[1:]))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
