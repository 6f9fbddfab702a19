"""WHAT A PLAN COSTS, by arithmetic over the layers of a graph."""

from secateur.cost.analytic import Bytes, CostModel, Macs, Params, model_for
from secateur.cost.device import DeviceProfile, Rates
from secateur.cost.energy import EnergyEstimate
from secateur.cost.latency import DEVICES, latency_model
from secateur.cost.network import NetworkCost, costs
from secateur.cost.table import LatencyTable

__all__ = [
    "DEVICES",
    "Bytes",
    "CostModel",
    "DeviceProfile",
    "EnergyEstimate",
    "LatencyTable",
    "Macs",
    "NetworkCost",
    "Params",
    "Rates",
    "costs",
    "latency_model",
    "model_for",
]
