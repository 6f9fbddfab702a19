"""WHAT A PLAN COSTS, by arithmetic over the layers of a graph."""

from secateur.cost.analytic import Bytes, CostModel, Macs, Params, kept_weights, model_for
from secateur.cost.device import DeviceProfile, Rates
from secateur.cost.energy import EnergyEstimate
from secateur.cost.network import CountedCosts, NetworkCost
from secateur.cost.reading import DEVICES, ENERGIES, energy_model, latency_model
from secateur.cost.table import LayerTable

__all__ = [
    "DEVICES",
    "ENERGIES",
    "Bytes",
    "CostModel",
    "CountedCosts",
    "DeviceProfile",
    "EnergyEstimate",
    "LayerTable",
    "Macs",
    "NetworkCost",
    "Params",
    "Rates",
    "energy_model",
    "kept_weights",
    "latency_model",
    "model_for",
]
