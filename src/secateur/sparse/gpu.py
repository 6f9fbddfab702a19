"""The block-sparse product on a GPU, in Triton. Imported only where Triton is installed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from secateur.sparse.matrix import BlockSparse

SIDES = (16, 32, 64)
"""Sides of a block that the matrix units take."""
COLUMNS = 64
"""Of X that one program does."""


@triton.jit  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]  # noqa: PLR0913  # pointers, sizes and strides, which Triton types
    start,
    column,
    values,
    bias,
    x,
    y,
    n,
    out,
    features,
    x_in,
    x_n,
    y_out,
    y_n,
    R: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
    BIASED: tl.constexpr,
) -> None:
    """One block row and N columns: sums stay in registers from the row's first block to its last."""
    block_row = tl.program_id(1)
    columns = (tl.program_id(0) * N + tl.arange(0, N)).to(tl.int64)
    rows = (block_row * R + tl.arange(0, R)).to(tl.int64)
    inside, across = tl.arange(0, C), tl.arange(0, R)
    sums = tl.zeros((N, R), dtype=tl.float32)
    for block in range(tl.load(start + block_row), tl.load(start + block_row + 1)):
        inputs = (tl.load(column + block) * C + inside).to(tl.int64)
        seen = (columns[:, None] < n) & (inputs[None, :] < features)
        part = tl.load(x + inputs[None, :] * x_in + columns[:, None] * x_n, mask=seen, other=0.0)
        weight = tl.load(values + block * C * R + inside[:, None] * R + across[None, :])
        sums += tl.dot(part, weight, input_precision="ieee")
    if BIASED:
        sums += tl.load(bias + rows, mask=rows < out, other=0.0).to(tl.float32)[None, :]
    place = y + rows[None, :] * y_out + columns[:, None] * y_n
    tl.store(place, sums.to(y.dtype.element_ty), mask=(columns[:, None] < n) & (rows[None, :] < out))


def times(matrix: BlockSparse, x: Tensor, out: Tensor, bias: Tensor | None) -> None:
    """Write W x + bias into `out` [out, n], for x [in, n]; all of one precision, x and `out` laid out in any way.

    Raises ValueError where they do not fit.
    """
    matrix.check(x, out, bias)
    grid = (triton.cdiv(x.shape[1], COLUMNS), len(matrix.start) - 1)
    with torch.cuda.device_of(x):
        _run(grid, matrix, x, out, bias)


def _run(grid: tuple[int, int], matrix: BlockSparse, x: Tensor, out: Tensor, bias: Tensor | None) -> None:
    high, wide = matrix.block
    _product[grid](
        *(matrix.start, matrix.column, matrix.values),
        matrix.values if bias is None else bias,
        *(x, out, x.shape[1], out.shape[0], x.shape[0]),
        *(*x.stride(), *out.stride()),
        R=high,
        C=wide,
        N=COLUMNS,
        BIASED=bias is not None,
    )


def takes(values: Tensor) -> bool:
    """Whether these blocks suit the matrix units."""
    return values.shape[1] in SIDES and values.shape[2] in SIDES and values.dtype in (torch.float32, torch.bfloat16)
