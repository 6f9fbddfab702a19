"""ZEROS: which weights go together, masks on layers, how a file holds them; block-sparse layers and their kernels."""

from secateur.sparse.layers import TYPES, BlockSparseConv2d, BlockSparseLinear, block_sparse_layers, dense_again
from secateur.sparse.masked import hold, hold_gradients, impose, mask_of, masked_layers, release
from secateur.sparse.matrix import Block, BlockSparse, block_sparsity, tiled
from secateur.sparse.native import lanes, library
from secateur.sparse.pattern import SINGLE, Blocks, Pattern, Runs, pattern, patterns
from secateur.sparse.storage import pack, stored_bytes, unpack

__all__ = [
    "SINGLE",
    "TYPES",
    "Block",
    "BlockSparse",
    "BlockSparseConv2d",
    "BlockSparseLinear",
    "Blocks",
    "Pattern",
    "Runs",
    "block_sparse_layers",
    "block_sparsity",
    "dense_again",
    "hold",
    "hold_gradients",
    "impose",
    "lanes",
    "library",
    "mask_of",
    "masked_layers",
    "pack",
    "pattern",
    "patterns",
    "release",
    "stored_bytes",
    "tiled",
    "unpack",
]
