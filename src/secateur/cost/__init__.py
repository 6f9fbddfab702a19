"""WHAT A PLAN COSTS, by arithmetic over the layers of a graph."""

from secateur.cost.analytic import Bytes, CostModel, Macs, Params, model_for
from secateur.cost.network import NetworkCost, costs

__all__ = ["Bytes", "CostModel", "Macs", "NetworkCost", "Params", "costs", "model_for"]
