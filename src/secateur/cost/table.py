"""Latency or energy by a table of layers measured on a device over a grid of channel counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from secateur.cost.analytic import Cost, Densities, kept_blocks, kept_weights, summed
from secateur.errors import BudgetError
from secateur.graph import Count, Held, Layer, ModelGraph
from secateur.runtimes.sessions.grid import Grid, Shape


@dataclass(frozen=True)
class LayerTable:
    """What `secateur profile` wrote: layers one by one, and a correction by whole networks.

    A network takes the sum of its layers, each by its own scale, and `fixed` for what is between them (negative for
    what layers alone do and networks do not), in milliseconds or, where a meter measured it, millijoules. `step` is
    what counts of channels were multiples of.
    """

    device: str
    runtime: str
    threads: int
    made: str
    step: int
    fixed: float
    layers: tuple[Grid, ...]
    metric: Literal["latency_ms", "energy_mj"] = "latency_ms"
    meter: str = "clock"
    version: str = ""
    """Of the runtime."""

    @cached_property
    def _grids(self) -> Mapping[Shape, Grid]:
        return {grid.shape: grid for grid in self.layers}

    @property
    def told_by(self) -> str:
        """The device, the runtime, and what measured."""
        runtime = f"{self.runtime} {self.version}".strip()
        how = f"{runtime}, {self.threads} thread{'s' if self.threads > 1 else ''}, {self.made}"
        return f"a table of layers measured by {self.meter} on {self.device} ({how})"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
        """In the metric's unit; zeros among the weights save what was measured of them, by default nothing.

        Raises BudgetError where no layer of that shape was measured.
        """
        if layer.kind == "product":
            return np.zeros(np.broadcast_shapes(np.shape(keep_in), np.shape(keep_out)))  # a part of `fixed`
        grid = self._grids.get(shape_of(layer))
        if grid is None:
            raise BudgetError(
                f"the {self.metric} table of {self.device} ({self.runtime}) has no layer like {layer.name}: "
                f"{layer.kind} {'x'.join(map(str, layer.kernel))}, stride {layer.stride}, input "
                f"{'x'.join(map(str, layer.in_hw))}. Profile this network: secateur profile"
            )
        wide = 0 if layer.kind == "depthwise" else layer.in_channels, layer.out_channels
        if wide[0] > grid.in_channels[-1] or wide[1] > grid.out_channels[-1]:
            raise BudgetError(
                f"the {self.metric} table of {self.device} ({self.runtime}) was made for narrower layers than "
                f"{layer.name}, {layer.in_channels} -> {layer.out_channels} channels. Profile this network"
            )
        share: Count | float = 1.0
        if layer.kind == "conv" and layer.split.groups:  # of its groups; each takes what it takes beside all others
            share = np.maximum(layer.groups, 1) / layer.split.length
            keep_in, keep_out = (np.rint(keep / share).astype(np.int64) for keep in (keep_in, keep_out))
        taken = grid.at(keep_in, keep_out, self.step) * share
        if layer.blocks and len(densities):
            kind, whole = str(layer.blocks.pattern), kept_weights(layer, *wide)
            least = kept_blocks(layer, *wide, [0.0]) / np.maximum(whole, 1)
            one = grid.at(*wide, self.step) * grid.factor(kind, least)  # a block is left whatever the density
            taken = np.maximum(taken * grid.factor(kind, densities[0]), np.minimum(taken, one))
        return np.asarray(grid.scale * taken * times(layer), dtype=np.float64)

    def held_cost(self, held: Held) -> float:
        """Norms are folded and activations fused into the layers."""
        return 0

    def dense(self, graph: ModelGraph) -> float:
        """Of the whole network. Raises BudgetError where the table makes nothing of it."""
        whole = summed(self, graph) + self.fixed
        if not whole > 0:
            raise BudgetError(
                f"by the {self.metric} table of {self.device} this network takes {whole:g}; profile it anew"
            )
        return whole


def times(layer: Layer) -> int:
    """How often a layer counts that runs more than once in a pass; a linear layer's rows are part of its shape."""
    return 1 if layer.kind == "linear" else max(round(layer.passes), 1)


def shape_of(layer: Layer) -> Shape:
    """What a layer is looked up by; a linear layer by how many rows it turns into outputs, where others have h x w."""
    groups = 1 if layer.kind == "depthwise" else layer.split.length
    size = (1, layer.positions) if layer.kind == "linear" else layer.in_hw
    return layer.kind, layer.kernel, layer.stride, groups, size
