"""How long one dimension is once sites are cut, and which of its indices are left: axes, told for good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]
Kept = Mapping[str, Index]
"""Site key -> units that stay, ascending. A site that is absent stays whole."""


@dataclass(frozen=True)
class Extent:
    """A whole number of indices, the units of one site, or a row-major product or a sum of such."""

    length: int
    """Of the dense network."""
    kind: Literal["whole", "site", "product", "sum"] = "whole"
    key: str = ""
    parts: tuple[Extent, ...] = ()

    def size(self, counts: Mapping[str, Any]) -> Any:
        """Indices left with `counts[key]` units of each site: a number, or an array where the counts are arrays."""
        match self.kind:
            case "site":
                return counts.get(self.key, self.length)
            case "product":
                size: Any = 1
                for part in self.parts:
                    size = size * part.size(counts)
                return size
            case "sum":
                return sum(part.size(counts) for part in self.parts)
        return self.length

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Keys of the sites that it is made of, each once."""
        if self.kind == "site":
            return (self.key,)
        return tuple(dict.fromkeys(key for part in self.parts for key in part.groups))

    def alive(self, kept: Kept) -> Index:
        """The indices that are left, ascending, [size]."""
        match self.kind:
            case "site" if self.key in kept:
                return np.asarray(kept[self.key], dtype=np.int64)
            case "product":
                found = np.zeros(1, dtype=np.int64)
                for part in self.parts:
                    found = (found[:, None] * part.length + part.alive(kept)).ravel()
                return found
            case "sum":
                starts = np.cumsum([0, *(part.length for part in self.parts)])
                pieces = zip(starts, self.parts, strict=False)
                return np.concatenate([start + part.alive(kept) for start, part in pieces])
        return np.arange(self.length)

    def index(self, key: str) -> Index:
        """Where the units of a site lie, [units, places of each], ascending; no places where it is no part."""
        match self.kind:
            case "site" if self.key == key:
                return np.arange(self.length)[:, None]
            case "product" if key in self.groups:
                return self._in_product(key)
            case "sum" if key in self.groups:
                starts = np.cumsum([0, *(part.length for part in self.parts)])
                pieces = zip(starts, self.parts, strict=False)
                return np.concatenate([start + part.index(key) for start, part in pieces if key in part.groups], axis=1)
        return np.zeros((0, 0), dtype=np.int64)

    def _in_product(self, key: str) -> Index:
        """Of a product: the places of a unit in one factor, with every index of the others."""
        places, inner = np.zeros((1, 1), dtype=np.int64), 1
        owner = None
        for part in reversed(self.parts):
            mine = part.index(key) if key in part.groups else np.arange(part.length)[None]
            if key in part.groups and owner is not None:
                raise ValueError(f"{key} is twice in one product")
            owner = part if key in part.groups else owner
            units = max(len(mine), len(places))
            grid = mine[:, :, None] * inner + places[:, None, :]
            places = np.broadcast_to(grid, (units, *grid.shape[1:])).reshape(units, -1)
            inner *= part.length
        return np.sort(places, axis=1)


def whole(length: int) -> Extent:
    """What stays."""
    return Extent(length)


def site(key: str, width: int) -> Extent:
    """The units of a site, one index each."""
    return Extent(width, "site", key)
