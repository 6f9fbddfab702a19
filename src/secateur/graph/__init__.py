"""WHAT THE NETWORK IS: layers, channel groups, and how they are read from a model."""

from secateur.graph.graph import ChannelGroup, Counts, Extent, Join, Layer, ModelGraph, Side, Slice
from secateur.graph.operations import OperationLog
from secateur.graph.trace import Example, as_inputs, count_costs, private_copy, trace

__all__ = [
    "ChannelGroup",
    "Counts",
    "Example",
    "Extent",
    "Join",
    "Layer",
    "ModelGraph",
    "OperationLog",
    "Side",
    "Slice",
    "as_inputs",
    "count_costs",
    "private_copy",
    "trace",
]
