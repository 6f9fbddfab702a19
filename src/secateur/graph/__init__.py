"""WHAT THE NETWORK IS: layers, channel groups, and how they are read from a model."""

from secateur.graph.count import count_costs
from secateur.graph.coupling import BATCH_NORMS
from secateur.graph.entries import entries_named, entries_of, with_entries
from secateur.graph.forward import computes_more, first_input, watch
from secateur.graph.graph import ChannelGroup, Count, Counts, Extent, Layer, ModelGraph, Side, Slice, Sparsity
from secateur.graph.layout import best_layout, laid_out
from secateur.graph.operations import OperationLog
from secateur.graph.private import Example, as_inputs, private_copy
from secateur.graph.sparsity import may_be_sparse, sparsities_named, with_sparsity
from secateur.graph.trace import trace

__all__ = [
    "BATCH_NORMS",
    "ChannelGroup",
    "Count",
    "Counts",
    "Example",
    "Extent",
    "Layer",
    "ModelGraph",
    "OperationLog",
    "Side",
    "Slice",
    "Sparsity",
    "as_inputs",
    "best_layout",
    "computes_more",
    "count_costs",
    "entries_named",
    "entries_of",
    "first_input",
    "laid_out",
    "may_be_sparse",
    "private_copy",
    "sparsities_named",
    "trace",
    "watch",
    "with_entries",
    "with_sparsity",
]
