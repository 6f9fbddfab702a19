"""ZEROS THAT SAVE TIME: block-sparse matrices, the kernel that multiplies by them, and the layers made of them."""

from secateur.sparse.layers import BlockSparseConv2d, BlockSparseLinear, quicker
from secateur.sparse.matrix import Block, BlockSparse, block_sparsity
from secateur.sparse.native import lanes, library

__all__ = [
    "Block",
    "BlockSparse",
    "BlockSparseConv2d",
    "BlockSparseLinear",
    "block_sparsity",
    "lanes",
    "library",
    "quicker",
]
