"""Latency by a table of layers measured on a device over a grid of channel counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from secateur.cost.analytic import Cost, summed
from secateur.errors import BudgetError
from secateur.graph import ChannelGroup, Count, Layer, ModelGraph

Shape = tuple[str, tuple[int, ...], int, int, tuple[int, int]]
"""(kind, kernel, stride, groups, input h x w): what a measured layer has in common with those it stands for."""


@dataclass(frozen=True)
class Grid:
    """One shape of layer: ms[i][j] with in_channels[i] input and out_channels[j] output channels, both ascending.

    A depthwise layer, and a side that cannot be cut, has one entry on that side.
    """

    kind: str
    kernel: tuple[int, ...]
    stride: int
    groups: int
    in_hw: tuple[int, int]
    in_channels: tuple[int, ...]
    out_channels: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    @property
    def shape(self) -> Shape:
        """What it stands for."""
        return self.kind, self.kernel, self.stride, self.groups, self.in_hw

    @cached_property
    def rising(self) -> npt.NDArray[np.float64]:
        """ms where more channels never take less time: what a measurement says otherwise is noise, or would be
        better served by more channels filled with zeros."""
        ms = np.asarray(self.ms, dtype=np.float64)
        rising: npt.NDArray[np.float64] = np.maximum.accumulate(np.maximum.accumulate(ms, 0), 1)
        return rising

    def at(self, keep_in: Count, keep_out: Count, step: int) -> Cost:
        """Milliseconds, between the grid's points in proportion, by counts rounded up to the hardware's step."""
        rows, columns = np.array(self.in_channels), np.array(self.out_channels)
        i, down = _between(rows, _stepped(keep_in, step, rows))
        j, right = _between(columns, _stepped(keep_out, step, columns))
        ms = self.rising
        low = ms[i, j] * (1 - right) + ms[i, np.minimum(j + 1, len(columns) - 1)] * right
        below = np.minimum(i + 1, len(rows) - 1)
        high = ms[below, j] * (1 - right) + ms[below, np.minimum(j + 1, len(columns) - 1)] * right
        return np.asarray(low * (1 - down) + high * down, dtype=np.float64)


def _stepped(count: Count, step: int, grid: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    counts = np.asarray(count)
    stepped: npt.NDArray[np.float64] = np.clip(np.ceil(counts / step) * step, grid[0], grid[-1]).astype(np.float64)
    return stepped


def _between(grid: npt.NDArray[np.int64], value: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], Cost]:
    """The grid's place at or below each value, and how far on the way to the next it is."""
    place = np.clip(np.searchsorted(grid, value, side="right") - 1, 0, max(len(grid) - 2, 0))
    if len(grid) == 1:
        return place, np.zeros(value.shape)
    return place, (value - grid[place]) / (grid[place + 1] - grid[place])


@dataclass(frozen=True)
class LatencyTable:
    """What `secateur profile` wrote: layers one by one, and a correction by whole networks.

    A network takes `scale` times the sum of its layers, and `fixed_ms` for what is between them.
    """

    device: str
    runtime: str
    threads: int
    made: str
    step: int
    scale: float
    fixed_ms: float
    layers: tuple[Grid, ...]
    metric: str = "latency_ms"

    @cached_property
    def _grids(self) -> Mapping[Shape, Grid]:
        return {grid.shape: grid for grid in self.layers}

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count) -> Cost:
        """Milliseconds. Raises BudgetError where no layer of that shape was measured."""
        grid = self._grids.get(shape_of(layer))
        if grid is None:
            raise BudgetError(
                f"the latency table of {self.device} ({self.runtime}) has no layer like {layer.name}: "
                f"{layer.kind} {'x'.join(map(str, layer.kernel))}, stride {layer.stride}, input "
                f"{'x'.join(map(str, layer.in_hw))}. Profile this network: secateur profile"
            )
        return np.asarray(self.scale * grid.at(keep_in, keep_out, self.step), dtype=np.float64)

    def unit_cost(self, group: ChannelGroup) -> float:
        """Norms are folded and activations fused into the layers."""
        return 0

    def dense(self, graph: ModelGraph) -> float:
        """Of the whole network."""
        return summed(self, graph) + self.fixed_ms


def shape_of(layer: Layer) -> Shape:
    """What a layer is looked up by."""
    groups = 1 if layer.kind == "depthwise" else layer.groups
    return layer.kind, layer.kernel, layer.stride, groups, layer.in_hw
