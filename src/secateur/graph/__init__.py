"""WHAT THE NETWORK IS: its axes, layers and sites, and how they are read from a model."""

from secateur.graph.attention import OpenAttention, open_attention, opened, unnested
from secateur.graph.branches import BYPASSED, bypassed, may_be_bypassed, structural, with_bypasses
from secateur.graph.count import count_costs
from secateur.graph.entries import PICKED, entries_named, entries_of, with_entries
from secateur.graph.extent import Extent, Index, Kept
from secateur.graph.follow import in_double, plain_kernels
from secateur.graph.forward import BATCH_NORMS, PRODUCERS, computes_more, first_input, watch
from secateur.graph.graph import (
    QUERY_KEY,
    VALUE,
    ChannelGroup,
    Count,
    Counts,
    Held,
    Layer,
    Matrix,
    ModelGraph,
    Side,
    Slice,
    Sparsity,
)
from secateur.graph.inputs import Example, Inputs, as_inputs, joined, positional, tensors_in
from secateur.graph.layout import best_layout, laid_out
from secateur.graph.masked import Masked
from secateur.graph.network import with_reasons
from secateur.graph.operations import OperationLog, WeightPlace
from secateur.graph.private import copied, forgetful, private_copy
from secateur.graph.products import (
    Products,
    Run,
    as_operators,
    bias_of,
    matrix_of,
    nodes,
    tensor_of,
    unwatched,
    weight_of,
    with_matrix,
)  # fmt: skip
from secateur.graph.recorder import Numbers
from secateur.graph.scope import Scope, where_raised
from secateur.graph.sizes import (
    Attribute,
    Calls,
    CallWatcher,
    Path,
    Spot,
    StatedSize,
    argument,
    counted,
    kind_of,
    name_of,
    sliced,
)
from secateur.graph.sparsity import may_be_sparse, sparsities_named, with_sparsity
from secateur.graph.trace import Traced, examples_of, follow, trace

__all__ = [
    "BATCH_NORMS",
    "BYPASSED",
    "PICKED",
    "PRODUCERS",
    "QUERY_KEY",
    "VALUE",
    "Attribute",
    "CallWatcher",
    "Calls",
    "ChannelGroup",
    "Count",
    "Counts",
    "Example",
    "Extent",
    "Held",
    "Index",
    "Inputs",
    "Kept",
    "Layer",
    "Masked",
    "Matrix",
    "ModelGraph",
    "Numbers",
    "OpenAttention",
    "OperationLog",
    "Path",
    "Products",
    "Run",
    "Scope",
    "Side",
    "Slice",
    "Sparsity",
    "Spot",
    "StatedSize",
    "Traced",
    "WeightPlace",
    "argument",
    "as_inputs",
    "as_operators",
    "best_layout",
    "bias_of",
    "bypassed",
    "computes_more",
    "copied",
    "count_costs",
    "counted",
    "entries_named",
    "entries_of",
    "examples_of",
    "first_input",
    "follow",
    "forgetful",
    "in_double",
    "joined",
    "kind_of",
    "laid_out",
    "matrix_of",
    "may_be_bypassed",
    "may_be_sparse",
    "name_of",
    "nodes",
    "open_attention",
    "opened",
    "plain_kernels",
    "positional",
    "private_copy",
    "sliced",
    "sparsities_named",
    "structural",
    "tensor_of",
    "tensors_in",
    "trace",
    "unnested",
    "unwatched",
    "watch",
    "weight_of",
    "where_raised",
    "with_bypasses",
    "with_entries",
    "with_matrix",
    "with_reasons",
    "with_sparsity",
]
