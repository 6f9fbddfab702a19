"""A device by a few numbers for each kind of layer: latency from multiply-adds and data, fitted to measurements.

    ms = ms_per_gmac * MACs / 1e9 + ms_per_input_mb * input bytes / 1e6 + ms_per_output_mb * output bytes / 1e6

Coarser than a table of the network's own layers, but it prices any network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.cost.analytic import Cost, Densities, picture_bytes, summed
from secateur.errors import BudgetError
from secateur.graph import Count, Held, Layer, ModelGraph


@dataclass(frozen=True)
class Rates:
    """What one kind of layer takes."""

    ms_per_gmac: float
    ms_per_input_mb: float
    ms_per_output_mb: float


@dataclass(frozen=True)
class DeviceProfile:
    """Latency of one example on a device, batch 1; see the module."""

    device: str
    runtime: str
    source: str
    kinds: dict[str, Rates]
    """By kind: pointwise, conv, depthwise, linear."""
    metric: str = "latency_ms"

    @property
    def told_by(self) -> str:
        """The device, and that it is a model of it."""
        return f"the profile of {self.device} ({self.runtime}), a model fitted to measurements"

    def layer_cost(self, layer: Layer, keep_in: Count, keep_out: Count, densities: Densities = ()) -> Cost:
        """Milliseconds; zeros among the weights save none of them."""
        kind = kind_of(layer)
        if kind not in self.kinds:
            raise BudgetError(
                f"the profile of {self.device} knows no {kind} layers, as {layer.name} is one; profile it"
            )
        rates = self.kinds[kind]
        macs = layer.positions * np.asarray(layer.weights(keep_in, keep_out), dtype=np.float64)
        inputs, outputs = (bytes_ / 1e6 for bytes_ in picture_bytes(layer, keep_in, keep_out))
        time = rates.ms_per_gmac * macs / 1e9 + rates.ms_per_input_mb * inputs + rates.ms_per_output_mb * outputs
        return np.asarray(time, dtype=np.float64)

    def held_cost(self, held: Held) -> float:
        """Norms are folded and activations fused into the layers."""
        return 0

    def dense(self, graph: ModelGraph) -> float:
        """Of the whole network."""
        return summed(self, graph)


def kind_of(layer: Layer) -> str:
    """pointwise (1 x 1), conv, depthwise or linear."""
    if layer.kind in ("product", "transposed"):
        return "linear" if layer.kind == "product" else "conv"
    return "pointwise" if layer.kind == "conv" and set(layer.kernel) == {1} else layer.kind
