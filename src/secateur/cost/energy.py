"""Energy where there is no meter: an estimate from operations and data moved, and labelled as one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.cost.analytic import Cost, Densities, kept_weights, picture_bytes, summed
from secateur.graph import Count, Held, Layer, ModelGraph


@dataclass(frozen=True)
class EnergyEstimate:
    """Energy of one example by published costs of single operations, 45 nm, 0.9 V (Horowitz, ISSCC 2014, figure 1.1.9).

    It ranks plans by what they compute and move. It is no measurement: real chips differ in scale, and in how often
    data is moved.
    """

    pj_per_mac: float = 4.6
    """A 32-bit floating-point multiplication (3.7 pJ) and addition (0.9 pJ)."""
    pj_per_byte: float = 160.0
    """From DRAM: 640 pJ for 32 bits; weights, inputs and outputs of each layer are moved once."""
    metric: str = "energy_mj"

    @property
    def told_by(self) -> str:
        """That nothing was measured."""
        return "an estimate by operations and bytes moved (45 nm; Horowitz, 2014), not a measurement"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
        """Millijoules."""
        weights = kept_weights(layer, keep_in, keep_out, densities)
        moved = layer.itemsize * weights + sum(picture_bytes(layer, keep_in, keep_out))
        picojoules = self.pj_per_mac * layer.positions * weights + self.pj_per_byte * moved
        return np.asarray(picojoules * 1e-9, dtype=np.float64)

    def held_cost(self, held: Held) -> float:
        """Biases and norms are not counted."""
        return 0

    def dense(self, graph: ModelGraph) -> float:
        """Of the whole network."""
        return summed(self, graph)
