"""One shape of layer, measured over a grid of channel counts. numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Shape = tuple[str, tuple[int, ...], int, int, tuple[int, ...]]
"""(kind, kernel, stride, groups, input h x w): what a measured layer has in common with those it stands for."""


@dataclass(frozen=True)
class Thinned:
    """What a layer takes when only a share of its blocks is left, over what it takes with all: at most 1."""

    pattern: str
    densities: tuple[float, ...]
    """Ascending; the last is 1."""
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raises ValueError where the numbers make no curve."""
        rising = all(low < high for low, high in zip(self.densities, self.densities[1:], strict=False))
        whole = bool(self.densities) and self.densities[0] > 0 and self.densities[-1] == 1
        if not rising or not whole or len(self.densities) != len(self.factors) or min(self.factors) <= 0:
            raise ValueError(f"{self.pattern}: densities rise to 1, and to each belongs a factor above 0")


@dataclass(frozen=True)
class Grid:
    """cost[i][j], in ms or mJ, with in_channels[i] input and out_channels[j] output channels, both ascending.

    A depthwise layer, and a side that cannot be cut, has one entry on that side.
    """

    kind: str
    kernel: tuple[int, ...]
    stride: int
    groups: int
    in_hw: tuple[int, ...]
    in_channels: tuple[int, ...]
    out_channels: tuple[int, ...]
    cost: tuple[tuple[float, ...], ...]
    scale: float = 1.0
    """What it takes within a network, over what it takes alone."""
    thinned: tuple[Thinned, ...] = ()
    """Where the runtime has a kernel for layers with blocks of zeros."""

    def __post_init__(self) -> None:
        """Raises ValueError where the numbers make no grid."""
        sides = (self.in_channels, self.out_channels)
        rising = all(side and side[0] > 0 and list(side) == sorted(set(side)) for side in sides)
        whole = [len(row) for row in self.cost] == [len(self.out_channels)] * len(self.in_channels)
        if not rising or not whole or not min(map(min, self.cost)) >= 0 or not self.scale > 0:
            raise ValueError(f"{self.kind} {self.in_hw}: channels rise, and to each pair belongs a cost of 0 or more")

    @property
    def shape(self) -> Shape:
        """What it stands for."""
        return self.kind, self.kernel, self.stride, self.groups, self.in_hw

    @cached_property
    def rising(self) -> Floats:
        """The cost where more channels never take less: what a measurement says otherwise is noise, or would be
        better served by more channels filled with zeros."""
        rising: Floats = np.maximum.accumulate(np.maximum.accumulate(np.asarray(self.cost, dtype=np.float64), 0), 1)
        return rising

    def factor(self, pattern: str, density: Any) -> Any:
        """What a share of the blocks saves; 1 where nothing was measured, as zeros are multiplied like anything."""
        for each in self.thinned:
            if each.pattern == pattern:
                return np.interp(density, each.densities, np.maximum.accumulate(each.factors))
        return 1.0

    def at(self, keep_in: Any, keep_out: Any, step: int) -> Floats:
        """The cost, between the grid's points in proportion, by counts rounded up to the hardware's step."""
        rows, columns = np.array(self.in_channels), np.array(self.out_channels)
        i, down = _between(rows, _stepped(keep_in, step, rows))
        j, right = _between(columns, _stepped(keep_out, step, columns))
        cost, below, beside = self.rising, np.minimum(i + 1, len(rows) - 1), np.minimum(j + 1, len(columns) - 1)
        above = cost[i, j] * (1 - right) + cost[i, beside] * right
        under = cost[below, j] * (1 - right) + cost[below, beside] * right
        return np.asarray(above * (1 - down) + under * down, dtype=np.float64)


def _stepped(count: Any, step: int, grid: npt.NDArray[np.int64]) -> Floats:
    stepped: Floats = np.clip(np.ceil(np.asarray(count) / step) * step, grid[0], grid[-1]).astype(np.float64)
    return stepped


def _between(grid: npt.NDArray[np.int64], value: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """The grid's place at or below each value, and how far on the way to the next it is."""
    place = np.clip(np.searchsorted(grid, value, side="right") - 1, 0, max(len(grid) - 2, 0))
    if len(grid) == 1:
        return place, np.zeros(value.shape)
    return place, (value - grid[place]) / (grid[place + 1] - grid[place])
