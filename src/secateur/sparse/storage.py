"""A sparse weight as a file holds it: what is not masked, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from secateur.sparse.matrix import BlockSparse
from secateur.sparse.pattern import Blocks, Pattern

Packed = dict[str, Tensor]
BITS = ("bits", "values")
BLOCKS = ("start", "column", "values")


def pack(weight: Tensor, mask: Tensor, pattern: Pattern) -> Packed:
    """Single weights as a bit each, eight in a byte, and the values in order; or, where that takes less and all zeros
    lie in whole blocks, blocks as a `BlockSparse` has them.

    Empty where the dense weight takes no more, and tells the mask: by zeros in what is left out alone.
    """
    bits = np.packbits(mask.flatten().cpu().numpy())
    packed = {"bits": torch.from_numpy(bits), "values": weight[mask]}
    if isinstance(pattern, Blocks) and pattern.skipped(mask.flatten(1)) == int((~mask).sum()):
        found = BlockSparse.of(weight.flatten(1), pattern.block, mask.flatten(1))
        packed = min(packed, {name: getattr(found, name) for name in BLOCKS}, key=_bytes)
    return packed if _bytes(packed) < weight.nbytes or bool((weight[mask] == 0).any()) else {}


def _bytes(packed: Packed) -> int:
    return sum(tensor.nbytes for tensor in packed.values())


def stored_bytes(weight: Tensor, mask: Tensor, pattern: Pattern) -> int:
    """What the weight takes in a file."""
    return _bytes(pack(weight, mask, pattern)) or weight.nbytes


def unpack(packed: Mapping[str, Tensor], shape: Sequence[int], pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Weight and mask. Raises ValueError, IndexError or RuntimeError where the parts do not fit together."""
    features = int(np.prod(shape[1:]))
    if packed.keys() == set(BLOCKS) and isinstance(pattern, Blocks):
        start, column, values = (packed[name] for name in BLOCKS)
        if values.shape[1:] != pattern.block[::-1]:
            raise ValueError(f"blocks of {tuple(values.shape[1:])} are not {pattern}")
        weight = BlockSparse(start, column, values, (shape[0], features)).dense()
        kept = BlockSparse(start, column, torch.ones_like(values), (shape[0], features)).dense().bool()
        return weight.view(*shape), kept.view(*shape)
    if packed.keys() != set(BITS):
        raise ValueError(f"a sparse weight has {', '.join(BITS)} or {', '.join(BLOCKS)}, not {', '.join(packed)}")
    bits = np.unpackbits(packed["bits"].numpy(), count=shape[0] * features)
    kept = torch.from_numpy(bits.astype(bool)).view(*shape)
    weight = packed["values"].new_zeros(*shape)
    weight[kept] = packed["values"]
    return weight, kept
