"""What a traced network is: layers, and the channels that live or die together. Frozen values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secateur.graph.extent import Extent, Index, whole
from secateur.graph.operations import Value
from secateur.graph.sizes import Attribute, StatedSize
from secateur.plan import Costs
from secateur.sparse import Pattern

Side = Literal["in", "out"]
Kind = Literal["conv", "depthwise", "transposed", "linear", "product"]
Count = int | npt.NDArray[np.int64]
"""A number of units or channels, or an array of such numbers to be priced at once."""
Counts = Mapping[str, int]
"""Group key -> units kept. A group that is absent is kept whole."""
QUERY_KEY, VALUE = "query and key dims", "value dims"
"""Roles of sites that attention has, beside its heads."""


@dataclass(frozen=True)
class Sparsity:
    """Weights of one layer of which a plan keeps a share: so many of `levels` equal parts."""

    key: str
    pattern: Pattern
    levels: int

    def density(self, counts: Mapping[str, Any]) -> Any:
        """The share that stays of the weights there are: a number, or an array where the counts are arrays."""
        return counts.get(self.key, self.levels) / self.levels


@dataclass(frozen=True)
class Matrix:
    """How a layer's operator takes its operand and its weight, where both are told apart row by row.

    The rows of all examples are a row-major product of `rows`, in which 0 stands for the number of examples; of a
    convolution, the pictures are.
    """

    rows: tuple[int, ...]
    runs: int
    """How often the operator runs in a pass, each time on so many rows."""
    out_first: bool = True
    """Whether the parameter is [out, in], and not [in, out]; of a convolution it is as torch has it."""
    before: Extent = whole(0)  # noqa: RUF009  # frozen
    """What of the parameter's outputs other layers have, before this one's begin (queries before keys)."""
    alone: bool = True
    """Whether nothing else uses the weight (an embedding, a layer that is tied): only such may be fitted."""
    bias: str = ""
    """The parameter that is added to the outputs; it has the same parts as the weight."""


@dataclass(frozen=True)
class Layer:
    """Facts of one sum of products, in the order of the forward pass: by a weight, or (`product`) of two activations.

    `positions` is how many times each weight is used for one example, and `repeats` how many times more, where that
    can be cut (heads): MACs = positions * repeats * weights. `once` says that the layer runs once in a forward pass, on
    one row of its input for each example, as its class in torch does. `split` are the groups of a grouped convolution.
    `norm` names the batch norm that alone reads this layer's output. Where the output then runs into a residual
    sum, `shortcut` names the value that is added to it.
    `sparsities` are there where a plan may thin the weights out, the coarser first: blocks leave, then single weights
    of the blocks that stay.
    """

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: int
    groups: int
    in_hw: tuple[int, ...]
    out_hw: tuple[int, ...]
    positions: int
    itemsize: int
    inputs: Extent
    outputs: Extent
    split: Extent = whole(1)  # noqa: RUF009  # frozen
    repeats: Extent = whole(1)  # noqa: RUF009  # frozen
    weight: str = ""
    """The parameter; empty for a product of activations."""
    once: bool = field(default=True, repr=False)
    matrix: Matrix | None = field(default=None, repr=False)
    """What ranking and refits have to know; None where rows of the operand are not told apart by examples."""
    norm: str | None = None
    shortcut: Value | None = None
    sparsities: tuple[Sparsity, ...] = field(default=(), repr=False)

    def at(self, counts: Mapping[str, Any]) -> Layer:
        """The layer with as many groups, and run as often, as these counts leave (arrays, where those are)."""
        if not self.split.groups and not self.repeats.groups:
            return self
        often = self.repeats.size(counts) * (self.positions // self.repeats.length)
        return replace(self, groups=self.split.size(counts), positions=often)

    def densities(self, counts: Counts | Mapping[str, Any]) -> tuple[Any, ...]:
        """What each of the sparsities keeps of what those before it have left: numbers, or arrays."""
        return tuple(each.density(counts) for each in self.sparsities)

    @property
    def blocks(self) -> Sparsity | None:
        """The sparsity of blocks, which a kernel can skip; it comes first."""
        return next((each for each in self.sparsities if not each.pattern.fine), None)

    @property
    def keys(self) -> frozenset[str]:
        """Of all that a plan decides about this layer."""
        extents = (self.inputs, self.outputs, self.split, self.repeats)
        return frozenset((*(key for each in extents for key in each.groups), *(each.key for each in self.sparsities)))

    def weights(self, keep_in: Any, keep_out: Any) -> Any:
        """Elements of the weight tensor once `keep_in` input and `keep_out` output channels are left (or arrays)."""
        area = int(np.prod(self.kernel))
        if self.kind == "depthwise":
            return keep_out * area
        # See `at`; of groups that keep nothing there are none.
        groups = max(self.groups, 1) if isinstance(self.groups, int) else np.maximum(self.groups, 1)
        return keep_out * keep_in * area // groups

    @property
    def features(self) -> int:
        """Inputs that one output channel sees: input channels of its group times kernel area."""
        return int(self.weights(self.in_channels, self.out_channels)) // self.out_channels

    @property
    def passes(self) -> float:
        """How often a pass of the network goes over as much output as the layer's first call: 1 where it runs once.

        A linear layer's rows count, where it reads several of each example.
        """
        return self.positions / max(int(np.prod(self.out_hw)), 1)

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense layer for one example."""
        return self.positions * int(self.weights(self.in_channels, self.out_channels))


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the units of a group lie on one side of one layer: `index[u]` are the positions of unit u."""

    module: str
    side: Side
    index: Index


@dataclass(frozen=True)
class Held:
    """One parameter or buffer: what each of its dimensions is made of, and what it takes."""

    name: str
    extents: tuple[Extent, ...]
    itemsize: int
    trained: bool
    stored: bool = True
    """Whether it is saved with the network."""
    layer: str = ""
    """The layer whose weight it is, if it is one."""

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Keys of the sites that any dimension is made of."""
        return tuple(dict.fromkeys(key for extent in self.extents for key in extent.groups))

    def size(self, counts: Mapping[str, Any]) -> Any:
        """Elements left: a number, or an array where the counts are arrays."""
        size: Any = 1
        for extent in self.extents:
            size = size * extent.size(counts)
        return size


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """One site: what may go unit by unit, in every tensor at once (channels of a stream, attention heads, ...).

    A unit is the smallest set of channels that can be cut. `role` says what the units are. `fixed` says why the group
    has to stay whole; it is empty where the group can be pruned.
    """

    key: str
    width: int
    slices: tuple[Slice, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    role: str = "channels"
    stream: bool = False
    mixed: str = ""
    """The operation over the group, such as a layer norm, by which what is left changes too."""
    fixed: str = ""
    entry: bool = False
    """Whether it is one layer's choice of its own input channels (see `entries`)."""
    bypass: bool = False
    """Whether it may keep nothing: then its residual branch is left out (see `branches`)."""

    @property
    def made(self) -> tuple[Slice, ...]:
        """Where the units are made; queries and keys that one layer makes are two."""
        made = tuple(part for part in self.slices if part.side == "out")
        if self.role == QUERY_KEY and len(made) == 1 and made[0].index.shape[1] % 2 == 0:
            halves = np.split(made[0].index, 2, axis=1)
            return tuple(Slice(made[0].module, "out", half) for half in halves)
        return made

    @property
    def layers(self) -> tuple[str, ...]:
        """Who makes the channels; for an entry, which nobody makes for it, the layer that picks them."""
        return self.producers or self.consumers


@dataclass(frozen=True, eq=False)
class ModelGraph:
    """The traced network: layers and groups in forward order, its tensors, and the dense costs of one example."""

    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    dense: Costs
    tensors: tuple[Held, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    sizes: tuple[StatedSize, ...] = ()
    norms: tuple[tuple[str, str, int], ...] = ()
    """Of weights of given norms: the parameter of the norms, that of the directions, and the dimension between."""
    spectra: tuple[tuple[str, str, str], ...] = ()
    """Of weights under a spectral norm: the left singular vector, the weight, and the right one."""

    @property
    def stated_alone(self) -> tuple[Attribute, ...]:
        """The attributes that torch's own modules have; others are found by their names and values."""
        return tuple(each for each in self.attributes if not each.guessed)

    @cached_property
    def layer(self) -> Mapping[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def tensor(self) -> Mapping[str, Held]:
        """Parameters and buffers by name."""
        return {held.name: held for held in self.tensors}

    @cached_property
    def group(self) -> Mapping[str, ChannelGroup]:
        """Groups by key."""
        return {group.key: group for group in self.groups}

    @cached_property
    def sparse(self) -> Mapping[str, Layer]:
        """Layers that may be sparse, by the key of each of their sparsities."""
        return {each.key: layer for layer in self.layers for each in layer.sparsities}

    @cached_property
    def sparsity(self) -> Mapping[str, Sparsity]:
        """Sparsities by key."""
        return {each.key: each for layer in self.layers for each in layer.sparsities}

    def width(self, key: str) -> int:
        """Units of the group, or levels of the sparsity, that is called `key`."""
        group = self.group.get(key)
        return self.sparsity[key].levels if group is None else group.width

    def layers_of(self, key: str) -> tuple[str, ...]:
        """The layers where the group, or the sparsity, that is called `key` is decided."""
        return (self.sparse[key].name,) if key in self.sparse else self.group[key].layers

    @property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """The groups that can be cut, in forward order."""
        return tuple(group for group in self.groups if not group.fixed)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name the architecture: every layer, every group, every index."""
        digest = hashlib.sha256(repr((self.layers, self.dense)).encode())
        for group in self.groups:
            digest.update(f"{group.key} {group.width} {bool(group.fixed)}".encode())
        digest.update(repr(self.tensors).encode())
        return digest.hexdigest()[:16]
